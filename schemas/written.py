"""Open objects that nothing looks into go out as they were written: they are neither parsed nor encoded.

A look at those of a batch together tells which have to be parsed after all. Of those that programs write without blanks and
escapes that is nearly none.
"""

from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import re2
from numpy.typing import NDArray

from schemas.values import MAX_DEPTH

_BETWEEN, _END = b"\0", 0  # no JSON holds it
_OBJECT, _NULL, _BACKSLASH, _QUOTE, _Q = b'{n\\"q'
_BRACKET_BIT = 0x20  # braces and brackets differ in it alone
_QUOTA = b'"quota"'
_CLASSES = bytes({**dict.fromkeys(b" \n\r\t", 1), **dict.fromkeys(b'{}[],:"', 2)}.get(byte, 0) for byte in range(256))
"""For `_blanks`: 1 for a blank, 2 for what stands around values."""

_NUMBER = rb"[:,\[]-?(?:9[0-9]{18}|[0-9]{20}|[0-9](?:\.[0-9]+)?[eE](?:[+0-9]|-[0-9]{3})|[0-9]{2,}(?:\.[0-9]+)?[eE])"
"""Other numbers have 64 bits at most, or are within a double. Their digits are as they are written, or those of a fraction."""
_BLANK = rb'[{}\[\],:"][ \n\r\t]|[ \n\r\t][{}\[\],:"]'
"""Between two values, unless it begins or ends a text. Without any there is nothing between values."""
_find_number = re2.compile(_NUMBER).search
_find_number_or_blank = re2.compile(_NUMBER + b"|" + _BLANK).search

Bytes = NDArray[np.uint8]
Flags = NDArray[np.bool_]
Places = NDArray[np.intp]

parse: Callable[[msgspec.Raw], Any] = msgspec.json.Decoder(dict, float_hook=Decimal).decode
"""The object that a JSON value is. Raises ValueError, ArithmeticError and RecursionError for others."""


def to_parse(values: Sequence[msgspec.Raw], depth: int) -> list[int]:
    """Which of these JSON values, each of which lies inside `depth` others, may hold what none may, or have to be written anew.

    The others are objects or null, in UTF-8, without escapes and without blanks between values. Numbers in them show their
    digits and have 64 bits, or are within a double. Nothing lies deeper than MAX_DEPTH, and nothing is called quota, which has
    forms of its own (`settling.settle_quota`).
    """
    if not values:
        return []
    text = _BETWEEN.join([b"", *values, b""])
    content = np.frombuffer(text, np.uint8)
    ends = _places(content == _END)
    first, brackets = content[ends[:-1] + 1], content | _BRACKET_BIT == _OBJECT
    odd = (first != _OBJECT) & (first != _NULL)
    odd |= _counts(_places(brackets), ends) > MAX_DEPTH - depth
    if b"\\" in text:
        odd |= _counts(_places(content == _BACKSLASH), ends) > 0
    numbers, search, at = list[int](), _find_number_or_blank, 0
    while not odd.all() and (match := search(text, at)):
        at = match.start()
        if match[0] == b"".join(match[0].split()):
            numbers.append(at)
            at = text.index(_BETWEEN, at)
        else:  # then many have blanks
            odd |= _counts(_places(_blanks(text)), ends) > 0
            search = _find_number
    odd |= _counts(numbers, ends) > 0
    odd |= _counts(list(_quotas(text, content)), ends) > 0
    if not _is_utf8(text):
        odd |= [not _is_utf8(bytes(value)) for value in values]
    return list(map(int, _places(odd)))


def _places(flags: Flags) -> Places:
    found: Places = flags.nonzero()[0]
    return found


def _counts(places: Places | list[int], ends: Places) -> Places:
    """How many of these places lie in each of the values."""
    return np.diff(np.searchsorted(places, ends))


def _blanks(text: bytes) -> Flags:
    """Where two bytes are as _BLANK has them."""
    classes = np.frombuffer(text.translate(_CLASSES), np.uint8)
    found: Flags = classes[:-1] + classes[1:] == 3
    return found


def _quotas(text: bytes, content: Bytes) -> Iterator[int]:
    names = _places(content == _Q) - 1
    for place in names[content[names] == _QUOTE].tolist():
        if text.startswith(_QUOTA, place):
            yield place


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
