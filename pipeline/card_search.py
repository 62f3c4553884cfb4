"""Finds the card numbers in many texts at once. Nearly no text holds one, so what counts is how fast that is seen.

numpy looks at every byte, a window at a time: some ten operations that the processor does on 16 to 64 bytes each. They leave
the runs of digits that are as long as a number, about one for each record; those that begin like an issuer's are looked at by
themselves.
"""

import functools
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.cards import ISSUED, LONGEST, SHORTEST, is_card_number, is_issued, passes_luhn

_PLAIN = re.compile(ISSUED + rb"(?![0-9])")
_GROUPED = tuple(
    re.compile(rb"(?<![0-9])" + groups + rb"(?![0-9])")
    for groups in (
        rb"[0-9]{4}[ -][0-9]{4}[ -][0-9]{4}[ -][0-9]{1,7}",
        rb"[0-9]{4}[ -][0-9]{4}[ -][0-9]{4}[ -][0-9]{4}[ -][0-9]{1,3}",
        rb"[0-9]{4}[ -][0-9]{6}[ -][0-9]{4,5}",
    )
)
_BACKSLASH, _ESCAPE, _ESCAPED, _ESCAPE_BYTES = b"\\", b"\\u00", re.compile(rb"\\u00[0-9a-fA-F]{2}"), 6
"""How control characters stand in JSON. Their digits are none of a number that follows them, as it does in a card's track."""
_UUID_BYTES = 36
_NEAR = 128
"""As long as the longest hash (SHA-512) is in hex."""
_NAME_BYTES = 64
_UUID = re.compile(rb"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_HEX = re.compile(rb"(?=(?:[0-9]*[A-Fa-f]){3})[0-9A-Fa-f]{24,}")
"""Of a hash or an id in hex: longer than a number, and with more letters than a card's second track has in hex (D and F)."""
_WORD = re.compile(rb"[0-9A-Za-z]*")
_POINT, _DIGITS, _SEPARATORS = ord("."), b"0123456789", b" -"

_WINDOW = 96 * 1024
"""Bytes; what is worked on stays in the processor's cache, and a call of numpy costs little against what it does."""
_AHEAD = LONGEST + 1
_BEHIND = b"\n" * _AHEAD
_STEP = _WINDOW - _AHEAD - 1
"""Windows overlap: what begins in one is seen with the byte before it and _AHEAD bytes from it on."""
_GROUP = 4
"""How many digits tell an issuer, and are the first group of a number."""
_FIRST = np.arange(_GROUP)
_VALUES = 10 ** _FIRST[::-1]

Bytes = NDArray[np.uint8]
Flags = NDArray[np.bool_]
Places = NDArray[np.intp]


class Found(NamedTuple):
    """A card number in one of the texts."""

    text: int
    """Which text or line, counted from 0."""
    at: int
    """Where in it the number begins, in bytes."""
    digits: bytes
    """Without separators."""


class CardSearch:
    """Looks for numbers that stand alone, or in the groups that cards are printed in, with one space or dash in between.

    No number is what lies in a UUID or in a hash in hex, and no digits behind a decimal point. Not thread-safe: it works in
    memory of its own, less than 1 MB, and in as much again as the texts have.
    """

    def __init__(self, other_kinds: Sequence[str] = ()) -> None:
        """No number is either what stands in a field of JSON whose name is made of letters and underscores, one of these words
        (in small letters) among them."""
        words = "|".join(map(re.escape, other_kinds)).encode()
        self._fields = tuple(b'"%s":"' % word.encode() for word in other_kinds)
        self._in_such_a_field = (
            re.compile(rb'"[A-Za-z_]*(?:%s)[A-Za-z_]*":"?\Z' % words, re.IGNORECASE) if words else None
        )
        self._offsets: Bytes = np.empty(_WINDOW, np.uint8)
        self._flags: list[Flags] = [np.empty(_WINDOW, np.bool_) for _ in range(4)]

    def __call__(self, texts: Sequence[bytes], lines: bytes = b"") -> Iterator[Found]:
        """The card numbers in these texts, in UTF-8 or JSON, and in these lines, each with its end: they count on behind the
        texts."""
        content = written = b"".join([b"\n".join([b"", *texts, b""]), lines, _BEHIND])
        if _BACKSLASH in content and _ESCAPE in content:  # the first is seen ten times as fast
            content = _ESCAPED.sub(b"x" * _ESCAPE_BYTES, written)
        starts: list[int] = []
        for at, digits in self._numbers(content):
            if self._in_such_a_field is None or not self._in_such_a_field.search(written, max(0, at - _NAME_BYTES), at):
                if not starts:
                    sizes = map(len, [*texts, *lines.split(b"\n")])
                    starts = list(accumulate(sizes, lambda start, size: start + size + 1, initial=1))
                text = bisect_right(starts, at) - 1
                yield Found(text, at - starts[text], digits)

    def _numbers(self, content: bytes) -> Iterator[tuple[int, bytes]]:
        """Where a number begins, and its digits."""
        everything, plain, fields = np.frombuffer(content, np.uint8), _PLAIN.match, self._fields
        for start in range(0, len(everything) - _AHEAD, _STEP):
            for place in self._in_window(everything[start : start + _WINDOW]).tolist():
                at = start + place
                if content.endswith(fields, 0, at):  # most of what is left: the IMEI of every record
                    continue
                if match := plain(content, at):
                    if passes_luhn(match[0]) and not _is_fraction(content, at) and not _is_hexadecimal(content, at):
                        yield at, match[0]
                elif content[at + _GROUP] in _SEPARATORS:
                    for digits in _grouped(content, at):
                        yield at, digits

    def _in_window(self, window: Bytes) -> Places:
        """Where a card's number may begin: from the second byte to the last that has _AHEAD bytes behind it."""
        size = len(window)
        one, other, four, grouped = (flags[:size] for flags in self._flags)
        offset = np.subtract(window, 48, out=self._offsets[:size])
        np.less(offset, 10, out=one)  # a digit
        np.logical_and(one[:-1], one[1:], out=other[:-1])  # two of them from here on
        np.logical_and(other[:-3], other[2:-1], out=four[:-3])
        np.logical_and(four[:-7], four[4:-3], out=one[:-7])  # eight
        np.logical_and(one[:-12], one[5:-7], out=other[:-12])  # thirteen
        np.greater(other[1:-12], other[:-13], out=one[1:-12])  # and no digit before them
        np.greater_equal(offset, 0xF0, out=other)  # a space, a dash, and others up to a slash
        np.logical_and(four[:-8], other[4:-4], out=grouped[:-8])
        np.logical_and(grouped[:-8], four[5:-3], out=grouped[:-8])  # four digits, a separator, four digits
        either = np.logical_or(one[1:-_AHEAD], grouped[1:-_AHEAD], out=other[1:-_AHEAD])
        places = either.nonzero()[0] + 1
        beginnings = offset.take(places[:, None] + _FIRST).dot(_VALUES)
        issued: Places = places[_issued().take(beginnings)]
        return issued


@functools.cache
def _issued() -> Flags:
    """Of every number of four digits, whether the numbers of cards begin with it."""
    beginnings = (b"%04d" % number for number in range(10**_GROUP))
    sizes = range(SHORTEST, LONGEST + 1)
    return np.array([any(is_issued(one.ljust(size, b"0")) for size in sizes) for one in beginnings])


def _grouped(content: bytes, at: int) -> Iterator[bytes]:
    """The digits of the numbers in groups that begin here: none, one, or several where groups may be read in two ways."""
    for grouped in _GROUPED:
        if match := grouped.match(content, at):
            digits = match[0].translate(None, _SEPARATORS)
            if is_card_number(digits) and not _is_in_a_uuid(content, at):
                yield digits


def _is_fraction(content: bytes, at: int) -> bool:
    """Whether digits go on from the decimal point of a number."""
    return content[at - 1] == _POINT and content[at - 2] in _DIGITS


def _is_hexadecimal(content: bytes, at: int) -> bool:
    """Whether the word around is a hash, an id in hex or other data in hex. Of a long word, what is near."""
    before = _WORD.match(content[max(0, at - _NEAR) : at][::-1])
    start = at - len(before[0] if before else b"")
    word = _WORD.match(content, start, at + _NEAR)
    return word is not None and _HEX.fullmatch(word[0]) is not None


def _is_in_a_uuid(content: bytes, at: int) -> bool:
    start = max(0, at - _UUID_BYTES)
    return any(one.start() <= at < one.end() for one in _UUID.finditer(content, start, at + 2 * _UUID_BYTES))
