"""What stands in the metadata of a committed offset, for the partition's next owner."""

import msgspec


class Note(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The commit metadata of a partition, as JSON; about 1 KB at most, where Kafka takes 4."""

    v: int
    """Of this layout: 1. 0 is what was not written by us, or nothing."""
    epoch: int | None = None
    """Of a pipeline's plan, or of a stream's chain of intents: the unix second it was drawn at."""
    id: str = ""
    """The topic's id when the offset was read: a topic that was made anew under the same name has another."""
    seen: dict[str, int] = {}
    """By plan (the header `sluice-plan`), the highest raw offset that a reader has taken."""

    def text(self) -> str:
        return msgspec.json.encode(self).decode()


def parsed(text: str) -> Note:
    """The note in commit metadata; an empty one of version 0 for "" and for what another tool wrote there."""
    try:
        return msgspec.json.decode(text, type=Note)
    except msgspec.MsgspecError:
        return Note(v=0)
