"""Where the partitions of an assignment go on, and whether their topics are the ones that were read before."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, KafkaTimeoutError

from stream.assignment import Assignment
from stream.commits import Commits, Committed
from stream.notes import parsed
from stream.starting import NeedsStart, OffsetsGone, Starts, TopicMadeAnew
from stream.topic_ids import topic_ids

Ask = Callable[[Sequence[TopicPartition]], Awaitable[dict[TopicPartition, int]]]
RETRY_SECONDS = 0.2
SURE_SECONDS = 1.0
"""A broker that lags behind the controller may for a moment name the topic that was there before: it is asked twice."""


class Places:
    """Of one pipeline or stream, `name`, through its started consumer."""

    def __init__(self, name: str, consumer: AIOKafkaConsumer, commits: Commits, starts: Starts) -> None:
        self._name = name
        self._consumer = consumer
        self._commits = commits
        self._starts = starts
        self.topic_ids: dict[str, str] = {}
        """Of each topic, the id under which this process has read it first."""

    async def of(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Committed]:
        """Each at its committed offset, or where `starts` says. Raises NeedsStart. Waits for brokers as long as none answers."""
        while True:
            places = await self._commits.fetch(list(partitions))
            await self.look_at_topics(places)
            fresh = [tp for tp in partitions if tp not in places]
            by_hand = {tp: at.offset for tp, at in places.items() if parsed(at.note).v == 0}
            if not fresh and not by_hand:
                return places
            begins = await self._answered(self._consumer.beginning_offsets, fresh) if fresh else {}
            try:
                starts = await self._starts(begins, by_hand)
            except NeedsStart:
                if await self._commits.fetch(fresh):
                    continue  # what was found was written meanwhile, by another owner who has committed before it wrote
                raise
            return places | {tp: Committed(begin, "") for tp, begin in begins.items()} | dict(starts)

    async def look_at_topics(self, places: Mapping[TopicPartition, Committed]) -> None:
        """Raises TopicMadeAnew when a topic is not the one that this process, or whoever committed, has read. Asks until a
        broker answers.

        One that is made anew under a running worker may have grown past its position already: reading on would skip what is
        before it, without an error from anywhere.
        """
        if not self._made_anew(await self._topic_ids(), places):
            return
        await asyncio.sleep(SURE_SECONDS)
        if anew := self._made_anew(await self._topic_ids(), places):
            raise TopicMadeAnew(anew, self._name)

    async def _answered(
        self, ask: Ask, partitions: Sequence[TopicPartition], within: Assignment | None = None
    ) -> dict[TopicPartition, int]:
        """What a broker answers; asked again while one is away, for as long as that takes, or the assignment is `within`: the
        watchdog knows of it."""
        while within is None or not within.ended:
            try:
                return await ask(partitions)
            except KafkaError as error:
                if not (error.retriable or isinstance(error, KafkaTimeoutError)):
                    raise
            await asyncio.sleep(RETRY_SECONDS)
        return {}

    async def _topic_ids(self) -> dict[str, str]:
        while True:
            try:
                return await topic_ids(self._consumer._client, self._consumer.subscription())
            except KafkaError:
                await asyncio.sleep(RETRY_SECONDS)

    def _made_anew(self, found: Mapping[str, str], places: Mapping[TopicPartition, Committed]) -> set[str]:
        for topic, number in found.items():
            self.topic_ids.setdefault(topic, number)
        anew = {topic for topic, number in found.items() if number != self.topic_ids[topic]}
        for tp, at in places.items():
            before = parsed(at.note).id
            if before and before != found.get(tp.topic, before):
                anew.add(tp.topic)
        return anew

    async def look_at_offsets(self, assignment: Assignment) -> None:
        """Raises OffsetsGone, naming every partition of which the log does not hold the offset to go on from.

        Asked because a leader that was just elected may say so of an offset that it will soon have.
        """
        tps = list(assignment.partitions)
        begins = await self._answered(self._consumer.beginning_offsets, tps, assignment)
        ends = await self._answered(self._consumer.end_offsets, tps, assignment)
        if assignment.ended:
            return
        at = {tp: one.fetched_to for tp, one in assignment.partitions.items()}
        gone = {tp: (at[tp], begins[tp], ends[tp]) for tp in tps if not begins[tp] <= at[tp] <= ends[tp]}
        if gone:
            raise OffsetsGone(gone, self._name)
