"""Times as people give and read them: ISO 8601 with a zone."""

from datetime import UTC, date, datetime, time, timedelta

from sluice.exits import Exit, UserError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parsed(option: str, text: str, others: str = "") -> datetime:
    """A time with Z or an offset; a date alone is its midnight in UTC. Raises UserError, which names the option and the
    `others` that it takes."""
    try:
        return datetime.combine(date.fromisoformat(text), time(), UTC)
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        wanted = f"says no place; give {others}, or a time" if others else "is no time; give one"
        raise UserError(f"{option} {text} {wanted} such as 2026-11-22T10:00:00Z", Exit.USAGE) from None
    if found.tzinfo is None:
        raise UserError(
            f"{option} {text} does not say in which zone; write {text}Z for UTC, or an offset such as {text}+01:00",
            Exit.USAGE,
        )
    return found


def shown(milliseconds: int) -> str:
    """A record's timestamp in UTC, to the second; in milliseconds where no calendar has it."""
    try:
        return (_EPOCH + timedelta(milliseconds=milliseconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    except OverflowError:
        return f"{milliseconds} ms"
