"""The gate: a last look at every outgoing record for card numbers in clear, wherever no rule expected them.

A card number (schemas/cards.py) stands alone or in the groups that cards are printed in, with spaces or dashes. What the schema
marks as another kind of number (imei, imsi, iccid, msisdn, ids) is left alone, as are keys of open fields that are called so,
UUIDs, hashes in hex, and the digits behind a decimal point.
"""

import itertools
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from pipeline.paths import Loads, Location, Names, compiled, resolve, text
from schemas.cards import ISSUED, SHORTEST, is_card_number, passes_luhn
from schemas.fields import Field
from stream.reader import OWN_HEADERS
from stream.records import Record

_SHAPES = bytes(48 if 48 <= byte <= 57 else 45 if byte in b" -" else 120 for byte in range(256))
"""Every digit is 0, a space or a dash is -, everything else is x."""
_RUN, _GROUPS = b"0" * SHORTEST, b"0000-0000"
_PLAIN = re.compile(ISSUED + rb"(?![0-9])")
_GROUPED = tuple(
    re.compile(rb"(?<![0-9])" + groups + rb"(?![0-9])")
    for groups in (
        rb"[0-9]{4}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{1,7}",
        rb"[0-9]{4}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{4}\1[0-9]{1,3}",
        rb"[0-9]{4}([ -])[0-9]{6}\1[0-9]{4,5}",
    )
)
_ESCAPE, _ESCAPED, _ESCAPE_BYTES = b"\\u00", re.compile(rb"\\u00[0-9a-fA-F]{2}"), 6
"""How control characters stand in JSON. Their digits are none of a number that follows them, as it does in a card's track."""
_UUID_BYTES = 36
_UUID = re.compile(rb"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_HEX = re.compile(rb"(?=[0-9]*[A-Fa-f][0-9]*[A-Fa-f])[0-9A-Fa-f]{24,}")
"""Of a hash or an id in hex: longer than a number with a letter before it, and with more than one letter in it."""
_WORD = re.compile(rb"[0-9A-Za-z]*")
_KINDS = frozenset({"imei", "imsi", "iccid", "msisdn"})
_OF_A_KIND = re.compile(rb'"[A-Za-z_]*(?:imei|imsi|iccid|msisdn)[A-Za-z_]*":"?\Z', re.IGNORECASE)
_IN_A_FIELD = re.compile(rb'":"?\Z')
_NAME_BYTES = 64
_NO_SEPARATORS = str.maketrans("", "", " -")
_ZERO, _POINT = ord("0"), ord(".")

Values = Callable[[Any], tuple[Any, ...]]


def card_numbers(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The card numbers in a text or in JSON: where each begins, and its digits without separators."""
    if _ESCAPE in content:
        content = _ESCAPED.sub(b"x" * _ESCAPE_BYTES, content)
    shapes = content.translate(_SHAPES)
    at = shapes.find(_RUN)
    while at >= 0:
        match = _PLAIN.match(content, at)
        if match and passes_luhn(match[0]) and not _goes_on(content, shapes, at) and not _is_hexadecimal(content, at):
            yield at, match[0]
        at = shapes.find(_RUN, at + SHORTEST)
    at = shapes.find(_GROUPS)
    while at >= 0:
        for grouped in _GROUPED:
            match = grouped.match(content, at)
            digits = match[0].translate(None, b" -") if match else b""
            if is_card_number(digits) and not _is_in_a_uuid(content, at):
                yield at, digits
        at = shapes.find(_GROUPS, at + 1)


def _goes_on(content: bytes, shapes: bytes, at: int) -> bool:
    """Whether digits go on from others before them, or from the decimal point of a number."""
    return at > 0 and (shapes[at - 1] == _ZERO or (content[at - 1] == _POINT and at > 1 and shapes[at - 2] == _ZERO))


def _is_hexadecimal(content: bytes, at: int) -> bool:
    """Whether the word around is a hash, or an id in hex."""
    before = _WORD.match(content[max(0, at - 2 * _UUID_BYTES) : at][::-1])
    start = at - len(before[0] if before else b"")
    word = _WORD.match(content, start)
    return word is not None and _HEX.fullmatch(word[0]) is not None


def _is_in_a_uuid(content: bytes, at: int) -> bool:
    start = max(0, at - _UUID_BYTES)
    return any(one.start() <= at < one.end() for one in _UUID.finditer(content, start, at + 2 * _UUID_BYTES))


class Gate:
    """Looks for card numbers in the records of one pipeline. Raises InvalidPath.

    `hidden` are the paths of fields whose text only looks like digits: hashes, and what is encrypted in hex. What stands in them
    is written by rules, never by a producer.
    """

    def __init__(self, record: type[msgspec.Struct], fields: Sequence[Field], hidden: Sequence[str]) -> None:
        marked = [field for top in fields for field in top.walk() if field.number_kind]
        kinds = [resolve(field.text_path, record) for field in marked if field.number_kind in _KINDS]
        ids = [resolve(field.text_path, record) for field in marked if field.number_kind not in _KINDS]
        self._marked = {field.path for field in marked}
        self._kinds = _values(kinds)
        self._ids = _values(ids)
        self._hidden = _values([resolve(path, record) for path in hidden])

    def __call__(self, raw: Sequence[Record], batch: Sequence[Any], values: Sequence[bytes]) -> dict[int, str]:
        """Which records of a batch hold a card number in clear, and the path of the field; "" if it is in the key, or in a header
        that goes on with the record.

        `raw`, `batch` and `values` go together: the record as it came, as it is now, and as JSON.
        """
        everybody = range(len(batch))
        found = self._among(values, batch, everybody)
        headers = [
            (b"%s %s" % (name.encode(), value or b""), at)
            for at, record in enumerate(raw)
            for name, value in record.headers
            if not name.startswith(OWN_HEADERS)
        ]
        beside = self._among([record.key or b"" for record in raw], batch, everybody)
        beside |= self._among([header for header, _ in headers], batch, [at for _, at in headers])
        return dict.fromkeys(beside, "") | {at: self._place(batch[at], digits) for at, digits in found.items()}

    def _among(self, texts: Sequence[bytes], batch: Sequence[Any], owners: Sequence[int]) -> dict[int, str]:
        """Which records are owners of a text that holds a card number, and a number of each."""
        found: dict[int, str] = {}
        joined = b"\n".join(texts)  # one look at them all: mostly there is nothing
        ends: list[int] = []
        for at, number in card_numbers(joined):
            ends = ends or list(itertools.accumulate(len(text) + 1 for text in texts))
            place = bisect_right(ends, at)
            owner, digits = owners[place], number.decode()
            if owner not in found and not self._is_another_kind(joined, at, digits, texts[place], batch[owner]):
                found[owner] = digits
        return found

    def _is_another_kind(self, joined: bytes, at: int, digits: str, whole: bytes, record: Any) -> bool:
        before = joined[max(0, at - _NAME_BYTES) : at]
        if _OF_A_KIND.search(before) or digits in map(str, self._kinds(record)):
            return True
        if any(digits in one for one in self._hidden(record) if isinstance(one, str)):
            return True
        # An id is one where it stands as a value of its own: in its field, or as the whole key.
        alone = whole == digits.encode() or _IN_A_FIELD.search(before) is not None
        return alone and digits in map(str, self._ids(record))

    def _place(self, record: Any, digits: str) -> str:
        """The path of the first field of the schema that holds these digits, or is an object that does."""
        for names, held in _leaves(record, ()):
            if digits in held.translate(_NO_SEPARATORS) and names not in self._marked:
                return text(names)
        return ""


def _values(locations: Sequence[Location]) -> Values:
    """A function that gives what stands in these fields of a record."""
    loads = Loads(locations)
    values = "".join(f"{loads.variables[at.path]}, " for at in locations)
    lines = ["def values(r):", *(f"    {line}" for line in loads.lines), f"    return ({values})"]
    found: Values = compiled("values", lines, {})
    return found


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
