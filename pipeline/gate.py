"""The gate: a last look at every outgoing record for card numbers in clear, wherever no rule expected them.

A card number is 13 to 19 digits that begin as an issuer's do and pass Luhn's check (ISO/IEC 7812-1), alone or in the groups that
cards are printed in, with spaces or dashes. What the schema marks as another kind of number (imei, iccid, msisdn, ids) is
left alone, as are keys of open fields that are called so, and the digits behind a decimal point.
"""

import itertools
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from pipeline.paths import Loads, Names, compiled, resolve, text
from schemas.cards import ISSUER, SHORTEST, passes_luhn
from schemas.fields import Field
from stream.records import Record

_SHAPES = bytes(48 if 48 <= byte <= 57 else 45 if byte in b" -" else 120 for byte in range(256))
"""Every digit is 0, a space or a dash is -, everything else is x."""
_RUN, _GROUPS = b"0" * SHORTEST, b"0000-0000"
_PLAIN = re.compile(rb"(?=([0-9]{13,19})(?![0-9]))" + ISSUER)
_GROUPED = tuple(
    re.compile(rb"(?<![0-9])(?=(" + groups + rb")(?![0-9]))" + ISSUER)
    for groups in (
        rb"[0-9]{4}([ -])[0-9]{4}\2[0-9]{4}\2[0-9]{1,7}",
        rb"[0-9]{4}([ -])[0-9]{4}\2[0-9]{4}\2[0-9]{4}\2[0-9]{1,3}",
        rb"[0-9]{4}([ -])[0-9]{6}\2[0-9]{4,5}",
    )
)
_OTHER_KINDS = tuple(
    b'"%s":%s' % (name, quote) for name in (b"imei", b"imeisv", b"imsi", b"iccid", b"msisdn") for quote in (b"", b'"')
)
"""What stands before another kind of number, in open fields too."""
_NO_SEPARATORS = str.maketrans("", "", " -")
_ZERO, _POINT = ord("0"), ord(".")

Exempt = Callable[[Any], tuple[Any, ...]]


def card_numbers(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The card numbers in it: where each begins, and its digits without separators."""
    shapes = content.translate(_SHAPES)
    at = shapes.find(_RUN)
    while at >= 0:
        if (match := _PLAIN.match(content, at)) and not _goes_on(content, shapes, at) and passes_luhn(match[1]):
            yield at, match[1]
        at = shapes.find(_RUN, at + SHORTEST)
    at = shapes.find(_GROUPS)
    while at >= 0:
        for grouped in _GROUPED:
            if (match := grouped.match(content, at)) and passes_luhn(digits := match[1].translate(None, b" -")):
                yield at, digits
        at = shapes.find(_GROUPS, at + 1)


def _goes_on(text: bytes, shapes: bytes, at: int) -> bool:
    """Whether digits go on from others before them, or from a decimal point."""
    return at > 0 and (shapes[at - 1] == _ZERO or (text[at - 1] == _POINT and at > 1 and shapes[at - 2] == _ZERO))


class Gate:
    """Looks for card numbers in the records of one pipeline. Raises InvalidPath.

    `hidden` are the paths of fields whose text only looks like digits: hashes, and what is encrypted in hex.
    """

    def __init__(self, record: type[msgspec.Struct], fields: Sequence[Field], hidden: Sequence[str]) -> None:
        marked = [field.text_path for top in fields for field in top.walk() if field.number_kind]
        locations = [resolve(path, record) for path in (*marked, *hidden)]
        loads = Loads(locations)
        values = "".join(f"{loads.variables[at.path]}, " for at in locations)
        lines = ["def exempt(r):", *(f"    {line}" for line in loads.lines), f"    return ({values})"]
        self._exempt: Exempt = compiled("exempt", lines, {})

    def __call__(self, raw: Sequence[Record], batch: Sequence[Any], values: Sequence[bytes]) -> dict[int, str]:
        """Which records of a batch hold a card number in clear, and the path of the field; "" if it is in the key, or in a header
        that goes on with the record.

        `raw`, `batch` and `values` go together: the record as it came, as it is now, and as JSON.
        """
        everybody = range(len(batch))
        found = self._among(values, batch, everybody)
        headers = [(value or b"", at) for at, record in enumerate(raw) for _, value in record.headers]
        beside = self._among([record.key or b"" for record in raw], batch, everybody)
        beside |= self._among([value for value, _ in headers], batch, [at for _, at in headers])
        return dict.fromkeys(beside, "") | {at: _place(batch[at], digits) for at, digits in found.items()}

    def _among(self, texts: Sequence[bytes], batch: Sequence[Any], owners: Sequence[int]) -> dict[int, str]:
        """Which records are owners of a text that holds a card number, and a number of each."""
        found: dict[int, str] = {}
        joined = b"\n".join(texts)  # one look at them all: mostly there is nothing
        ends: list[int] = []
        for at, number in card_numbers(joined):
            if joined.endswith(_OTHER_KINDS, 0, at):
                continue
            ends = ends or list(itertools.accumulate(len(text) + 1 for text in texts))
            owner, digits = owners[bisect_right(ends, at)], number.decode()
            if owner not in found and not self._is_exempt(digits, batch[owner]):
                found[owner] = digits
        return found

    def _is_exempt(self, digits: str, record: Any) -> bool:
        return any(digits in str(one) for one in self._exempt(record) if isinstance(one, str | int))


def _place(value: Any, digits: str) -> str:
    """The path of the first field of the schema that holds these digits, or is an object that does."""
    return next((text(names) for names, held in _leaves(value, ()) if digits in held.translate(_NO_SEPARATORS)), "")


def _leaves(value: Any, names: Names) -> Iterator[tuple[Names, str]]:
    """Every text and number that a value holds, keys of open fields too, with the names from the schema that lead to it."""
    if isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from _leaves(getattr(value, name), (*names, name))
    elif isinstance(value, dict):
        for key, below in value.items():
            yield names, key
            yield from _leaves(below, names)
    elif isinstance(value, list):
        for below in value:
            yield from _leaves(below, names)
    else:
        yield names, value.decode("latin-1") if isinstance(value, bytes) else str(value)
