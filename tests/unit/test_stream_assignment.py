"""A partition takes every offset into work or ends the process: a hole between two batches is never settled."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from stream.assignment import Assignment, Hole, Partition
from stream.commits import Committed, Fenced, Pin
from stream.progress import stages
from stream.records import BATCH_BYTES, BATCH_RECORDS, RecordBatch

TP = TopicPartition("raw", 0)
PAYLOAD = bytes(5_000_000)


class FakeCommits:
    def __init__(self, fenced: bool = False) -> None:
        self.fenced = fenced
        self.stored: list[Mapping[TopicPartition, Committed]] = []

    async def commit(self, pin: Pin, offsets: Mapping[TopicPartition, Committed]) -> None:
        if self.fenced:
            raise Fenced("generation 2")
        self.stored.append(dict(offsets))


def opened(commits: FakeCommits, budget: int = 10**6, partitions: int = 1) -> tuple[Assignment, list[BaseException]]:
    """An assignment whose work is to wait for the end."""
    crashes: list[BaseException] = []

    async def work(partition: Partition) -> None:
        while await partition.pause(60):
            pass

    assignment = Assignment(Pin(1, "m"), commits, work, crashes.append, budget)  # type: ignore[arg-type]  # a fake
    for number in range(partitions):
        assignment.open(TopicPartition("raw", number), Committed(10, "note"))
    return assignment, crashes


def records(count: int, size: int = 10) -> list[Any]:
    return [SimpleNamespace(key=None, value=b"x" * size, headers=[], offset=10 + number) for number in range(count)]


def seen_by(assignment: Assignment | None, **state: Any) -> Any:
    """A consumer as the watchdog sees it."""
    usual = {"joined": True, "generation": 1, "placing": False, "draining": False, "commits_stored": 0}
    return SimpleNamespace(current=assignment, last_fetch=lambda tp: None, **(usual | state))


async def test_a_fetch_that_does_not_go_on_where_the_last_one_ended_is_a_fault() -> None:
    assignment, _ = opened(FakeCommits())
    partition = assignment.partitions[TP]
    partition.fetched(records(5), 10, 15)
    with pytest.raises(Hole):
        partition.fetched(records(5), 16, 21)
    await assignment.drain(1)


async def test_offsets_without_a_record_belong_to_the_next_batch() -> None:
    assignment, _ = opened(FakeCommits())
    partition = assignment.partitions[TP]
    assert partition.fetched([], 10, 12) is None
    batch = partition.fetched(records(1), 12, 15)
    assert batch is not None
    assert (batch.start, batch.end) == (10, 15)
    await assignment.drain(1)


async def test_a_batch_that_gets_lost_on_the_way_to_the_agent_ends_the_process() -> None:
    assignment, crashes = opened(FakeCommits())
    partition = assignment.partitions[TP]
    partition.fetched(records(5), 10, 15)
    second = partition.fetched(records(5), 15, 20)
    assert second is not None
    partition.deliver(second)
    assert isinstance(crashes[0], Hole)
    await assignment.drain(1)


@given(st.lists(st.tuples(st.integers(1, 1500), st.integers(0, 3), st.sampled_from([10, 1000, 5_000_000])), max_size=8))
async def test_batches_that_wait_come_joined_with_every_record_offset_and_byte(
    fetches: list[tuple[int, int, int]],
) -> None:
    """Each fetch of some records, a gap behind them, and their size; all wait before the first is taken."""
    assignment, crashes = opened(FakeCommits())
    partition = assignment.partitions[TP]
    offset, sent = 10, []
    for count, gap, size in fetches:
        found = [
            SimpleNamespace(key=None, value=PAYLOAD[:size], headers=[], offset=offset + one) for one in range(count)
        ]
        batch = partition.fetched(found, offset, offset + count + gap)
        assert batch is not None
        sent += found
        offset = batch.end
        partition.deliver(batch)
    came: list[Any] = []
    held, at = partition.held_bytes, 10
    while came != sent:
        taken = await partition.next(1)
        assert taken is not None
        assert taken.start == at
        came += taken.records
        at, held = taken.end, held - taken.bytes
        assert len(taken) <= BATCH_RECORDS
        assert taken.bytes <= BATCH_BYTES or any(len(taken) == count for count, _, _ in fetches)
    assert (at, held, crashes) == (offset, 0, [])
    await assignment.drain(1)


async def test_small_batches_that_wait_are_one_batch() -> None:
    assignment, _ = opened(FakeCommits())
    partition = assignment.partitions[TP]
    for start in range(10, 60, 5):
        batch = partition.fetched(records(5), start, start + 5)
        assert batch is not None
        partition.deliver(batch)
    taken = await partition.next(1)
    assert taken is not None
    assert (taken.start, taken.end, len(taken)) == (10, 60, 50)
    await assignment.drain(1)


async def test_nothing_is_committed_of_an_assignment_that_has_ended() -> None:
    commits = FakeCommits()
    assignment, _ = opened(commits)
    partition = assignment.partitions[TP]
    span = partition.begin(15)
    assignment.abandon("the test says so")
    partition.settle(span, "", 0)
    with pytest.raises(Fenced):
        await assignment.commit()
    with pytest.raises(Fenced):
        await partition.adopt("note")
    assert commits.stored == []


async def test_a_fenced_commit_abandons_the_assignment() -> None:
    assignment, crashes = opened(FakeCommits(fenced=True))
    partition = assignment.partitions[TP]
    partition.settle(partition.begin(15), "", 0)
    with pytest.raises(Fenced):
        await assignment.commit()
    assert assignment.ended
    assert partition.closed
    assert not crashes


async def test_what_settles_is_committed_once_with_its_note() -> None:
    commits = FakeCommits()
    assignment, _ = opened(commits)
    partition = assignment.partitions[TP]
    partition.settle(partition.begin(15), "new", 0)
    await assignment.commit()
    await assignment.commit()
    assert commits.stored == [{TP: Committed(15, "new")}]
    await assignment.drain(1)


async def test_a_record_counts_as_unsettled_from_its_fetch_to_its_settlement_and_a_marker_behind_it_does_not() -> None:
    assignment, _ = opened(FakeCommits())
    partition = assignment.partitions[TP]
    assert partition.unsettled_seconds(1e12) == 0
    batch = partition.fetched(records(5), 10, 17)  # the offsets 15 and 16 hold markers
    assert batch is not None
    assert partition.unsettled_seconds(1e12) > 0
    partition.settle(partition.begin(15), "", batch.bytes)
    assert partition.unsettled_seconds(1e12) == 0
    await assignment.drain(1)


async def test_a_partition_that_holds_its_share_is_not_fetched_and_is_again_once_it_has_settled() -> None:
    assignment, _ = opened(FakeCommits(), budget=20_000, partitions=2)
    partition = assignment.partitions[TP]
    batch = partition.fetched(records(10, size=1000), 10, 20)
    assert batch is not None
    assert assignment.hungry() == [TopicPartition("raw", 1)]
    assignment.relief.clear()
    partition.settle(partition.begin(20), "", batch.bytes)
    assert assignment.relief.is_set()
    assert set(assignment.hungry()) == set(assignment.partitions)
    await assignment.drain(1)


async def test_offsets_without_a_record_settle_by_themselves_once_nothing_is_before_them() -> None:
    commits = FakeCommits()
    assignment, crashes = opened(commits)
    partition = assignment.partitions[TP]
    partition.fetched([], 10, 12)
    assert partition.offset == 10, "whoever has not asked for it keeps its offsets"
    partition.settle_gaps()
    assert partition.offset == 12
    batch = partition.fetched(records(3), 12, 15)
    assert batch is not None
    partition.deliver(batch)
    partition.fetched([], 15, 20)
    assert partition.offset == 12, "a marker passed what is in work before it"
    span = partition.begin(batch.end)
    assert partition.offset == 12
    partition.settle(span, "of the batch", batch.bytes)
    assert (partition.offset, partition.note) == (20, "of the batch")
    following = partition.fetched(records(1), 20, 21)
    assert following is not None
    partition.deliver(following)
    assert following.start == 20
    assert not crashes
    await assignment.commit()
    assert commits.stored == [{TP: Committed(20, "of the batch")}]
    await assignment.drain(1)


async def test_offsets_without_a_record_behind_a_batch_that_still_waits_do_not_settle() -> None:
    assignment, _ = opened(FakeCommits())
    partition = assignment.partitions[TP]
    partition.settle_gaps()
    partition.fetched(records(3), 10, 13)  # on its way through Faust's queues: not begun
    partition.fetched([], 13, 20)
    assert partition.offset == 10
    await assignment.drain(1)
    assert partition.offset == 10


async def test_work_that_hangs_is_seen_though_more_is_fetched() -> None:
    assignment, _ = opened(FakeCommits())
    partition = assignment.partitions[TP]
    consumer = seen_by(assignment)
    batch = partition.fetched(records(5), 10, 15)
    assert batch is not None
    partition.begin(batch.end)
    before = stages("events", consumer)["events: work on raw/0"]
    partition.fetched(records(5), 15, 20)
    assert stages("events", consumer)["events: work on raw/0"].signs == before.signs
    await assignment.drain(0)


async def test_a_batch_that_does_not_come_to_the_work_is_seen_though_the_work_asks_for_it_again_and_again() -> None:
    assignment, _ = opened(FakeCommits())
    partition = assignment.partitions[TP]
    batch = partition.fetched(records(5), 10, 15)
    assert batch is not None
    before = stages("s3", seen_by(assignment))["s3: hand-over of raw/0"]
    with pytest.raises(TimeoutError):
        await partition.next(0.01)
    partition.fetched(records(5), 15, 20)
    assert stages("s3", seen_by(assignment))["s3: hand-over of raw/0"] == before
    partition.deliver(batch)
    assert stages("s3", seen_by(assignment))["s3: hand-over of raw/0"] != before
    partition.deliver(RecordBatch("raw", 0, records(5), 15, 20))
    assert "s3: hand-over of raw/0" not in stages("s3", seen_by(assignment))
    await assignment.drain(0)


async def test_an_end_that_does_not_end_and_a_member_that_fell_out_of_its_group_are_seen() -> None:
    assert not stages("s3", seen_by(None))
    for state in ({"draining": True}, {"generation": -1}, {"joined": False}):
        assert list(stages("s3", seen_by(None, **state))) == ["s3: membership of the group"]


async def test_partitions_that_need_more_than_there_is_memory_get_it_one_after_the_other() -> None:
    assignment, _ = opened(FakeCommits(), budget=4000, partitions=3)
    partitions = list(assignment.partitions.values())
    first = partitions[0].fetched(records(40, 100), 10, 50)
    assert first is not None
    for partition in partitions[1:]:
        partition.fetched(records(5, 100), 10, 15)
    for partition in partitions:
        partition.needed_to = 100
    assert assignment.held_bytes > 4000
    assert [assignment.feeds(one) for one in partitions] == [True, False, False]
    rest = partitions[0].fetched(records(50, 100), 50, 100)
    assert rest is not None
    assert [assignment.feeds(one) for one in partitions] == [False, False, False], (
        "what it needs is here, and not settled"
    )
    partitions[0].settle(partitions[0].begin(100), "", first.bytes)
    assert [assignment.feeds(one) for one in partitions] == [False, True, False]
    await assignment.drain(0)
