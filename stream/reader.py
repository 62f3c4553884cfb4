"""Reading a routed topic without the router's repeats.

A router that crashed writes again what it had written since its last commit: in the same order, into the same partition.
So a reader needs one number for each partition and plan: the highest raw offset that it has taken. Everything at or below
it has been seen. The number travels in the commit metadata, for the next owner (docs/delivery.md).
"""

from collections.abc import Iterator

import orjson

from stream.records import Record, RecordBatch

ID_HEADER = "sluice-id"
PLAN_HEADER = "sluice-plan"
PLANS = 16
"""How many plans are remembered, the newest."""


class Reader:
    """The records of one routed partition, each once. `repeats` counts what was dropped."""

    def __init__(self, note: str = "") -> None:
        """`note`: the commit metadata where reading starts, "" at a first start."""
        self.seen: dict[str, int] = {}
        self.repeats = 0
        if note:
            self.seen.update(orjson.loads(note).get("seen", {}))

    def note(self) -> str:
        """The commit metadata that stands for all that was taken until now."""
        return orjson.dumps({"v": 1, "seen": self.seen}).decode()

    def take(self, batch: RecordBatch) -> Iterator[tuple[Record, str]]:
        """The records of `batch` that were not taken before, each with its `sluice-id`.

        A record that no router wrote has no `sluice-id`: it passes, under its own topic, partition and offset.
        """
        seen = self.seen
        for record in batch.records:
            origin = plan = None
            for name, value in record.headers:
                if name == ID_HEADER:
                    origin = value.decode()
                elif name == PLAN_HEADER:
                    plan = value.decode()
            if origin is None or plan is None:
                yield record, f"{batch.topic}/{batch.partition}/{record.offset}"
                continue
            offset = int(origin[origin.rfind("/") + 1 :])
            highest = seen.get(plan)
            if highest is None and len(seen) >= PLANS:
                del seen[min(seen, key=_epoch)]
            elif highest is not None and offset <= highest:
                self.repeats += 1
                continue
            seen[plan] = offset
            yield record, origin


def _epoch(plan: str) -> int:
    return int(plan.partition(".")[0])
