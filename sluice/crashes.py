"""Where a worker crashed, told to its supervisor: one small JSON file, whose name is in the worker's environment."""

import contextlib
import json
import os
from dataclasses import asdict
from pathlib import Path

from stream.assignment import InWork, WorkFailed

VARIABLE = "SLUICE_CRASH_FILE"


def report(error: BaseException) -> None:
    """In the worker: leave behind what was in work when `error` ended it, if that is known and somebody asked. Raises nothing.

    Holds topic, partition and offsets, nothing of a record.
    """
    file = os.environ.get(VARIABLE)
    if file and isinstance(error, WorkFailed):
        with contextlib.suppress(OSError):
            Path(file).write_text(json.dumps(asdict(error.at)))


def take(file: Path) -> InWork | None:
    """In the supervisor: what a worker has left behind, once. None if it left nothing that can be read."""
    try:
        text = file.read_text()
        file.unlink()
        return InWork(**json.loads(text))
    except (OSError, ValueError, TypeError):
        return None
