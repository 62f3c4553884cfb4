"""How far a worker is with reading its references, for those who wait for it."""

import logging
import os
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sluice import crashes

log = logging.getLogger(__name__)

SAY_SECONDS = 3.0


class Loading:
    """The `Progress` of a `ReferenceReader`, in a `with` statement: a bar on a terminal that this process has to itself, else a
    line in the log every few seconds."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        if sys.stderr.isatty() and crashes.VARIABLE not in os.environ:  # those of `sluice up` share one
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("loading references", total=None)
        self._said = float("-inf")

    def __call__(self, read: int, total: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=read, total=total)
        elif read < total and time.monotonic() - self._said >= SAY_SECONDS:
            self._said = time.monotonic()
            log.info("Loading references: %s of %s offsets are read.", f"{read:,}", f"{total:,}")

    def __enter__(self) -> "Loading":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
