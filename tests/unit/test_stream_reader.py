"""One number for each plan is enough to read a routed topic without the repeats of a crashed router."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.reader import PLANS, Reader
from stream.records import Headers


@dataclass
class Routed:
    offset: int
    raw: int
    plan: str = "100.aaaa"
    timestamp: int = 0
    key: bytes | None = None
    value: bytes | None = b"{}"
    headers: Headers = field(default=())

    def __post_init__(self) -> None:
        self.headers = [("sluice-id", b"raw/0/%d" % self.raw), ("sluice-plan", self.plan.encode())]


@given(
    wanted=st.lists(st.booleans(), min_size=1, max_size=60),
    crashes=st.lists(st.tuples(st.integers(0, 59), st.integers(1, 30)), max_size=6),
    restarts=st.lists(st.integers(0, 200), max_size=6),
)
def test_every_record_is_taken_once_and_in_order_whenever_router_and_reader_crash(
    wanted: list[bool], crashes: list[tuple[int, int]], restarts: list[int]
) -> None:
    """`wanted`: which raw records belong to this topic. A crash at a raw offset goes back some records, to what was
    committed; the router writes again everything from there. A reader restarts from any offset that it committed."""
    log: list[Routed] = []
    todo = dict(crashes)
    raw = 0
    while raw < len(wanted):
        if wanted[raw]:
            log.append(Routed(len(log), raw))
        back = todo.pop(raw, None)
        raw = raw + 1 if back is None else max(0, raw - back)
    taken: list[int] = []
    reader, restart_at = Reader(), set(restarts)
    for record in log:
        if record.offset in restart_at:
            reader = Reader(reader.note())
        if reader.take("events.success", 0, record) is not None:
            taken.append(record.raw)
    assert taken == [number for number, one in enumerate(wanted) if one]


def test_a_record_under_a_new_plan_is_taken_though_it_was_seen_under_the_old_one() -> None:
    reader = Reader()
    assert reader.take("t", 0, Routed(0, 5)) == "raw/0/5"
    assert reader.take("t", 0, Routed(1, 5, plan="100.bbbb")) == "raw/0/5"
    assert reader.take("t", 0, Routed(2, 5)) is None


def test_the_oldest_plan_is_forgotten_first() -> None:
    reader = Reader()
    for epoch in range(PLANS + 1):
        reader.take("t", 0, Routed(epoch, 7, plan=f"{epoch + 1}.aaaa"))
    assert len(reader.seen) == PLANS
    assert "1.aaaa" not in reader.seen
    assert f"{PLANS + 1}.aaaa" in reader.seen


def test_of_plans_of_one_epoch_the_one_that_was_not_used_for_longest_is_forgotten_first() -> None:
    """A config that was changed often and went back to its first form: a late write under that one is still a repeat."""
    reader = Reader()
    for number, plan in enumerate([*range(PLANS), 0, PLANS]):
        reader = Reader(reader.note())
        reader.take("t", 0, Routed(number, number, plan=f"100.{plan}"))
    assert "100.1" not in reader.seen
    assert reader.take("t", 0, Routed(99, PLANS, plan="100.0")) is None


def test_a_record_of_a_foreign_producer_passes_under_its_own_place() -> None:
    record = Routed(9, 0)
    record.headers = [("trace", b"x")]
    assert Reader().take("events.success", 3, record) == "events.success/3/9"


@pytest.mark.parametrize(
    "headers",
    [
        [("sluice-id", b"raw/0/x"), ("sluice-plan", b"100.aaaa")],
        [("sluice-id", b"\xff"), ("sluice-plan", b"100.aaaa")],
        [("sluice-id", b"raw/0/5"), ("sluice-plan", b"no epoch")],
        [("sluice-id", None), ("sluice-plan", b"100.aaaa")],
        [("sluice-id", b"raw/0/5")],
    ],
)
def test_headers_that_no_router_wrote_are_no_reason_to_stop(headers: Headers) -> None:
    record = Routed(9, 0)
    record.headers = headers
    reader = Reader()
    assert reader.take("events.success", 3, record) == "events.success/3/9"
    assert reader.seen == {}


def test_the_note_of_sixteen_plans_fits_the_brokers_limit_for_commit_metadata() -> None:
    reader = Reader()
    for epoch in range(PLANS):
        reader.take("t", 0, Routed(0, 2**62, plan=f"{1_800_000_000 + epoch}.{'f' * 16}"))
    assert len(reader.note()) < 4096
