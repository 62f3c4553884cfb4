"""The work that every candidate does to a record, by hand: drop `.buffer`, route by result and total, encrypt five card fields.

`transform_one` is what one writes first; `transform_batch` what one writes when it must be fast. Both take well-formed
records alone, check nothing, and agree with `openssl enc -aes-256-cfb`.
"""

import binascii
import os
from collections.abc import Iterator
from typing import Any

import orjson
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

KEY = b"only for a benchmark: no secret."
FIELDS = ("cc_number", "cc_exp", "cc_cvv", "cc_zip", "cc_name")
IV_FIELDS = tuple(f"{field}_iv" for field in FIELDS)
ROUTES = ("success", "fail", "unmatched")

_AES = algorithms.AES(KEY)
_BLOCK = Cipher(_AES, modes.ECB()).encryptor()  # noqa: S305  CFB's own building block, each block with a new IV; keeps no state

# For a first block of 0 to 16 bytes: what cuts it to its length, and how its base64 text ends.
_MASKS = [b"\xff" * length + b"\0" * (16 - length) for length in range(17)]
_DIGITS = [(length * 8 + 5) // 6 for length in range(17)]
_PADS = ["=" * (-length % 3) for length in range(17)]


def transform_one(value: bytes) -> tuple[int, dict[str, Any]]:
    """The record and the index of its route; a cipher object for each field."""
    record = orjson.loads(value)
    record.pop("buffer", None)
    card = (record.get("transaction") or {}).get("cc")
    if card is not None:
        for field, iv_field in zip(FIELDS, IV_FIELDS, strict=True):
            iv = os.urandom(16)
            encryptor = Cipher(_AES, CFB(iv)).encryptor()
            secret = encryptor.update(card[field].encode()) + encryptor.finalize()
            card[field] = binascii.b2a_base64(secret, newline=False).decode()
            card[iv_field] = binascii.b2a_base64(iv, newline=False).decode()
    return _route(record), record


def transform_batch(values: list[bytes]) -> list[tuple[int, dict[str, Any]]]:
    """The same for many records, in order; one AES call for the first blocks of all their fields."""
    records = list(map(orjson.loads, values))
    cards = []
    for record in records:
        record.pop("buffer", None)
        transaction = record.get("transaction")
        if transaction:
            cards.append(transaction["cc"])
    if cards:
        encrypt_batch(cards)
    return [(_route(record), record) for record in records]


def _route(record: dict[str, Any]) -> int:
    transaction = record.get("transaction")
    if not transaction or transaction["total_price"] < 0:
        return 2
    return 0 if transaction["result"] in (True, "success") else 1


def encrypt_batch(cards: list[dict[str, Any]]) -> None:
    """AES-256-CFB of five fields of each card, in place, value and IV as base64."""
    plain = [card[field].encode() for card in cards for field in FIELDS]
    count = len(plain)
    lengths = [length if length < 16 else 16 for length in map(len, plain)]
    ivs = os.urandom(16 * count)
    blocks = _xor(_BLOCK.update(ivs), (b"%-16.16s" * count) % tuple(plain))
    mask = b"".join(map(_MASKS.__getitem__, lengths))
    cut = (int.from_bytes(blocks, "little") & int.from_bytes(mask, "little")).to_bytes(16 * count, "little")
    digits, iv_digits = _base64_of_blocks(cut).decode(), _base64_of_blocks(ivs)
    iv_digits[22::24] = iv_digits[23::24] = b"=" * count
    iv_text = iv_digits.decode()
    starts = range(0, 24 * count, 24)
    secrets = [digits[at : at + _DIGITS[length]] + _PADS[length] for at, length in zip(starts, lengths, strict=True)]
    iv_texts = [iv_text[at : at + 24] for at in starts]
    for card, secret, iv in zip(cards, _fives(secrets), _fives(iv_texts), strict=True):
        card["cc_number"], card["cc_exp"], card["cc_cvv"], card["cc_zip"], card["cc_name"] = secret
        card["cc_number_iv"], card["cc_exp_iv"], card["cc_cvv_iv"], card["cc_zip_iv"], card["cc_name_iv"] = iv
    long = [index for index, each in enumerate(plain) if len(each) > 16]
    if long:
        _encrypt_rest(cards, plain, blocks, long)


def _fives(texts: list[str]) -> Iterator[tuple[str, ...]]:
    each = iter(texts)
    return zip(each, each, each, each, each, strict=True)


def _encrypt_rest(cards: list[dict[str, Any]], plain: list[bytes], blocks: bytes, long: list[int]) -> None:
    """The fields longer than a block: the next block of all of them in one call, until none is left."""
    secret = {index: blocks[16 * index : 16 * index + 16] for index in long}
    at = 16
    while long:
        keystream = _BLOCK.update(b"".join([secret[index][at - 16 : at] for index in long]))
        for number, index in enumerate(long):
            piece = plain[index][at : at + 16]
            secret[index] += _xor(keystream[16 * number : 16 * number + len(piece)], piece)
        at += 16
        long = [index for index in long if len(plain[index]) > at]
    for index, each in secret.items():
        cards[index // 5][FIELDS[index % 5]] = binascii.b2a_base64(each, newline=False).decode()


def _xor(one: bytes, other: bytes) -> bytes:
    return (int.from_bytes(one, "little") ^ int.from_bytes(other, "little")).to_bytes(len(one), "little")


def _base64_of_blocks(blocks: bytes) -> bytearray:
    """24 characters for each block of 16 bytes: two zero bytes behind each keep them apart, in one call for all."""
    spread = bytearray(len(blocks) // 16 * 18)
    for place in range(16):
        spread[place::18] = blocks[place::16]
    return bytearray(binascii.b2a_base64(spread, newline=False))
