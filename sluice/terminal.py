"""Output that may be on a terminal: there records are shown without what the terminal would obey."""

import sys
from collections.abc import Iterable
from typing import BinaryIO, cast

from schemas.masking import visible


def stdout() -> BinaryIO:
    """Standard output, in bytes, to be written in whole lines. On a terminal what is not printable comes as its code
    (`\\u001b`), which in JSON is the same, and in CSV looks as that text would; in a file or pipe every byte comes as it is."""
    out = sys.stdout.buffer
    return cast(BinaryIO, _Shown(out)) if out.isatty() else out


class _Shown:
    def __init__(self, out: BinaryIO) -> None:
        self._out = out

    def write(self, text: bytes) -> int:
        return self._out.write(visible(text.decode(errors="replace")).encode())

    def writelines(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._out.flush()
