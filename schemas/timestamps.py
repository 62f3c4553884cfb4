"""Timestamps: the form of the contract, `2021-10-27T08:38:02.000Z`, and the other forms that are known to be written."""

import re
from datetime import datetime, timedelta

_DAY = "[0-9]{4}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9])|(?:0[13-9]|1[0-2])-30|(?:0[13578]|1[02])-31)"
_MINUTE = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_SECOND = r"(?:[0-5][0-9]|60)(?:\.[0-9]+)?"

UTC = rf"{_DAY}T{_MINUTE}:{_SECOND}Z"
"""The form of the contract, as a regular expression: UTC, ISO 8601, any number of places. 29 February is in every year, for the
fast path goes by this expression alone."""

_KNOWN = re.compile(
    rf"({_DAY})[Tt ]({_MINUTE}):({_SECOND})(?:[Zz]|([+-])([01][0-9]|2[0-3])(?::?([0-5][0-9]))?)?", re.ASCII
)


def in_utc(text: str) -> str | None:
    """A timestamp in the form of the contract; None for text that has no known form. Without a zone it is UTC already."""
    found = _KNOWN.fullmatch(text)
    if found is None:
        return None
    day, minute, second, sign, hours, minutes = found.groups()
    ahead = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    if ahead:
        try:
            there = datetime.fromisoformat(f"{day}T{minute}")
            utc = there - ahead if sign == "+" else there + ahead
        except (ValueError, OverflowError):  # 29 February of another year; before the year 1 or after 9999
            return None
        day, minute = utc.isoformat(timespec="minutes").split("T")
    return f"{day}T{minute}:{second}Z"
