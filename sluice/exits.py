"""Exit codes of the command line (sysexits.h), and the error that carries one."""

from enum import IntEnum


class Exit(IntEnum):
    """What a process says with its exit code."""

    DONE = 0
    FAILED = 1
    BREAKS_SCHEMA = 2
    USAGE = 64
    UNAVAILABLE = 69
    INTERNAL = 70
    CONFIG = 78


class UserError(Exception):
    """Something that the user can put right. Shown as its text alone, without a stack trace; the text says what to do."""

    def __init__(self, text: str, code: Exit) -> None:
        super().__init__(text)
        self.code = code
