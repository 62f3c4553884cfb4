"""Records as people may look at them: nothing that the schema marks as sensitive, nothing that may be a card number.

What the schema names and does not mark is shown. Of everything else only its kind and size is: a record that was refused may hold
anything anywhere.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from schemas.cards import LONGEST, SHORTEST, is_card_number, is_security_code, plain_name
from schemas.drift import parsed
from schemas.fields import Field

Path = tuple[str | int, ...]
"""Names of fields and keys, and places in lists, from 0."""

_DIGITS = re.compile(r"\d(?:[\s.\-_/\u2010-\u2015\u200b-\u200d\u2060\ufeff]{0,2}\d){12,}")
"""13 or more digits, perhaps set apart: whether it is a card's number is not asked."""
_DIGITS_OF_A_NUMBER = re.compile(r"\d{13}")
_THIRTEEN_DIGITS = 10**12
_LONGEST = 300
_encode = msgspec.json.Encoder(decimal_format="number").encode
_UNREADABLE_AT = re.compile(r"\(byte (\d+)\)")


class Mask:
    """Shows records of one subject as JSON text. Not for machines: values are replaced by what they are, in angle brackets."""

    def __init__(self, fields: Sequence[Field], secret: Iterable[Path] = ()) -> None:
        """`secret`: paths of further fields that are to be hidden, with all that is in them."""
        self._fields = {field.name: field for field in fields}
        self._secret = frozenset(secret)
        everywhere = [field for top in fields for field in top.walk()]
        open_names = {plain_name(field.name) for field in everywhere if not field.sensitive}
        self._names = {plain_name(field.name) for field in everywhere if field.sensitive} - open_names
        """What only sensitive fields are called: hidden inside open fields too, as security codes are."""

    def __call__(self, value: bytes | None) -> str:
        """A record's value, pretty, or in angle brackets what it is if it is no JSON object. Raises nothing."""
        try:
            record = parsed(value or b"")
            if type(record) is dict:
                shown = _encode(self._record(record, self._fields, ()))
                return visible(msgspec.json.format(shown, indent=2).decode())
        except RecursionError:
            return f"<{len(value or b''):,} bytes, nested too deep to be shown>"
        except (ValueError, ArithmeticError):
            pass
        return described(value)

    def _record(self, record: dict[str, Any], fields: Mapping[str, Field], path: Path) -> dict[str, Any]:
        return {
            without_numbers(name): self._field(value, fields.get(name), (*path, name)) for name, value in record.items()
        }

    def _field(self, value: Any, field: Field | None, path: Path) -> Any:
        if value is None:
            return None
        if field is None or field.sensitive or path in self._secret:
            return _kind_of(value)
        if field.kind == "record":
            below = {one.name: one for one in field.fields}
            return self._record(value, below, path) if type(value) is dict else _kind_of(value)
        if field.kind in ("json", "object"):
            return self._open(value, path)
        if field.kind == "array" and type(value) is list:
            return [
                _kind_of(one) if (*path, place) in self._secret else _scalar(one) for place, one in enumerate(value)
            ]
        return _scalar(value, exempt=field.number_kind != "")

    def _open(self, value: Any, path: Path) -> Any:
        name = str(path[-1])
        if path in self._secret or plain_name(name) in self._names or is_security_code(name):
            return None if value is None else _kind_of(value)
        if type(value) is dict:
            return {without_numbers(name): self._open(below, (*path, name)) for name, below in value.items()}
        if type(value) is list:
            return [self._open(below, (*path, place)) for place, below in enumerate(value)]
        if type(value) is str and value.lstrip()[:1] in ("{", "["):  # JSON as text, whose fields cannot be told
            return _kind_of(value)
        return _scalar(value)


def without_numbers(text: str) -> str:
    """Text in which every run of 13 or more digits is replaced by how many they are; no more of it than a line or two."""
    shown = _DIGITS.sub(lambda found: f"<{sum(map(str.isdigit, found[0]))} digits>", text)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}<{len(text):,} characters>"


def without_cards(text: str) -> str:
    """Text in which every run of digits that holds a card number, perhaps set apart, is replaced by how many they are."""

    def hidden(found: re.Match[str]) -> str:
        digits = "".join(str(unicodedata.digit(one)) for one in found[0] if one.isdigit()).encode()
        starts = range(len(digits) - SHORTEST + 1)
        cards = any(is_card_number(digits[at : at + size]) for at in starts for size in range(SHORTEST, LONGEST + 1))
        return f"<{len(digits)} digits>" if cards else found[0]

    return _DIGITS.sub(hidden, text)


def described(value: bytes | None) -> str:
    """What a value is that is no JSON object: its form and size, in angle brackets, never what is in it."""
    if value is None:
        return "<no value, a tombstone>"
    if value[:1] == b"\0" and len(value) > 4:
        form = f"framed as Avro with schema id {int.from_bytes(value[1:5], 'big')}"
    else:
        form = _form(value)
    return f"<{len(value):,} bytes, {form}>"


def _form(value: bytes) -> str:
    try:
        return f"JSON, but no object: {_kind_of(parsed(value))[1:-1]}"
    except msgspec.ValidationError:
        return "JSON with a number that is out of range"
    except msgspec.DecodeError as error:
        at = _UNREADABLE_AT.search(str(error))
        return f"no JSON from byte {at[1]} on" if at else "no JSON to its end: it is cut off"
    except UnicodeDecodeError:
        return "no UTF-8"
    except (ValueError, ArithmeticError, RecursionError):
        return "no JSON that can be read"


def visible(text: str) -> str:
    """Text for a terminal: what is not printable, but line ends, as its code."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one == "\n" else _code(one) for one in text)


def _code(character: str) -> str:
    """As JSON writes it: beyond U+FFFF in two halves."""
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def _kind_of(value: Any) -> str:
    kinds: tuple[tuple[type | tuple[type, ...], Callable[[Any], str]], ...] = (
        (str, lambda text: f"<text of {len(text):,} characters>"),
        (bool, lambda _: "<true or false>"),
        ((int, Decimal, float), lambda _: "<a number>"),
        (dict, lambda held: f"<an object of {len(held):,}>"),
        (list, lambda held: f"<a list of {len(held):,}>"),
    )
    return next((say(value) for kind, say in kinds if isinstance(value, kind)), "<null>")


def _scalar(value: Any, *, exempt: bool = False) -> Any:
    """A text, number, boolean or null; of a container only what it is. `exempt`: the schema says what kind of number it is, so
    it is shown unless it is one that a card's issuer gives out."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value if exempt and _is_no_card(value) else without_numbers(value)
    if isinstance(value, int):
        shown = abs(value) < _THIRTEEN_DIGITS or (exempt and value < 2**63 and _is_no_card(str(value)))
        return value if shown else _kind_of(value)
    if isinstance(value, Decimal) and not _DIGITS_OF_A_NUMBER.search(str(value)):
        return value
    return _kind_of(value)


def _is_no_card(text: str) -> bool:
    """Whether it is a number of at most 20 digits that no issuer of cards gives out."""
    return text.isascii() and text.isdigit() and len(text) <= 20 and not is_card_number(text.encode())
