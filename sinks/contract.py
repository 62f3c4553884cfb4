"""What every sink is: three methods, a batch in, a verdict for each record out.

A sink never buffers, sleeps, retries, counts or commits: the runner in `agents/delivery.py` does, once, for all of
them. A sink raises nothing for what the outside system does, but `Conflict`; any other exception that leaves `write`
is a fault of ours and ends the worker.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import orjson
from pydantic import AfterValidator

Refusal = Literal["too-large", "rejected"]
"""Why a sink refuses a record for good: the closed list of codes that dead letters of a stream carry."""


def _has_a_name(name: str | None) -> str | None:
    if name == "":
        raise ValueError("is empty; name a field, or null to leave it out")
    return name


IdField = Annotated[str | None, AfterValidator(_has_a_name)]
"""The name under which a body carries its record's origin; None leaves it out."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One record to deliver. `value` is a JSON object in UTF-8; `origin` is its `sluice-id`."""

    offset: int
    timestamp: int
    """Milliseconds since 1970, as the record carries it on the routed topic."""
    origin: str
    value: bytes

    def body(self, id_field: str | None) -> bytes:
        """`value` with the origin as its first key, named `id_field`; `value` itself if that is None. Nothing is
        parsed."""
        if id_field is None:
            return self.value
        rest = self.value.lstrip()[1:]
        comma = b"" if rest.lstrip()[:1] == b"}" else b","
        return b"{%b:%b%b%b" % (orjson.dumps(id_field), orjson.dumps(self.origin), comma, rest)


class Conflict(Exception):
    """What stands in the outside system contradicts what was to be written: somebody else's object under our key, or
    a link of the chain that cannot be read. Trying again would not help, and going on would lose or overwrite
    something: the runner halts this partition, raises an alert and leaves the others alone. Its text names the place,
    never a record's content."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """Records of one routed partition, in offset order, from the offsets `[start, end)`. Fewer records than offsets
    is normal."""

    topic: str
    partition: int
    start: int
    end: int
    records: Sequence[Outgoing]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one record.

    delivered: the outside system has acknowledged it. again: try later, not before `after` seconds if given. refused:
    it will never be taken; it goes to the stream's dead letters. `reason` is a `Refusal` code for refused, a short
    code for again.
    """

    outcome: Literal["delivered", "again", "refused"]
    reason: str = ""
    after: float | None = None


DELIVERED = Verdict("delivered")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `sluice check`: `text` says what was looked at and found, `remedy` what to do. Never a secret.

    error: only another configuration cures it. unavailable: it is cured outside (a service that is down, a bucket
    that is not there yet, a right that is not granted). warning: writing works, and somebody should know.
    """

    level: Literal["ok", "warning", "error", "unavailable"]
    text: str
    remedy: str = ""


class Sink(Protocol):
    """An outside system that records are delivered to."""

    async def check(self) -> Sequence[Finding]:
        """Look whether writing would work, with no right that `write` does not need. Raises nothing; bounded in time
        (10 s)."""
        ...

    async def write(self, delivery: Delivery) -> Sequence[Verdict]:
        """Write the records and return one verdict for each, in order. Bounded in time: every network call has a
        time-out.

        Called again with the records whose verdict was `again`, so a repeated write must be harmless or documented as
        a duplicate. Never called twice at once for one partition; calls for different partitions may overlap. Raises
        `Conflict`.
        """
        ...

    async def close(self) -> None:
        """Give up connections. Safe to call twice."""
        ...
