"""Where a partition begins that has no offset to go on from, and the cases in which only a person can say it."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from aiokafka import TopicPartition

from stream.commits import Committed

Starts = Callable[
    [Mapping[TopicPartition, int], Mapping[TopicPartition, int]], Awaitable[Mapping[TopicPartition, Committed]]
]
"""Where partitions begin that no owner of ours has committed. Takes those without an offset, each with the beginning of its
log, and those whose offset an operator has set, with that offset. Answers with those that begin elsewhere. Raises NeedsStart."""


async def as_set(
    fresh: Mapping[TopicPartition, int], by_hand: Mapping[TopicPartition, int]
) -> Mapping[TopicPartition, Committed]:
    """The `Starts` of whoever takes what is set, and else the log's beginning."""
    return {}


class NeedsStart(Exception):
    """Where a partition goes on is for a person to say. The text says what was found, why, and how."""

    def __init__(self, found: str, name: str = "NAME") -> None:
        super().__init__(
            f"{found}. Nothing is skipped or repeated without you: stop all its workers, look what is missing, then say where"
            f" it goes on with `sluice start FILE {name} --from beginning|end|TIME`"
        )


class NoOffset(NeedsStart):
    """A pipeline has written records of a partition whose offset is gone."""

    def __init__(self, found: Mapping[TopicPartition, str], name: str) -> None:
        """`found`: what its outputs hold of each such partition."""
        where = " and ".join(f"{named(tps)}, of which its topics hold {said}" for said, tps in _grouped(found).items())
        super().__init__(
            f"{name} has no committed offset for {where}: its offsets were deleted or have expired, or the raw topic was made"
            " anew",
            name,
        )


class OffsetsGone(NeedsStart):
    """The log no longer holds the offset where a partition should go on."""

    def __init__(self, gone: Mapping[TopicPartition, tuple[int, int, int]], name: str) -> None:
        """`gone`: for each partition the offset to go on from, and the first offset and the end of its log."""
        super().__init__("; ".join(self._said(tp, *at) for tp, at in sorted(gone.items())), name)

    @staticmethod
    def _said(tp: TopicPartition, offset: int, begin: int, end: int) -> str:
        place = f"{tp.topic}/{tp.partition}"
        if offset < begin:
            return (
                f"{place} is processed up to offset {offset}, but its log begins at {begin}: retention or DeleteRecords took"
                f" up to {begin - offset} records that were not processed"
            )
        return (
            f"{place} is processed up to offset {offset}, but its log ends at {end}: the topic was made anew, or its end was"
            " lost in an unclean leader election"
        )


class TopicMadeAnew(NeedsStart):
    """Under a topic's name stands another topic than the one that was read."""

    def __init__(self, topics: Iterable[str], name: str) -> None:
        what = ", ".join(sorted(topics))
        super().__init__(
            f"{what} was deleted and made anew since {name} last read it: the position in the old one means nothing in the new",
            name,
        )


def named(partitions: Iterable[TopicPartition]) -> str:
    """`raw.events/0-3,7`: partitions by topic, for a sentence."""
    numbers: dict[str, list[int]] = {}
    for tp in sorted(partitions):
        numbers.setdefault(tp.topic, []).append(tp.partition)
    return ", ".join(f"{topic}/{_ranges(some)}" for topic, some in numbers.items())


def _ranges(numbers: Sequence[int]) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _grouped(found: Mapping[TopicPartition, str]) -> dict[str, list[TopicPartition]]:
    groups: dict[str, list[TopicPartition]] = {}
    for tp, said in found.items():
        groups.setdefault(said, []).append(tp)
    return groups
