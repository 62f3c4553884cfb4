"""AES over many short values at once, and one at a time back."""

import binascii
import functools
import os
import struct
from base64 import b64decode, urlsafe_b64decode
from binascii import b2a_base64
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pipeline.keys import Key, Keys

BLOCK = 16
NONCE = 12
TOKEN = ("enc", "v1", "AES-256-GCM")
"""What every token of AES-256-GCM begins with; key id, nonce and ciphertext follow. The parts are joined by colons."""

_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_PIECES = [f"{BLOCK}x{size}s{BLOCK - size}x" for size in range(BLOCK + 1)]


class DecryptionFailed(ValueError):
    """A value that does not decrypt. The text says which of form, key or seal is wrong, and holds no value."""


class BatchedCfb:
    """AES-256-CFB with segments of 128 bits, for a batch of values in one call of the cipher for each block.

    CFB encrypts a block as `plain ^ AES(block of ciphertext before it)`, and decrypts it with the same formula over what it is
    given. So a *de*cryptor that is fed [vector, plain, vector, plain, ...] yields the first block of every value, AES and
    XOR done in C; what it makes of the vectors is thrown away. Later blocks are fed with the block of ciphertext before.
    """

    def __init__(self, key: Key) -> None:
        self._feed = Cipher(algorithms.AES(key.material), CFB(bytes(BLOCK))).decryptor().update

    def encrypt(self, plains: Sequence[bytes]) -> tuple[list[bytes], Sequence[bytes]]:
        """Ciphertexts as long as the values, and for each a vector of 16 bytes that was never used before."""
        if not plains:
            return [], ()
        size = _rounded(len(plains))
        vectors = _blocks(size).unpack(os.urandom(BLOCK * len(plains)).ljust(BLOCK * size, b"\0"))[: len(plains)]
        sizes = list(map(len, plains))
        longest = max(sizes)
        if longest <= BLOCK:
            return list(self._block(vectors, plains, sizes)), vectors
        ciphertexts = list(self._block(vectors, plains, [min(size, BLOCK) for size in sizes]))
        going_on: Sequence[int] = range(len(plains))
        for start in range(BLOCK, longest, BLOCK):
            going_on = [number for number in going_on if sizes[number] > start]
            before = [ciphertexts[number][-BLOCK:] for number in going_on]
            rest = [plains[number][start : start + BLOCK] for number in going_on]
            for number, block in zip(going_on, self._block(before, rest, list(map(len, rest))), strict=True):
                ciphertexts[number] += block
        return ciphertexts, vectors

    def _block(self, before: Sequence[bytes], plains: Sequence[bytes], sizes: Sequence[int]) -> Sequence[bytes]:
        """One block of each value; `sizes` says how much of it there is, at most 16 bytes."""
        count = len(plains)
        pairs = [b""] * (2 * _rounded(count))
        pairs[0 : 2 * count : 2] = before
        pairs[1 : 2 * count : 2] = plains
        fed = self._feed(_blocks(len(pairs)).pack(*pairs))  # packing cuts and pads to 16 bytes
        # Not struct.unpack, which would keep the long format in its cache.
        return struct.Struct("".join(map(_PIECES.__getitem__, sizes))).unpack(memoryview(fed)[: 2 * BLOCK * count])


class BatchedGcm:
    """AES-256-GCM for the values of one field: a token each, with a random nonce of 12 bytes.

    A key is good for 2^32 tokens by NIST SP 800-38D; rotate it long before that.
    """

    def __init__(self, key: Key, bound: bytes) -> None:
        self._encrypt = AESGCM(key.material).encrypt
        self._bound = bound
        self._head = ":".join((*TOKEN, key.id, ""))

    def encrypt(self, plains: Sequence[bytes]) -> list[str]:
        """Tokens `enc:v1:AES-256-GCM:<key id>:<nonce>:<ciphertext and tag>`, the last two in base64url without padding."""
        encrypt, bound, head = self._encrypt, self._bound, self._head
        drawn = os.urandom(NONCE * len(plains))
        nonces = [drawn[start : start + NONCE] for start in range(0, len(drawn), NONCE)]
        sealed = [encrypt(nonce, plain, bound) for nonce, plain in zip(nonces, plains, strict=True)]
        texts = _url_safe(sealed)
        return [f"{head}{nonce}:{text}" for nonce, text in zip(_url_safe(nonces), texts, strict=True)]


def binding(pipeline: str, path: str) -> bytes:
    """What a token is bound to: it decrypts only as this field of this pipeline. Each part is preceded by its length."""
    parts = [part.encode() for part in (*TOKEN, pipeline, path)]
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)


def cfb_decrypt(key: Key, value: str, vector: str, encoding: str) -> str:
    """The text that AES-256-CFB made `value` of. Raises DecryptionFailed."""
    read = bytes.fromhex if encoding == "hex" else functools.partial(b64decode, validate=True)
    try:
        ciphertext, block = read(value), read(vector)
    except (binascii.Error, ValueError):
        raise DecryptionFailed(
            f"value or vector is not {encoding}; check that both were written by this rule"
        ) from None
    if len(block) != BLOCK:
        raise DecryptionFailed(
            f"the vector has {len(block)} bytes instead of {BLOCK}; check that it belongs to the value"
        )
    decryptor = Cipher(algorithms.AES(key.material), CFB(block)).decryptor()
    return _as_text(decryptor.update(ciphertext) + decryptor.finalize(), key)


def gcm_decrypt(keys: Keys, name: str, bound: bytes, token: str) -> str:
    """The text that is in a token. Raises UnknownKey and DecryptionFailed."""
    parts = token.split(":")
    if len(parts) != len(TOKEN) + 3 or tuple(parts[: len(TOKEN)]) != TOKEN:
        raise DecryptionFailed(f"no token of {TOKEN[-1]}; check which rule wrote the value")
    key = keys.find(name, parts[-3])
    try:
        nonce, sealed = (urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in parts[-2:])
        plain = AESGCM(key.material).decrypt(nonce, sealed, bound)
    except (binascii.Error, ValueError, InvalidTag):
        raise DecryptionFailed(
            f"the token was changed, belongs to another field or pipeline, or was made with another {key.name}/{key.id}"
        ) from None
    return _as_text(plain, key)


def _as_text(plain: bytes, key: Key) -> str:
    try:
        return plain.decode()
    except UnicodeDecodeError:
        raise DecryptionFailed(f"no text comes out; {key.name}/{key.id} is probably the wrong key version") from None


def _url_safe(values: Sequence[bytes]) -> Sequence[str]:
    lines = b"".join(map(b2a_base64, values)).translate(_URL_SAFE, b"=")
    return lines.decode().split("\n")[:-1]


def _rounded(count: int) -> int:
    """Batches of about the same size share a format."""
    step = 64 if count <= 512 else 512
    return -(-count // step) * step


@functools.lru_cache(maxsize=16)
def _blocks(count: int) -> struct.Struct:
    return struct.Struct(f"{BLOCK}s" * count)
