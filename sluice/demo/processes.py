"""Child processes of the demo: each with a log file, and none that outlives the demo, even by kill -9."""

import asyncio
import contextlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from sluice.tether import tethered

_ADDRESS = re.compile(r"on http://(127\.0\.0\.1:\d+)")


class ProcessEnded(Exception):
    """A process ended that should have run on, or did not answer in time. The text ends in the last lines of its log."""


class Process:
    """`python ARGUMENTS...` with stdout and stderr appended to `log`. Start it in the main thread.

    Python's `-P`: the directory that the demo was called in may hold a `schemas` of its own.
    """

    def __init__(self, name: str, arguments: Sequence[str], log: Path) -> None:
        self.name, self.log = name, log
        self._address: str | None = None
        with log.open("ab") as out:
            self._log_begin = out.tell()
            # A session of its own: Ctrl-C reaches the demo alone, which then ends things in order.
            self._popen = subprocess.Popen(  # noqa: S603  our own Python and modules
                tethered([sys.executable, "-P", *arguments]),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; minus the signal's number if one ended it."""
        return self._popen.poll()

    @property
    def address(self) -> str | None:
        """`127.0.0.1:PORT` as the process has logged it ("... on http://..."); None before that."""
        if self._address is None:
            found = _ADDRESS.search(self._written())
            self._address = found and found.group(1)
        return self._address

    async def wait_for_address(self, seconds: float = 30.0) -> str:
        """The address, as soon as it is there. Raises ProcessEnded when the process ends, or is silent for so long."""
        deadline = time.monotonic() + seconds
        while self.address is None:
            if self.exit_code is not None:
                raise ProcessEnded(f"{self.name} ended with {self.exit_code}:\n{self.last_lines()}")
            if time.monotonic() > deadline:
                raise ProcessEnded(f"{self.name} was not there after {seconds:.0f} s:\n{self.last_lines()}")
            await asyncio.sleep(0.05)
        return self.address

    async def wait(self, seconds: float) -> int | None:
        """The exit code, or None if it still runs after so many seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._popen.wait, max(0.0, seconds))
        return self.exit_code

    def terminate(self) -> None:
        """SIGTERM. Harmless if it has ended."""
        self._popen.send_signal(signal.SIGTERM)

    def kill(self) -> bool:
        """kill -9, and wait for the end. True if that is what ended it."""
        self._popen.kill()
        return self._popen.wait() == -signal.SIGKILL

    def last_lines(self, count: int = 12) -> str:
        """The last lines that this process has logged."""
        return "\n".join(self._written().splitlines()[-count:])

    def _written(self) -> str:
        with self.log.open("rb") as log:
            log.seek(self._log_begin)
            return log.read(1_000_000).decode(errors="replace")
