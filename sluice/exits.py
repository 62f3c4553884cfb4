"""How a command ends: exit codes (sysexits.h), the error that carries one, and what is said of any other error."""

import sys
import traceback
from collections.abc import Iterable, Iterator
from enum import IntEnum

OURS = ("agents", "pipeline", "schemas", "sinks", "sluice", "stream")
KAFKA_ERRORS = "aiokafka.errors"


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


def ending(error: BaseException) -> tuple[str, Exit]:
    """What to write to stderr about an error that ended a command, and the exit code.

    Groups of errors, as tasks raise them, are seen as what they hold. Something of ours gets its stack trace; its text only
    if it is of a class of ours or the system's, because the errors of parsers quote what they read.
    """
    leaves = list(_leaves(error))
    for leaf in leaves:
        if isinstance(leaf, UserError):
            return f"sluice: {leaf}", leaf.code
    if all(isinstance(leaf, _outside()) and not _wraps_a_fault(leaf) for leaf in leaves) and not _stays(error, leaves):
        advice = (
            "; see that the brokers are there, then try again" if type(leaves[0]).__module__ == KAFKA_ERRORS else ""
        )
        return f"sluice: {_said(leaves[0])}{advice}", Exit.UNAVAILABLE
    lines = [line for leaf in leaves for line in _trace(leaf)]
    return "\n".join(
        [*lines, f"sluice: an internal fault{_place(error)}; report it with the lines above"]
    ), Exit.INTERNAL


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _leaves(one)
    else:
        yield error


def _outside() -> tuple[type[BaseException], ...]:
    """Errors of what is outside. Only of modules that are loaded: a command that did not use Kafka did not fail for it."""
    known = (
        (KAFKA_ERRORS, "KafkaError"),
        ("sluice.kafka_installation", "Missing"),
        ("sluice.local_kafka", "BrokerFailed"),
    )
    return tuple(getattr(sys.modules[module], name) for module, name in known if module in sys.modules)


def _place(error: BaseException) -> str:
    """What was in work, where an error knows."""
    known = sys.modules.get("stream.assignment")
    return f" at {error.at}" if known and isinstance(error, known.WorkFailed) else ""


def _wraps_a_fault(error: BaseException) -> bool:
    """Whether it is aiokafka's `KafkaError("Unexpected error during ...")` over an error that is no broker's."""
    cause = error.__cause__
    return (
        type(error).__module__ == KAFKA_ERRORS and cause is not None and not isinstance(cause, (*_outside(), OSError))
    )


def _stays(error: BaseException, leaves: Iterable[BaseException]) -> bool:
    """Whether it was met at a place in a partition and will be there again: a batch with a wrong checksum, an unknown codec."""
    return _place(error) != "" and any(not getattr(leaf, "retriable", True) for leaf in leaves)


def _trace(error: BaseException) -> list[str]:
    frames = [line for text in traceback.format_tb(error.__traceback__) for line in text.rstrip("\n").split("\n")]
    module = type(error).__module__
    ours = module.partition(".")[0] in OURS or module == KAFKA_ERRORS
    said = _said(error) if ours or isinstance(error, OSError | AssertionError) else ""
    if _wraps_a_fault(error):
        assert error.__cause__ is not None
        return [*_trace(error.__cause__), *frames, type(error).__name__]
    return [*frames, f"{type(error).__name__}: {said}" if said else type(error).__name__]


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
