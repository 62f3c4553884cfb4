"""Reading a routed topic without the router's repeats.

A router that crashed writes again what it had written since its last commit: in the same order, into the same partition.
So a reader needs one number for each partition and plan: the highest raw offset that it has taken. Everything at or below
it has been seen. The number travels in the commit metadata, for the next owner (docs/delivery.md).
"""

import orjson

from stream.records import Record

ID_HEADER = "sluice-id"
PLAN_HEADER = "sluice-plan"
PLANS = 16
"""How many plans are remembered, the newest."""


class Reader:
    """Which records of one routed partition were taken before."""

    def __init__(self, note: str = "") -> None:
        """`note`: the commit metadata where reading starts, "" at a first start."""
        self.seen: dict[str, int] = {}
        if note:
            self.seen.update(orjson.loads(note).get("seen", {}))

    def note(self) -> str:
        """The commit metadata that stands for all that was taken until now."""
        return orjson.dumps({"v": 1, "seen": self.seen}).decode()

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
