"""The gate: a last look at every outgoing record for card numbers in clear, wherever no rule expected them.

A card number (schemas/cards.py) stands alone or in the groups that cards are printed in, with one space or dash between. What
the schema marks as another kind of number (imei, imsi, iccid, msisdn, ids) is left alone, as are keys of open fields that are
called so, UUIDs, hashes in hex, and the digits behind a decimal point.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Any

import msgspec

from pipeline.card_search import CardSearch, Found
from pipeline.paths import Loads, Location, Names, is_within, parse, resolve, text
from schemas.compiling import compiled
from schemas.fields import Field
from stream.reader import OWN_HEADERS
from stream.records import Record

KINDS = ("imei", "imsi", "iccid", "msisdn")
"""Kinds of numbers that are no cards' by their name alone, in fields of any schema and keys of open fields."""
_IN_A_FIELD = re.compile(rb'[^\\]":("?)-?\Z')
_FIELD_BYTES = 5
"""As much as that takes. A quote behind a backslash ends no name: it stands in a text."""
_headers = attrgetter("headers")
_NO_SEPARATORS = str.maketrans("", "", " -")

Values = Callable[[Any], tuple[Any, ...]]


class Gate:
    """Looks for card numbers in the records of one pipeline. Raises InvalidPath.

    `hidden` are the paths of fields whose text only looks like digits: hashes, and what is encrypted in hex. What stands in them
    is written by rules, never by a producer. `encrypted` are the paths of what is encrypted: of an object nothing is left below.
    """

    def __init__(
        self,
        record: type[msgspec.Struct],
        fields: Sequence[Field],
        hidden: Sequence[str],
        encrypted: Sequence[str] = (),
    ) -> None:
        whole = list(map(parse, encrypted))
        numbers = [field for top in fields for field in top.walk() if field.number_kind]
        marked = [field for field in numbers if not _is_below(parse(field.text_path), whole)]
        kinds = [resolve(field.text_path, record) for field in marked if field.number_kind in KINDS]
        ids = [resolve(field.text_path, record) for field in marked if field.number_kind not in KINDS]
        self._marked = {field.path for field in marked}
        self._kinds = _values(kinds)
        self._ids = _values(ids)
        self._hidden = _values([resolve(path, record) for path in hidden])
        self._search = CardSearch(KINDS)

    def __call__(self, raw: Sequence[Record], batch: Sequence[Any], lines: bytes) -> dict[int, str]:
        """Which records of a batch hold a card number in clear, and the path of the field; "" if it is in the key, or in a header
        that goes on with the record.

        `raw`, `batch` and `lines` go together: the record as it came, as it is now, and as a line of JSON.
        """
        beside = [record.key or b"" for record in raw]
        headed: list[int] = []
        for at, headers in enumerate(map(_headers, raw)):
            if headers:
                others = [one for one in headers if not one[0].startswith(OWN_HEADERS)]
                beside += [b"%s %s" % (name.encode(), value or b"") for name, value in others]
                headed += [at] * len(others)
        owners, found = [*range(len(raw)), *headed, *range(len(raw))], dict[int, str]()
        texts: list[bytes] = []
        for one in self._search(beside, lines):
            texts = texts or [*beside, *lines.split(b"\n")]
            owner, within = owners[one.text], one.text >= len(beside)
            told = owner in found and not (within and found[owner] == "")  # a field tells more than a key
            if not told and not self._is_another_kind(one, texts[one.text], batch[owner]):
                found[owner] = self._place(batch[owner], one.digits.decode()) if within else ""
        return found

    def _is_another_kind(self, card: Found, whole: bytes, record: Any) -> bool:
        digits = card.digits.decode()
        if digits in map(str, self._kinds(record)):
            return True
        if any(digits in one for one in self._hidden(record) if isinstance(one, str)):
            return True
        return _is_alone(card, whole) and digits in (str(one).removeprefix("-") for one in self._ids(record))

    def _place(self, record: Any, digits: str) -> str:
        """The path of the first field of the schema that holds these digits, or is an object that does."""
        for names, held in _leaves(record, ()):
            if digits in held.translate(_NO_SEPARATORS) and names not in self._marked:
                return text(names)
        return ""


def _is_alone(card: Found, whole: bytes) -> bool:
    """Whether a number is a value of its own, in a field or as the whole key: only there it may be an id."""
    if whole.removeprefix(b"-") == card.digits:
        return True
    end = card.at + len(card.digits)
    field = _IN_A_FIELD.search(whole[max(0, card.at - _FIELD_BYTES) : card.at])
    if field is None or whole[card.at : end] != card.digits:
        return False
    return whole[end : end + 1] in ((b'"',) if field[1] else (b",", b"}", b"]"))


def _is_below(names: Names, outer: Sequence[Names]) -> bool:
    return any(len(names) > len(one) and is_within(names, one) for one in outer)


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
        for name, held in zip(value.__struct_encode_fields__, value.__struct_fields__, strict=True):
            yield from _leaves(getattr(value, held), (*names, name))
    elif isinstance(value, dict):
        for key, below in value.items():
            yield names, key
            yield from _leaves(below, names)
    elif isinstance(value, list):
        for below in value:
            yield from _leaves(below, names)
    elif isinstance(value, msgspec.Raw):
        yield names, bytes(value).decode()  # what stands twice in it, too
    else:
        yield names, value.decode("latin-1") if isinstance(value, bytes) else str(value)
