"""Tokens: values that are encrypted, sealed and bound to where they stand, each as one text; and search tokens to compare."""

import hashlib
import hmac
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import b2a_base64
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESGCMSIV

from pipeline.ciphers import DecryptionFailed, as_text
from pipeline.keys import Key, Keys, UnknownKey

TokenAlgorithm = Literal["AES-256-GCM", "AES-256-GCM-SIV"]
TOKEN_ALGORITHMS: tuple[TokenAlgorithm, ...] = get_args(TokenAlgorithm)
NONCE = 12
_HEAD = ("enc", "v1")
"""What every token begins with; algorithm, key id, nonce and ciphertext follow. The parts are joined by colons."""
TOKEN = ":".join((*_HEAD, ""))
_CIPHERS: dict[str, Callable[[bytes], AESGCM | AESGCMSIV]] = {"AES-256-GCM": AESGCM, "AES-256-GCM-SIV": AESGCMSIV}
_URL_SAFE = bytes.maketrans(b"+/", b"-_")


class BatchedTokens:
    """One algorithm, one key, one field: a token for each of many values, each with a random nonce of 12 bytes.

    A key is good for 2^32 tokens of AES-256-GCM by NIST SP 800-38D; rotate it long before that. AES-256-GCM-SIV (RFC 8452)
    gives away no more than that two values are equal if a nonce ever comes twice.
    """

    def __init__(self, algorithm: TokenAlgorithm, key: Key, bound: bytes) -> None:
        self._encrypt = _CIPHERS[algorithm](key.material).encrypt
        self._bound = bound
        self._head = ":".join((*_HEAD, algorithm, key.id, ""))

    def encrypt(self, plains: Sequence[bytes], bound: Sequence[bytes] | None = None) -> list[str]:
        """Tokens `enc:v1:<algorithm>:<key id>:<nonce>:<ciphertext and tag>`, the last two in base64url without padding.

        `bound`: what each is bound to in its record, if the rule says so.
        """
        encrypt, all_bound, head = self._encrypt, self._bound, self._head
        drawn = os.urandom(NONCE * len(plains))
        nonces = [drawn[start : start + NONCE] for start in range(0, len(drawn), NONCE)]
        if bound is None:
            sealed = [encrypt(nonce, plain, all_bound) for nonce, plain in zip(nonces, plains, strict=True)]
        else:
            several = zip(nonces, plains, bound, strict=True)
            sealed = [encrypt(nonce, plain, all_bound + one) for nonce, plain, one in several]
        texts = _url_safe(sealed)
        return [f"{head}{nonce}:{text}" for nonce, text in zip(_url_safe(nonces), texts, strict=True)]


def binding(algorithm: TokenAlgorithm, pipeline: str, path: str) -> bytes:
    """What a token is bound to: it decrypts only as this field of this pipeline. Each part is preceded by its length."""
    parts = [part.encode() for part in (*_HEAD, algorithm, pipeline, path)]
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)


def record_binding(values: Sequence[bytes]) -> bytes:
    """The same for what a token is bound to in its record: the fields of `bind`, as JSON."""
    return b"".join(len(one).to_bytes(4, "big") + one for one in values)


def open_token(
    algorithm: TokenAlgorithm, keys: Keys, name: str, bound: bytes, token: str, bind: Sequence[str] = ()
) -> str:
    """The text that is in a token. Raises UnknownKey and DecryptionFailed.

    `bind` are the paths that the rule binds it to, for the error. A seal that does not hold says no more than that it does not:
    what was changed cannot be told from it.
    """
    given = _parts(token)
    if tuple(given[:3]) != (*_HEAD, algorithm):
        raise DecryptionFailed(f"no token of {algorithm}; check which rule wrote the value")
    try:
        nonce, sealed = map(_from_url_safe, given[-2:])
    except ValueError:
        raise DecryptionFailed(
            "the token was cut off or changed: its last two parts are not base64url as it is written"
        ) from None

    def made() -> Key | None:
        others = (one for one in keys if one.name == name and one.id != given[-3])
        return next((one for one in others if _opened(algorithm, one, nonce, sealed, bound) is not None), None)

    try:
        key = keys.find(name, given[-3])
    except UnknownKey:
        if other := made():
            raise DecryptionFailed(
                f"the token names a version of its key that there is not, and was made with {other}; check who changed an id"
            ) from None
        raise
    plain = _opened(algorithm, key, nonce, sealed, bound)
    if plain is None:
        if other := made():
            raise DecryptionFailed(f"the token names {key}, and was made with {other}; check who changed its key id")
        record = f", or beside another {' and '.join(bind)}" if bind else ""
        raise DecryptionFailed(
            f"the token was changed, was written in another field or pipeline{record}, or {key} was another key then"
        )
    return as_text(plain, key)


def key_id_of(token: Any) -> str | None:
    """The id of the key that a token names; None for what is none."""
    given = _parts(token) if isinstance(token, str) else []
    return given[-3] if given else None


def _parts(token: str) -> list[str]:
    """What a token is made of; nothing of what is none."""
    given = token.split(":")
    return given if len(given) == len(_HEAD) + 4 else []


def _opened(algorithm: TokenAlgorithm, key: Key, nonce: bytes, sealed: bytes, bound: bytes) -> bytes | None:
    try:
        return _CIPHERS[algorithm](key.material).decrypt(nonce, sealed, bound)
    except (ValueError, InvalidTag):  # ValueError: a key or nonce of another length
        return None


def _from_url_safe(text: str) -> bytes:
    """Raises ValueError for every text but the one that these bytes are written as."""
    found = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if urlsafe_b64encode(found).rstrip(b"=") != text.encode():
        raise ValueError
    return found


class SearchTokens:
    """Keyed hashes of one field: equal for equal texts, so that encrypted values can be found and joined.

    HMAC-SHA-256 (RFC 2104) over the text in UTF-8, in hex. Who holds the key can try texts; who sees the tokens sees which
    records hold the same.
    """

    def __init__(self, key: Key) -> None:
        self._begun = hmac.new(key.material, digestmod=hashlib.sha256)

    def of(self, plains: Sequence[bytes]) -> list[str]:
        """A token of 64 characters for each value."""
        return [self.one(plain) for plain in plains]

    def one(self, plain: bytes) -> str:
        """The token of one value."""
        hashed = self._begun.copy()
        hashed.update(plain)
        return hashed.hexdigest()


def _url_safe(values: Sequence[bytes]) -> Sequence[str]:
    lines = b"".join(map(b2a_base64, values)).translate(_URL_SAFE, b"=")
    return lines.decode().split("\n")[:-1]
