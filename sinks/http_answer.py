"""What an HTTP answer means for the records that were sent: a table, and the time that the receiver asks for."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from sinks.contract import DELIVERED, Verdict

LONGEST_WAIT = 3600.0
"""The most that a receiver's Retry-After can hold us off, in seconds."""

# What is wrong with the address, the credentials or the moment is no record's fault: an operator can put it right, and
# until then nothing may be lost. So these are tried again, beside every 3xx (redirects are not followed) and 5xx.
_AGAIN = frozenset({401, 402, 403, 404, 405, 407, 408, 421, 423, 425, 429})
_NEVER = frozenset({501, 505})


def verdict(status: int, retry_after: str | None, now: datetime) -> Verdict:
    """The verdict for one record, or for a bulk that is judged as one.

    2xx: delivered. 3xx, 5xx but 501 and 505, and 4xx that are not about the record: again, not before Retry-After.
    413: refused as too large. All else: refused.
    """
    if 200 <= status < 300:
        return DELIVERED
    if status in _AGAIN or 300 <= status < 400 or (status >= 500 and status not in _NEVER):
        return Verdict("again", f"http-{status}", wait(retry_after, now))
    return Verdict("refused", "too-large" if status == 413 else "rejected")


def wait(retry_after: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for (a number, or an HTTP date), from 0 to 3600; None without a readable
    one."""
    if retry_after is None:
        return None
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        seconds = float(text[:9])
    else:
        try:
            date = parsedate_to_datetime(text)
        except ValueError:
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds()
    return min(max(seconds, 0.0), LONGEST_WAIT)
