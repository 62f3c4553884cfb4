"""Logging of a process: one line an event on stderr, never a record's value."""

import logging
import os
import sys

QUIET = ("aiokafka", "faust", "mode", "botocore", "boto3", "urllib3", "aiohttp", "asyncio", "werkzeug")
"""Libraries whose DEBUG lines hold record values, request bodies or headers: they never log below INFO."""
CHATTY = ("faust", "mode", "aiokafka", "botocore", "boto3", "urllib3")
"""Libraries that speak of themselves while all is well."""


def configure(name: str, verbose: bool) -> None:
    """Log to stderr, each line with `name` and the process id."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if verbose else logging.INFO,
        format=f"%(asctime)s %(levelname)-7s {name}[{os.getpid()}] %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
    for library in QUIET:
        logging.getLogger(library).setLevel(logging.INFO)
    if not verbose:
        for handler in logging.getLogger().handlers:
            handler.addFilter(_WithoutLifecycle())
    for handler in logging.getLogger().handlers:
        handler.addFilter(_without_values)


def silence() -> None:
    """Keep libraries off stderr in a command that says itself, in its own words, what it found."""
    for library in QUIET:
        logging.getLogger(library).setLevel(logging.CRITICAL)


def _without_values(record: logging.LogRecord) -> bool:
    """mode logs what crashed a service with its repr and traceback, and the errors of parsers quote what they read."""
    if record.name.startswith(("faust", "mode", "stream.transport")):
        record.exc_info = record.exc_text = None
        if isinstance(record.args, tuple):
            record.args = tuple(type(one).__name__ if isinstance(one, BaseException) else one for one in record.args)
    return True


class _WithoutLifecycle(logging.Filter):
    """Leaves out what the libraries say of themselves while all is well."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            return not (
                record.name.startswith("aiokafka") and "GroupCoordinatorNotAvailableError" in record.getMessage()
            )
        return not record.name.startswith(CHATTY) and not record.getMessage().startswith("[^")
