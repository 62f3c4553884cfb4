"""`sluice dlq retry`: the records of letters on their way again. What is guaranteed is in docs/operating.md.

A letter whose record went gets a mark, behind it in the same partition, so that retention never takes the mark first. Who is
killed between the two leaves a round of letters without: their records go twice if these are retried again.
"""

import asyncio
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import click
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from pipeline.ciphers import DecryptionFailed
from pipeline.dead_letters import Letter, mark, unseal
from pipeline.keys import Keys, UnknownKey
from sluice import logs
from sluice.config import Config
from sluice.dlq.letters import Choice, DeadLetter, Found, Letters, opened, progress, see_allowed
from sluice.dlq.originals import originals
from sluice.dlq.showing import not_there
from sluice.dlq.ways import Again, Destination, RawTopic, Way
from sluice.exits import Exit, UserError
from sluice.keys import to_decrypt
from stream.outbox import Outbox, Packed, ProduceRefused
from stream.permissions import Need, NotAllowed, Operation
from stream.windows import looking

ROUND_LETTERS = 500
ROUND_BYTES = 8 * 1024 * 1024
EMPTY_BYTES = 512 * 1024
"""What a letter without a body counts as: its record may have been too large for one."""
NAMED = 3
"""So many ids are said of those that did not go for one reason."""


def run(config: Config, name: str, choice: Choice, again: bool, confirmed: bool) -> int:
    """Send the records of the chosen letters their way again, those that were before only with `again`; print how many went,
    and return the exit code: 1 if one did not.

    Asks on a terminal unless `confirmed`, and shows its progress there. Blocks. Raises UserError, which says how many went
    before it.
    """
    logs.silence()
    if name in config.streams and config.streams[name].s3 is not None:
        raise UserError(
            f"{name} writes to S3, where nothing is put in between what is there; mend the cause, then deliver again what came"
            f" since with `sluice start FILE {name} --from TIME`",
            Exit.USAGE,
        )
    return asyncio.run(_run(config, name, choice, again, confirmed))


async def _run(config: Config, name: str, choice: Choice, again: bool, confirmed: bool) -> int:
    async with opened(config, name, choice) as letters, AsyncExitStack() as stack:
        found = await letters.find()
        count = len(found.ids) - (0 if again else found.again)
        if found.again and not again:
            sys.stdout.write(f"{found.again:,} were retried before and are passed over; --again retries them too\n")
        missing = [str(one) for one in sorted(choice.ids) if one not in found.ids]
        if missing:
            sys.stderr.write(not_there(letters.topic, missing) + "\n")
        if not count:
            sys.stdout.write(f"no dead letters of {name} to retry\n")
            return Exit.FAILED if missing else Exit.DONE
        await see_allowed(config, _needs(config, name, found))
        keys = to_decrypt(config) if found.empty < len(found.ids) else Keys.none()
        where = config.pipelines[name].source if name in config.pipelines else f"the destination of {name}"
        if not confirmed and sys.stdin.isatty() and not click.confirm(f"Send {count:,} to {where}?", err=True):
            raise UserError("nothing was retried", Exit.FAILED)
        outbox = Outbox(config.kafka, "sluice.dlq")
        stack.push_async_callback(outbox.stop)
        await outbox.start()
        way: Way = RawTopic(where, outbox) if name in config.pipelines else Destination(config, name)
        stack.push_async_callback(way.close)
        source = await stack.enter_async_context(looking(config.kafka)) if found.empty else None
        retry = _Retry(letters, way, outbox, source, keys, count)
        await retry.all(found, again)
    sys.stderr.writelines(line + "\n" for line in retry.lines())
    sys.stdout.write(f"{retry.done:,} of {count:,} sent to {where}\n")
    return Exit.DONE if retry.done == count and not missing else Exit.FAILED


def _needs(config: Config, name: str, found: Found) -> list[Need]:
    """What has to be allowed beside reading the letters."""
    needs = [Need("topic", f"{name}.dlq", Operation.WRITE)]
    if name in config.pipelines:
        sources = [config.pipelines[name].source]
        needs += [Need("topic", topic, Operation.WRITE) for topic in sources]
    else:
        sources = config.streams[name].topics
    if found.empty:
        needs += [Need("topic", topic, Operation.READ) for topic in sources]
    return needs


class _Retry:
    """One run over the letters that were found."""

    def __init__(
        self, letters: Letters, way: Way, outbox: Outbox, source: AIOKafkaConsumer | None, keys: Keys, count: int
    ) -> None:
        self._letters = letters
        self._way = way
        self._outbox = outbox
        self._source = source
        self._keys = keys
        self._count = count
        self.done = 0
        self._left: dict[str, list[str]] = defaultdict(list)
        """Why records did not go, with the first ids."""
        self._left_count: dict[str, int] = defaultdict(int)

    async def all(self, found: Found, again: bool) -> None:
        """Round by round, as they lie. Raises UserError, which says how far it got."""
        try:
            with progress("retrying", self._count) as advance:
                async for some in _rounds(self._letters.once(found, again=again)):
                    await to_its_end(self._round(some))
                    advance(len(some))
                    if self._way.away:
                        raise UserError(self._way.away, Exit.UNAVAILABLE)
        except asyncio.CancelledError:
            sys.stderr.write(f"stopped. {self._so_far()}\n")
            raise
        except UserError as error:
            raise UserError(f"{error}. {self._so_far()}", error.code) from None
        except (ExceptionGroup, ProduceRefused, NotAllowed, KafkaError) as error:
            one: Exception = error
            while isinstance(one, ExceptionGroup):
                one = one.exceptions[0]
            if not isinstance(one, ProduceRefused | NotAllowed | KafkaError):
                raise
            code = Exit.CONFIG if isinstance(one, NotAllowed) else Exit.UNAVAILABLE
            said = f"{str(one) or type(one).__name__}. {self._so_far()}, and up to {ROUND_LETTERS} without a mark"
            raise UserError(said, code) from None

    def _so_far(self) -> str:
        return f"{self.done:,} of {self._count:,} were sent and marked"

    def lines(self) -> list[str]:
        """What did not go, and why."""
        found = []
        for why, ids in self._left.items():
            more = self._left_count[why] - len(ids)
            found.append(f"not retried: {', '.join(ids)}{f' and {more:,} more' if more else ''}: {why}")
        return found

    async def _round(self, some: Sequence[DeadLetter]) -> None:
        ready = await self._unsealed(some)
        outcomes = await self._way.take([again for _, again in ready]) if ready else []
        marks: dict[int, list[Packed]] = defaultdict(list)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        for (letter, _), why in zip(ready, outcomes, strict=True):
            if why:
                self._leave(letter, why)
            else:
                record = letter.record
                marks[letter.at.partition].append((record.timestamp, None, None, mark(record.headers, now)))
        async with asyncio.TaskGroup() as group:
            for partition, packed in marks.items():
                group.create_task(self._outbox.send(self._letters.topic, partition, self._outbox.pack(packed)))
        self.done += sum(map(len, marks.values()))

    async def _unsealed(self, some: Sequence[DeadLetter]) -> list[tuple[DeadLetter, Again]]:
        """The records of these letters: out of their seals, or from where they came. Those that are not to be had are left."""
        empty = [letter.envelope.origin for letter in some if letter.record.value is None]
        there = await originals(self._source, empty) if self._source is not None else {}
        ready = []
        for letter in some:
            (_, record, envelope), held = letter, None
            if record.value is not None:
                try:
                    held = unseal(record.value, self._keys)
                except (UnknownKey, DecryptionFailed) as error:
                    self._leave(letter, str(error))
                    continue
            elif (raw := there.get(envelope.origin)) is not None and raw.timestamp == record.timestamp:
                held = Letter(raw.key, raw.value, list(raw.headers))
            else:
                self._leave(letter, f"its letter has no body, and {envelope.origin.topic} does not hold it any more")
                continue
            ready.append((letter, Again(envelope, record.timestamp, held)))
        return ready

    def _leave(self, letter: DeadLetter, why: str) -> None:
        self._left_count[why] += 1
        if len(self._left[why]) < NAMED:
            self._left[why].append(str(letter.envelope.origin))


async def _rounds(letters: AsyncIterator[DeadLetter]) -> AsyncIterator[list[DeadLetter]]:
    some: list[DeadLetter] = []
    size = 0
    async for letter in letters:
        some.append(letter)
        size += EMPTY_BYTES if letter.record.value is None else len(letter.record.value)
        if len(some) >= ROUND_LETTERS or size >= ROUND_BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some


async def to_its_end(work: Coroutine[None, None, None]) -> None:
    """Ctrl-C in between ends it afterwards: what was sent gets its mark. A second one ends it at once."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise
