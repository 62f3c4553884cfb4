"""AES over many short values at once: ciphertexts with vectors of their own, as openssl and Vector write them.

Nobody can tell whether such a value was changed: that is what pipeline/tokens.py is for.
"""

import binascii
import functools
import os
import struct
from base64 import b64decode
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

from cryptography.hazmat.decrepit.ciphers.modes import CFB, OFB
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.modes import CBC, CTR, ECB
from cryptography.hazmat.primitives.padding import PKCS7

from pipeline.keys import Key

BlockAlgorithm = Literal[
    "AES-128-CFB", "AES-192-CFB", "AES-256-CFB",
    "AES-128-OFB", "AES-192-OFB", "AES-256-OFB",
    "AES-128-CTR", "AES-192-CTR", "AES-256-CTR",
    "AES-128-CBC-PKCS7", "AES-192-CBC-PKCS7", "AES-256-CBC-PKCS7",
]  # fmt: skip
BLOCK_ALGORITHMS: tuple[BlockAlgorithm, ...] = get_args(BlockAlgorithm)
BLOCK = 16

Encrypt = Callable[[Sequence[bytes]], tuple[Sequence[bytes], Sequence[bytes]]]
"""Ciphertexts of these values, and for each a vector of 16 bytes that was never used before."""

_MODES: dict[str, Any] = {"CFB": CFB, "OFB": OFB, "CTR": CTR, "CBC-PKCS7": CBC}
_PIECES = [f"{BLOCK}x{size}s{BLOCK - size}x" for size in range(BLOCK + 1)]


class DecryptionFailed(ValueError):
    """A value that does not decrypt. The text says which of form, key or seal is wrong, and holds no value."""


def encryption(algorithm: BlockAlgorithm, key: Key) -> Encrypt:
    """The algorithm with this key, for batches of values. CTR counts as NIST SP 800-38A does, all 128 bits from the right."""
    _, _, mode = algorithm.split("-", 2)
    if mode == "CFB":
        return BatchedCfb(key).encrypt
    return functools.partial({"OFB": _ofb, "CTR": _ctr, "CBC-PKCS7": _cbc}[mode], _blocks_of(key))


class BatchedCfb:
    """AES in CFB with segments of 128 bits, for a batch of values in one call of the cipher for each block.

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


def decrypt(algorithm: BlockAlgorithm, key: Key, value: str, vector: str, encoding: str) -> str:
    """The text that the algorithm made `value` of. Raises DecryptionFailed; a wrong key mostly yields nonsense instead."""
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
    mode = algorithm.split("-", 2)[2]
    decryptor = Cipher(algorithms.AES(key.material), _MODES[mode](block)).decryptor()
    try:
        plain = decryptor.update(ciphertext) + decryptor.finalize()
        if mode == "CBC-PKCS7":
            unpadder = PKCS7(8 * BLOCK).unpadder()
            plain = unpadder.update(plain) + unpadder.finalize()
    except ValueError:
        raise DecryptionFailed(
            f"the value is cut off, or {key.name}/{key.id} is the wrong key; check that value, vector and key belong together"
        ) from None
    return as_text(plain, key)


def as_text(plain: bytes, key: Key) -> str:
    """Bytes that came out of a cipher, as text. Raises DecryptionFailed."""
    try:
        return plain.decode()
    except UnicodeDecodeError:
        raise DecryptionFailed(f"no text comes out; {key.name}/{key.id} is probably the wrong key version") from None


# OFB, CTR and CBC with a function that enciphers blocks one by one.


def _blocks_of(key: Key) -> Callable[[bytes], bytes]:
    return Cipher(algorithms.AES(key.material), ECB()).encryptor().update  # noqa: S305  # the modes below are built on it


def _vectors(count: int) -> list[bytes]:
    return _cut(os.urandom(BLOCK * count), [BLOCK] * count)


def _ofb(cipher: Callable[[bytes], bytes], plains: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
    vectors = _vectors(len(plains))
    streams = [b""] * len(plains)
    before = vectors
    going_on = [number for number, plain in enumerate(plains) if plain]
    while going_on:
        blocks = _cut(cipher(b"".join([before[number] for number in going_on])), [BLOCK] * len(going_on))
        before = list(before)
        for number, block in zip(going_on, blocks, strict=True):
            before[number] = block
            streams[number] += block
        going_on = [number for number in going_on if len(streams[number]) < len(plains[number])]
    return _xor(plains, streams), vectors


def _ctr(cipher: Callable[[bytes], bytes], plains: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
    vectors = _vectors(len(plains))
    counts = [-(-len(plain) // BLOCK) for plain in plains]
    counters = [
        ((int.from_bytes(vector) + number) % 2**128).to_bytes(BLOCK)
        for vector, count in zip(vectors, counts, strict=True)
        for number in range(count)
    ]
    return _xor(plains, _cut(cipher(b"".join(counters)), [BLOCK * count for count in counts])), vectors


def _cbc(cipher: Callable[[bytes], bytes], plains: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
    vectors = _vectors(len(plains))
    padded = [plain + bytes([BLOCK - len(plain) % BLOCK]) * (BLOCK - len(plain) % BLOCK) for plain in plains]
    ciphertexts = [b""] * len(plains)
    before = list(vectors)
    going_on: Sequence[int] = range(len(plains))
    start = 0
    while going_on:
        mixed = _xor(
            [padded[number][start : start + BLOCK] for number in going_on], [before[number] for number in going_on]
        )
        for number, block in zip(going_on, _cut(cipher(b"".join(mixed)), [BLOCK] * len(mixed)), strict=True):
            before[number] = block
            ciphertexts[number] += block
        start += BLOCK
        going_on = [number for number in going_on if len(padded[number]) > start]
    return ciphertexts, vectors


def _xor(ones: Sequence[bytes], others: Sequence[bytes]) -> list[bytes]:
    """Each of the ones XOR the beginning of its other, in one operation on one large number."""
    sizes = list(map(len, ones))
    joined = b"".join(ones)
    mask = b"".join([other[:size] for other, size in zip(others, sizes, strict=True)])
    return _cut((int.from_bytes(joined) ^ int.from_bytes(mask)).to_bytes(len(joined)), sizes)


def _cut(joined: bytes, sizes: Sequence[int]) -> list[bytes]:
    pieces, start = [], 0
    for size in sizes:
        pieces.append(joined[start : start + size])
        start += size
    return pieces


def _rounded(count: int) -> int:
    """Batches of about the same size share a format."""
    step = 64 if count <= 512 else 512
    return -(-count // step) * step


@functools.lru_cache(maxsize=16)
def _blocks(count: int) -> struct.Struct:
    return struct.Struct(f"{BLOCK}s" * count)
