"""The reader against a model of all that writes into a routed topic: routers that crash, zombies, changed routes, `sluice start`.

What docs/delivery.md gives readers to copy must say the same as our own reader.
"""

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stream.reader import PLANS, Reader
from stream.records import Headers

TOPICS = 2
PAGE = Path(__file__).parents[2] / "docs" / "delivery.md"


@dataclass
class Routed:
    topic: str
    offset: int
    raw: int
    plan: str
    partition: int = 0
    timestamp: int = 0
    key: bytes | None = None
    value: bytes | None = b"{}"
    headers: Headers = field(default=())

    def __post_init__(self) -> None:
        self.headers = [("sluice-id", b"raw/0/%d" % self.raw), ("sluice-plan", self.plan.encode())]


def route(plan_hash: int, raw: int) -> int:
    """The topic that a record belongs to under these routes: every change of them moves about half of the records."""
    return (raw * 2654435761 >> (plan_hash % 16)) % TOPICS


class Router:
    """Reads on from its offset; each topic gets its records in order, at a pace of its own."""

    def __init__(self, position: int, epoch: int, plan_hash: int) -> None:
        self.position, self.plan_hash = position, plan_hash
        self.plan = f"{epoch}.{plan_hash:016x}"
        self.waiting: list[deque[int]] = [deque() for _ in range(TOPICS)]

    def read(self, count: int) -> None:
        for raw in range(self.position, self.position + count):
            self.waiting[route(self.plan_hash, raw)].append(raw)
        self.position += count

    @property
    def settled(self) -> int:
        return min([self.position, *(one[0] for one in self.waiting if one)])


class History:
    """One raw partition, its owner, its zombies, and readers of both routed topics that follow at once."""

    def __init__(self, take: Callable[[int, Routed], bool]) -> None:
        self._take = take
        self.committed, self.epoch, self.hash, self.ends = 0, 1, 0, [0] * TOPICS
        self.owner = Router(0, 1, 0)
        self.zombies: list[Router] = []
        self.taken: list[tuple[int, int, str]] = []
        self.plans = {self.owner.plan}
        self.settled_to = {1: 0}
        """By epoch, the highest offset that was committed under it: what is before that has been taken."""

    def write(self, router: Router, topic: int, count: int) -> None:
        for _ in range(min(count, len(router.waiting[topic]))):
            record = Routed(f"t{topic}", self.ends[topic], router.waiting[topic].popleft(), router.plan)
            self.ends[topic] += 1
            if self._take(topic, record):
                self.taken.append((topic, record.raw, record.plan))
            else:
                before = (topic, record.raw, record.plan) in self.taken
                settled = record.raw < self.settled_to[int(record.plan.partition(".")[0])]
                assert before or settled, f"{record} was dropped, and nobody had taken it"

    def commit(self) -> None:
        self.committed = self.settled_to[self.epoch] = self.owner.settled

    def replace(self, *, zombie: bool) -> None:
        """A new owner at the committed offset; the old one is dead, or still believes that it is the owner."""
        if zombie:
            self.zombies.append(self.owner)
        self.owner = Router(self.committed, self.epoch, self.hash)
        self.plans.add(self.owner.plan)


COUNT, TOPIC = st.integers(1, 8), st.integers(0, TOPICS - 1)
STEP = st.one_of(
    st.tuples(st.just("read"), COUNT),
    st.tuples(st.just("write"), TOPIC, COUNT),
    st.tuples(st.just("commit")),
    st.tuples(st.just("crash")),
    st.tuples(st.just("freeze")),
    st.tuples(st.just("zombie reads"), st.integers(0, 5), COUNT),
    st.tuples(st.just("zombie writes"), st.integers(0, 5), TOPIC, COUNT),
)
CHANGES = st.one_of(
    st.tuples(st.just("other routes"), st.integers(0, 200), st.booleans()),
    st.tuples(st.just("start"), st.integers(0, 100)),
)


def play(steps: list[Any], take: Callable[[int, Routed], bool]) -> History:
    """The history that these steps make, to its end: the last owner finishes what it has read, the zombies too."""
    on = History(take)
    for what, *given_ in steps:
        match what:
            case "read":
                on.owner.read(given_[0])
            case "write":
                on.write(on.owner, *given_)
            case "commit":
                on.commit()
            case "crash" | "freeze":
                on.replace(zombie=what == "freeze")
            case "zombie reads" if on.zombies:
                on.zombies[given_[0] % len(on.zombies)].read(given_[1])
            case "zombie writes" if on.zombies:
                on.write(on.zombies[given_[0] % len(on.zombies)], *given_[1:])
            case "other routes":
                on.hash = given_[0]
                on.replace(zombie=given_[1])
            case "start":  # all workers are stopped; frozen ones may wake up later
                on.epoch += 1
                on.committed = on.settled_to[on.epoch] = min(on.committed, given_[0])
                on.replace(zombie=True)
    for router in (on.owner, *on.zombies):
        for topic in range(TOPICS):
            on.write(router, topic, 10_000)
    on.commit()
    return on


def our_readers() -> Callable[[int, Routed], bool]:
    """A `Reader` for each topic, made anew from its own note before every record."""
    notes = [""] * TOPICS

    def take(topic: int, record: Routed) -> bool:
        reader = Reader(notes[topic])
        taken = reader.take(f"t{topic}", 0, record) is not None
        notes[topic] = reader.note()
        return taken

    return take


def documented_readers() -> Callable[[int, Routed], bool]:
    """The code that docs/delivery.md gives to readers, for all topics at once."""
    code = re.search(r"```python\n(seen = .*?)```", PAGE.read_text(), re.DOTALL)
    assert code is not None, "the page has no code for readers"
    place: dict[str, Any] = {}
    exec(code[1], place)
    return lambda _, record: bool(place["is_new"](record))


@settings(max_examples=300)
@given(st.lists(STEP, max_size=60))
def test_without_a_changed_plan_each_record_is_taken_exactly_once_and_in_order(steps: list[Any]) -> None:
    on = play(steps, our_readers())
    for topic in range(TOPICS):
        taken = [raw for place, raw, _ in on.taken if place == topic]
        assert taken == sorted(set(taken))
        assert set(taken) >= {raw for raw in range(on.committed) if route(0, raw) == topic}


@settings(max_examples=300)
@given(st.lists(st.one_of(STEP, STEP, CHANGES), max_size=80))
def test_across_changed_plans_nothing_is_dropped_that_nobody_had_taken(steps: list[Any]) -> None:
    """`History.write` asserts it for every record that is dropped; in the end each has been taken from one of the topics."""
    on = play(steps, our_readers())
    assert {raw for _, raw, _ in on.taken} >= set(range(on.committed))


ERA = st.tuples(
    CHANGES,
    st.tuples(st.just("read"), COUNT),
    *(st.tuples(st.just("write"), st.just(n), COUNT) for n in range(TOPICS)),
    STEP,
)


@settings(max_examples=60)
@given(st.lists(ERA, min_size=2 * PLANS, max_size=3 * PLANS))
def test_more_plans_than_are_remembered_cost_repeats_and_nothing_else(eras: list[Any]) -> None:
    on = play([step for era in eras for step in era], our_readers())
    assume(len({plan for _, _, plan in on.taken}) > PLANS)
    assert {raw for _, raw, _ in on.taken} >= set(range(on.committed))


@settings(max_examples=300)
@given(st.lists(st.one_of(STEP, STEP, CHANGES), max_size=100))
def test_the_documented_reader_and_ours_take_the_same(steps: list[Any]) -> None:
    ours, documented, answers = our_readers(), documented_readers(), list[tuple[bool, bool]]()

    def both(topic: int, record: Routed) -> bool:
        answers.append((ours(topic, record), documented(topic, record)))
        return answers[-1][0]

    on = play(steps, both)
    if len(on.plans) <= PLANS:
        assert all(one == other for one, other in answers)
    else:  # the documented one forgets no plan
        assert all(one >= other for one, other in answers)
