"""Dead letters: a record that nobody can take, sealed so that only who holds the key sees it, with origin and reason."""

import os
import re
from typing import NamedTuple, Self

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pipeline.ciphers import DecryptionFailed
from pipeline.keys import DEAD_LETTERS, Keys
from schemas.refused import Refused
from stream.reader import ID_HEADER
from stream.records import Headers, Record

REASON_HEADER = "sluice-reason"
MESSAGE_HEADER = "__connect.errors.exception.message"
STAGE_HEADER = "__connect.errors.stage"
RETRY_HEADER = "sluice-retry"
"""On a record that was fed in again, on what became of it, and on its next dead letter: the `sluice-id` of its first one."""
RETRIES_HEADER = "sluice-retries"
"""Beside it: how often the record was fed in again, in digits."""
RETRIED_HEADER = "sluice-retried"
"""On a mark, which says of the dead letter with its `sluice-id` that it was fed in again: when, in ISO 8601."""

_MAGIC = b"sluice-sealed"
"""Then one byte: how many bytes the length of the key's id has, 1 or 2; that length; the id; nonce and ciphertext."""
_NONCE = 12
_TAG = 16
_ID = re.compile(r"([A-Za-z0-9._-]{1,249})/(\d{1,9})/(\d{1,12})", re.ASCII)
"""What is no offset that anybody gets to may be something else, such as a card number."""
_RETRIES = re.compile(rb"[1-9]\d{0,5}")
_REASON = re.compile(r"[a-z][a-z0-9-]{0,63}", re.ASCII)
_LONGEST_MESSAGE = 500


class Origin(NamedTuple):
    """Where a record came from. As text it is the `sluice-id`."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    @classmethod
    def parsed(cls, text: str) -> Self | None:
        """The origin that a `sluice-id` says; None for what is none."""
        found = _ID.fullmatch(text)
        return cls(found[1], int(found[2]), int(found[3])) if found else None


class Envelope(NamedTuple):
    """What the headers of a dead letter say, or of the mark that one was retried."""

    origin: Origin
    reason: str
    path: str
    """Where in the record, `.transaction.quantity`; "" is the whole record."""
    stage: str
    first: Origin
    """Of the first dead letter of this record: its own origin, unless it was retried before."""
    retries: int
    """How often the record had been fed in again before this dead letter."""
    retried: str
    """When, on a mark; "" on a dead letter."""


class Letter(NamedTuple):
    """The record that a dead letter holds, as it came."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


class Sealer:
    """Seals records with the `dead-letters` key that is active at the time, if there is one."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        if DEAD_LETTERS in keys:
            keys.demand(DEAD_LETTERS, "AES-GCM")
        self._renew()

    def seal(self, record: Record, limit: int) -> bytes | None:
        """Key, value and headers of a record, sealed. None without a key, or when it would be longer than `limit` bytes:
        then a dead letter is its headers only."""
        if self.keys.version != self._version:
            self._renew()
        if self._key is None:
            return None
        body = msgspec.msgpack.encode((record.key, record.value, list(record.headers)))
        if len(self._head) + _NONCE + len(body) + _TAG > limit:
            return None
        nonce = os.urandom(_NONCE)
        self.keys.used(self._key, 1)
        return self._head + nonce + self._cipher.encrypt(nonce, body, self._head)

    def _renew(self) -> None:
        self._version = self.keys.version
        self._key = self.keys.active(DEAD_LETTERS) if DEAD_LETTERS in self.keys else None
        if self._key is not None:
            id_ = self._key.id.encode()
            width = 1 if len(id_) < 256 else 2
            self._head = _MAGIC + bytes([width]) + len(id_).to_bytes(width, "big") + id_
            self._cipher = AESGCM(self._key.material)


def unseal(sealed: bytes, keys: Keys) -> Letter:
    """The record in a dead letter. Raises UnknownKey for a key version that is missing, DecryptionFailed for anything else.

    May block where ids hold data keys.
    """
    if not sealed.startswith((_MAGIC + b"\x01", _MAGIC + b"\x02")):
        raise DecryptionFailed("this is no sealed dead letter; check the topic")
    start = len(_MAGIC) + 1 + sealed[len(_MAGIC)]
    end = start + int.from_bytes(sealed[len(_MAGIC) + 1 : start], "big")
    key = keys.find(DEAD_LETTERS, sealed[start:end].decode("ascii", "replace"))
    try:
        body = AESGCM(key.material).decrypt(sealed[end : end + _NONCE], sealed[end + _NONCE :], sealed[:end])
    except (InvalidTag, ValueError):
        raise DecryptionFailed(f"the dead letter was changed, or sealed with another {key}") from None
    return msgspec.msgpack.decode(body, type=Letter)


def letter_headers(topic: str, partition: int, record: Record, refused: Refused, stage: str) -> list[tuple[str, bytes]]:
    """The headers of a dead letter: where the record comes from and why it is here, never anything it holds.

    The names are those of Kafka Connect, so that its tools know them. The record's own headers are in the seal.
    """
    texts = {
        REASON_HEADER: refused.reason,
        ID_HEADER: f"{topic}/{partition}/{record.offset}",
        "__connect.errors.topic": topic,
        "__connect.errors.partition": str(partition),
        "__connect.errors.offset": str(record.offset),
        STAGE_HEADER: stage,
        MESSAGE_HEADER: str(refused),
    }
    return [*((name, text.encode()) for name, text in texts.items()), *retry_headers(record.headers, topic, partition)]


def retry_headers(headers: Headers, topic: str, partition: int) -> list[tuple[str, bytes]]:
    """Those of a record's headers that say that it was fed in again; none unless they name an origin in its own partition.

    Whoever may write to a raw topic may write them too: they are a hint, and nothing else can be in them.
    """
    found = {name: value or b"" for name, value in headers if name in (RETRY_HEADER, RETRIES_HEADER)}
    if not found:
        return []
    first = Origin.parsed(found.get(RETRY_HEADER, b"").decode(errors="replace"))
    times = found.get(RETRIES_HEADER, b"")
    if first is None or first[:2] != (topic, partition) or not _RETRIES.fullmatch(times):
        return []
    return [(RETRY_HEADER, str(first).encode()), (RETRIES_HEADER, times)]


def opened(headers: Headers) -> Envelope | None:
    """What the headers of a record on `NAME.dlq` say; None for a record that Sluice did not put there."""
    texts = {name: (value or b"").decode(errors="replace") for name, value in headers}
    origin, reason = Origin.parsed(texts.get(ID_HEADER, "")), texts.get(REASON_HEADER, "")
    if origin is None or not _REASON.fullmatch(reason):
        return None
    message = texts.get(MESSAGE_HEADER, "")
    path = message.removeprefix(f"{reason} at ") if len(message) <= _LONGEST_MESSAGE and message.isprintable() else ""
    again = dict(retry_headers(headers, origin.topic, origin.partition))
    return Envelope(
        origin=origin,
        reason=reason,
        path=path if path != message else "",
        stage=texts.get(STAGE_HEADER, ""),
        first=Origin.parsed(again.get(RETRY_HEADER, b"").decode()) or origin,
        retries=int(again.get(RETRIES_HEADER, b"0")),
        retried=texts.get(RETRIED_HEADER, ""),
    )


def fed_again(headers: Headers, envelope: Envelope) -> list[tuple[str, bytes]]:
    """The headers that a record is fed in again with: its own, and that it is."""
    return [
        *(one for one in headers if one[0] not in (RETRY_HEADER, RETRIES_HEADER)),
        (RETRY_HEADER, str(envelope.first).encode()),
        (RETRIES_HEADER, str(envelope.retries + 1).encode()),
    ]


def mark(headers: Headers, when: str) -> list[tuple[str, bytes]]:
    """The headers of the mark of a dead letter with these headers. Whoever takes each `sluice-id` once passes it over."""
    return [*(one for one in headers if one[0] != RETRIED_HEADER), (RETRIED_HEADER, when.encode())]
