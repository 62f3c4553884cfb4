"""Dead letters: a record that nobody can take, sealed so that only who holds the key sees it, with origin and reason."""

import os
from typing import NamedTuple

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pipeline.ciphers import DecryptionFailed
from pipeline.keys import DEAD_LETTERS, Keys
from schemas.refused import Refused
from stream.records import Record

_MAGIC = b"sluice-sealed"
"""Then one byte: how many bytes the length of the key's id has, 1 or 2; that length; the id; nonce and ciphertext."""
_NONCE = 12
_TAG = 16


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
        "sluice-reason": refused.reason,
        "sluice-id": f"{topic}/{partition}/{record.offset}",
        "__connect.errors.topic": topic,
        "__connect.errors.partition": str(partition),
        "__connect.errors.offset": str(record.offset),
        "__connect.errors.stage": stage,
        "__connect.errors.exception.message": str(refused),
    }
    return [(name, text.encode()) for name, text in texts.items()]
