"""The chain of intents: where one object of a partition ends and the next begins, decided once, in the bucket itself.

Where to cut is the only free choice on the way into S3, so it is made durable before anything is written. Each link
goes from a start to an end; whoever's conditional write comes first decides it, and everybody follows: a worker looks
for the link at its start before it cuts, redoes an unfinished one as it was decided, and nobody starts at an offset
that is on no link.
"""

import msgspec

from sinks.aws import Unavailable
from sinks.contract import Conflict
from sinks.s3_bucket import Bucket
from sinks.s3_object import Compression, Format, Layout

WRITER = 1
"""The version of what an intent says. Only a version that an older writer would redo wrongly is a new one."""


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """One link: the offsets `[start, end)` of a routed partition, and all that decides what is written for them."""

    topic: str
    partition: int
    start: int
    end: int
    seen: dict[str, int]
    """By plan (the header `sluice-plan`), the highest raw offset that had been taken before the cut."""
    format: Format
    compression: Compression
    prefix: str
    where: str
    """A hash of the stream's `where`."""
    schema: str
    """The schema version that the records were read with: `event/v4`."""
    topic_id: str = ""
    """Of the topic that was read: in another one of the same name these offsets are other records."""
    writer: int = WRITER

    @property
    def layout(self) -> Layout:
        """How its object is to be written, whatever the config says by now."""
        return Layout(self.prefix, self.format, self.compression)


class Beginning(msgspec.Struct, frozen=True, kw_only=True):
    """Where the chains of an epoch begin: topic → partition → offset. A partition that is not named came later."""

    offsets: dict[str, dict[int, int]]

    def at(self, topic: str, partition: int, otherwise: int) -> int:
        """Where a partition begins; `otherwise` for one that came later."""
        return self.offsets.get(topic, {}).get(partition, otherwise)


class Epochs:
    """The epochs of one stream: each begins chains of its own, whose objects lie under a prefix of their own.

    Epoch 0 begins where the topics did. A later one is the unix second at which an operator began it.
    """

    def __init__(self, bucket: Bucket, prefix: str, stream: str) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._stream = stream

    def chain(self, epoch: int) -> "IntentChain":
        """The links of an epoch."""
        return IntentChain(self._bucket, self._prefix, self._stream, epoch)

    def objects(self, epoch: int) -> str:
        """What the keys of an epoch's objects begin with."""
        return f"{self._prefix}replay-{epoch}/" if epoch else self._prefix

    async def newest(self) -> int:
        """The newest epoch that left something in the bucket, 0 without any. Raises Unavailable."""
        names = await self._bucket.folders(f"{self._prefix}_sluice/{self._stream}/")
        return max((int(name) for name in names if name.isdecimal()), default=0)

    async def begin(self, epoch: int, beginning: Beginning) -> None:
        """Note where an epoch begins, for owners who find no offset. Raises Unavailable."""
        await self._bucket.put_new(self._key(epoch), msgspec.json.encode(beginning), {}, "application/json")

    async def beginning(self, epoch: int) -> Beginning:
        """Where an epoch begins; nowhere, for one that left no note. Raises Unavailable, and Conflict for a note of others."""
        body = await self._bucket.get(self._key(epoch)) if epoch else None
        if body is None:
            return Beginning(offsets={})
        try:
            return msgspec.json.decode(body, type=Beginning)
        except msgspec.MsgspecError:
            raise Conflict(f"s3://{self._bucket.name}/{self._key(epoch)} cannot be read; restore it") from None

    def _key(self, epoch: int) -> str:
        return f"{self._prefix}_sluice/{self._stream}/{epoch}/beginning.json"


class IntentChain:
    """The links of one stream, under `{prefix}_sluice/{stream}/{epoch}/{topic}/{partition:05d}/{start:020d}.json`.

    Methods raise `Unavailable` (try again; nothing is decided that was not decided before, but a claim may have been
    taken) and `Conflict` (a link that cannot be read or contradicts its own key: halt the partition).
    """

    def __init__(self, bucket: Bucket, prefix: str, stream: str, epoch: int = 0) -> None:
        self._bucket = bucket
        self._root = f"{prefix}_sluice/{stream}/{epoch}/"

    async def find(self, topic: str, partition: int, start: int) -> Intent | None:
        """The link that begins at `start`; None if it is not decided yet."""
        return await self._read(self._key(topic, partition, start))

    async def claim(self, intent: Intent) -> Intent:
        """Decide the link at `intent.start`, unless somebody has. Returns the link that holds: `intent`, or the one
        to follow instead. Only after this returned may anything be written for the cut."""
        key = self._key(intent.topic, intent.partition, intent.start)
        body = msgspec.json.encode(intent)
        if await self._bucket.put_new(key, body, {}, "application/json"):
            return intent
        decided = await self._read(key)
        if decided is None:  # the bucket said that it is there
            raise Unavailable("intent-vanished")
        return decided

    async def last(self, topic: str, partition: int, after: int = 0) -> Intent | None:
        """The last link that begins at or after `after`; None if there is none. A call for every 1000 links from
        there on."""
        prefix = f"{self._root}{topic}/{partition:05d}/"
        # The key without its ending sorts just before the key itself.
        key = await self._bucket.last_key(prefix, f"{prefix}{after:020d}")
        return None if key is None else await self._read(key)

    def _key(self, topic: str, partition: int, start: int) -> str:
        return f"{self._root}{topic}/{partition:05d}/{start:020d}.json"

    async def _read(self, key: str) -> Intent | None:
        body = await self._bucket.get(key)
        if body is None:
            return None
        place = f"the intent s3://{self._bucket.name}/{key}"
        try:
            intent = msgspec.json.decode(body, type=Intent)
        except msgspec.MsgspecError:
            raise Conflict(
                f"{place} cannot be read; update this Sluice if a newer one wrote it, else restore it"
            ) from None
        if intent.writer > WRITER:
            raise Conflict(f"{place} was written by a newer Sluice (writer {intent.writer}); update this one")
        if self._key(intent.topic, intent.partition, intent.start) != key or intent.end <= intent.start:
            raise Conflict(f"{place} contradicts its own key; restore it from a backup or begin a new epoch")
        return intent
