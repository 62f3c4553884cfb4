"""Open objects that nothing looks into go out as they were written, in the same bytes: they are neither parsed nor encoded.

A look at those of a batch together tells which have to be parsed after all: nearly none.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import re2

from schemas.values import MAX_DEPTH

_BETWEEN, _END = b"\0", 0  # no JSON holds it
_LONG = rb"[:,\[ .-][0-9]{19}"
_EXPONENT = rb"[:,\[ ]-?[0-9]+(?:\.[0-9]+)?[eE]"
"""A number with neither so many digits nor an exponent has 64 bits at most, or is within a double, and shows its digits."""
_QUOTA = rb'"quota"'
"""The one object that has forms of its own (`settling.settle_quota`)."""
_NOT_SO = rb"[\\\n\r\t]"
"""Escapes, behind which no card number would be found, and what stands between tokens but blanks: a record is one line."""
_search = re2.compile(b"|".join([_LONG, _EXPONENT, _QUOTA, _NOT_SO])).search
_OBJECT, _NULL, _BRACKET_BIT = ord("{"), ord("n"), 0x20

parse: Callable[[msgspec.Raw], Any] = msgspec.json.Decoder(dict, float_hook=Decimal).decode
"""The object that a JSON value is. Raises ValueError, ArithmeticError and RecursionError for others."""


def to_parse(values: Sequence[msgspec.Raw], depth: int) -> list[int]:
    """Which of these JSON values, each of which lies inside `depth` others, may hold what none may, or have to be rewritten.

    The others are objects or null, in UTF-8, on one line and without escapes; numbers in them have no exponent and 64 bits, or
    are within a double; and nothing lies deeper than MAX_DEPTH.
    """
    if not values:
        return []
    text = _BETWEEN.join([b"", *values, b""])
    content = np.frombuffer(text, np.uint8)
    ends = (content == _END).nonzero()[0]
    first = content[ends[:-1] + 1]
    brackets = (content | _BRACKET_BIT == _OBJECT).nonzero()[0]  # braces and brackets differ in that bit alone
    odd = (first != _OBJECT) & (first != _NULL)
    odd |= np.diff(np.searchsorted(brackets, ends)) + depth > MAX_DEPTH
    found = {*odd.nonzero()[0].tolist(), *_marked(text, ends.tolist())}
    if not _is_utf8(text):
        found.update(at for at, value in enumerate(values) if not _is_utf8(bytes(value)))
    return sorted(found)


def _marked(text: bytes, ends: Sequence[int]) -> Iterator[int]:
    """The texts that hold something of what `_search` looks for. The first begins behind the first of the ends."""
    match = _search(text)
    while match:
        number = bisect_left(ends, match.start()) - 1
        yield number
        match = _search(text, ends[number + 1])


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
