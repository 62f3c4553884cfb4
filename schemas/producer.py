"""For producers of a raw topic: is a record one that will be taken, under which key is it sent, and how is it written in Avro?

check = Checker("event")
checked = check(b'{"id": 1, ...}')      # raises Refused: reason and path
await producer.send("raw.events", checked.value, key=checked.key)
await producer.send("raw.events", framed(load("event").latest, checked), key=checked.key)     # the same in Avro
"""

import io
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple

import fastavro
from msgspec import UNSET

from schemas import containers
from schemas.avro_bytes import End, compiled
from schemas.codec import Codec
from schemas.drift import parsed
from schemas.subjects import Version, id_of, load

CONTAINER = b"Obj\x01"
"""How an Avro container file begins (https://avro.apache.org/docs/1.11.1/specification/#object-container-files)."""
_OWNERS = ("device", "endpoint")
__all__ = ["Checked", "Checker", "InvalidContainer", "avro_form", "framed"]


class Checked(NamedTuple):
    """A record that will be taken. Its repr holds nothing of it."""

    key: bytes | None
    """The device's or the endpoint's id as text: records of one stay in order. None for a record that names neither."""
    drift: Mapping[str, int]
    """What will be normalised or left out, by kind; empty for a record that keeps the contract to the letter."""
    value: bytes
    """The record with that done, JSON in UTF-8: a pipeline makes the same of it as of what was checked."""
    subject: str
    """What it was checked as."""

    def __repr__(self) -> str:
        return f"<Checked {self.subject} of {len(self.value)} bytes>"


class InvalidContainer(ValueError):
    """A file that is no Avro container of the subject. The text says what to do; it holds no value of a record."""


class Checker:
    """Checks records against the newest version of a subject, exactly as a pipeline does. Not thread-safe.

    A pipeline may refuse more: a card field that its rules encrypt and that is missing or no text, and what is too large.
    Raises UnknownSubject.
    """

    def __init__(self, subject: str) -> None:
        self._codec = Codec(load(subject))

    def __call__(self, value: bytes | None) -> Checked:
        """`value`: JSON in UTF-8, or Avro in Confluent's framing. Raises Refused."""
        before = self._codec.drift.copy()
        record = self._codec.decode(value)
        drift = self._codec.drift - before
        return Checked(_key(record), drift, self._codec.encode(record), self._codec.subject.name)

    def container(self, source: BinaryIO) -> Iterator[tuple[bytes, Mapping[str, int]]]:
        """The records of an Avro container, as JSON, each with what was normalised or left out for that. Raises
        InvalidContainer, and Refused for what a pipeline refuses."""
        latest = self._codec.subject.latest
        try:
            blocks = fastavro.block_reader(source)
            schema = blocks.writer_schema
            if not isinstance(schema, dict) or schema.get("name") != latest.parsed["name"]:
                raise InvalidContainer(f"its records are not those of {latest}; write it with a schema of that name")
            for record in _whole(blocks):
                before = self._codec.drift.copy()
                value = self._codec.encode(self._codec.from_avro(record))
                yield value, self._codec.drift - before
        except (InvalidContainer, OSError):
            raise
        except Exception as error:  # fastavro raises whatever the bytes lead it into, and may quote them
            if type(error).__module__.startswith("schemas."):
                raise
            raise InvalidContainer(
                f"the file is no Avro container of {self._codec.subject.name}, or is cut off ({type(error).__name__}); "
                f"write it with schemas/{self._codec.subject.name}/v{latest.number}.avsc"
            ) from None


def avro_form(version: Version, checked: Checked) -> dict[str, Any]:
    """A record that was checked, as Avro serialisers take it: open fields as JSON text, decimals exact, null fields left out. So
    are fields that came after this version. Raises ValueError for a version of another subject.
    """
    if checked.subject != version.subject:
        raise ValueError(
            f"the record was checked as {checked.subject}, and {version} is no version of that; take one that is"
        )
    return containers.avro_form(version.fields, parsed(checked.value))


def framed(version: Version, checked: Checked) -> bytes:
    """A record that was checked, as Avro in Confluent's framing: a zero byte, the id of `schemas/ids.json`, the body. As
    `avro_form` has it, and what is left out is null.
    """
    body = io.BytesIO()
    fastavro.schemaless_writer(body, version.parsed, avro_form(version, checked))
    return b"\0" + id_of(version).to_bytes(4, "big") + body.getvalue()


def _whole(blocks: Any) -> Iterator[Any]:
    """The records of blocks that hold as many as they say and nothing else: fastavro passes over what is beyond their count.
    Raises InvalidContainer for other blocks."""
    end = compiled(blocks.writer_schema)
    for block in blocks:
        if not _holds(block.bytes_.getvalue(), block.num_records, end):
            raise InvalidContainer("a block of the file holds other records than it says: it is damaged; get it again")
        yield from block


def _holds(data: bytes, count: int, end: End) -> bool:
    if not 0 <= count <= len(data):  # records that take no bytes have no end
        return False
    at = 0
    with suppress(ValueError, IndexError, RecursionError):
        for _ in range(count):
            at = end(data, at)
        return at == len(data)
    return False


def _key(record: Any) -> bytes | None:
    for name in _OWNERS:
        owner = getattr(record, name, None)
        if owner is not None and owner is not UNSET and owner.id not in (None, UNSET):
            return str(owner.id).encode()
    return None
