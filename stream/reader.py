"""Reading a routed topic without the router's repeats.

A router that crashed writes again what it had written since its last commit: in the same order, into the same partition.
So a reader needs one number for each topic, partition and plan: the highest raw offset that it has taken. Everything at or below
it has been seen. The number travels in the commit metadata, for the next owner (docs/delivery.md).
"""

import msgspec

from stream.notes import parsed
from stream.records import Record

OWN_HEADERS = "sluice-"
"""What names of headers begin with that Sluice writes; those that a producer writes are removed."""
ID_HEADER = "sluice-id"
PLAN_HEADER = "sluice-plan"
PLANS = 16
"""How many plans are remembered: those of the newest epochs, and of one epoch those that were used last."""


class Reader:
    """Which records of one routed partition were taken before."""

    def __init__(self, note: str = "", topic_id: str = "") -> None:
        """`note`: the commit metadata where reading starts, "" at a first start. `topic_id`: of the topic that is read."""
        before = parsed(note)
        self._note = msgspec.structs.replace(before, v=1, id=topic_id or before.id)
        self.seen: dict[str, int] = dict(self._note.seen)

    def note(self) -> str:
        """The commit metadata that stands for all that was taken until now."""
        return msgspec.structs.replace(self._note, seen=self.seen).text()

    def take(self, topic: str, partition: int, record: Record) -> str | None:
        """The record's `sluice-id`, or None for one that was taken before. Records come in the order of their partition.

        A record that no router wrote has no `sluice-id`, or one that says nothing: it is taken, under its own topic,
        partition and offset.
        """
        found = _routed(record)
        if found is None:
            return f"{topic}/{partition}/{record.offset}"
        origin, offset, plan = found
        highest = self.seen.get(plan)
        if highest is not None and offset <= highest:
            return None
        if highest is None and len(self.seen) >= PLANS:
            del self.seen[min(self.seen, key=_epoch)]
        if next(reversed(self.seen), plan) != plan:  # the plan that was used last stands last
            self.seen.pop(plan, None)
        self.seen[plan] = offset
        return origin


def _routed(record: Record) -> tuple[str, int, str] | None:
    """`sluice-id`, the raw offset in it, and the plan; None where they are not as a router writes them."""
    origin = plan = None
    try:
        for name, value in record.headers:
            if name == ID_HEADER:
                origin = value.decode()
            elif name == PLAN_HEADER:
                plan = value.decode()
        if origin is None or plan is None:
            return None
        _epoch(plan)
        return origin, int(origin[origin.rfind("/") + 1 :]), plan
    except (ValueError, AttributeError):  # no number, no UTF-8, a header without a value
        return None


def _epoch(plan: str) -> int:
    return int(plan.partition(".")[0])


def origin_of(record: Record) -> str:
    """The record's `sluice-id`; "" without one that can be read."""
    return _header(record, ID_HEADER)


def plan_epoch(record: Record) -> int:
    """The epoch in the record's `sluice-plan`; 0 without one that can be read."""
    try:
        return _epoch(_header(record, PLAN_HEADER))
    except ValueError:
        return 0


def _header(record: Record, name: str) -> str:
    found = next((value for header, value in record.headers if header == name), None)
    return (found or b"").decode(errors="replace")
