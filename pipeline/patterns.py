"""Regular expressions whose worst case is known before they see a record.

Python's engine backtracks, so that some patterns take years for some texts. What it may have to try is at most the product
of the choices that a pattern leaves open. From that number follows how long a text may be; what leaves too much open is refused.
"""

import importlib
import re
from collections.abc import Callable
from typing import Any

# The only description of a parsed pattern that Python has; typeshed does not know them.
codes: Any = importlib.import_module("re._constants")
parser: Any = importlib.import_module("re._parser")

MOST_STEPS = 20_000_000
"""Ways that may be tried for one text: some tenths of a second, and no record is that bad by chance."""

LENGTHS = (65536, 16384, 4096, 1024, 256, 64)
LONGEST_PATTERN = 200


class InvalidPattern(ValueError):
    """A pattern that cannot be taken. The text says why and what to do."""


def matcher(pattern: str, ignore_case: bool = False) -> Callable[[str], bool]:
    """A function that says whether the pattern is found anywhere in a text. False for a text longer than `longest(pattern)`."""
    limit = longest(pattern)
    search = re.compile(pattern, re.IGNORECASE if ignore_case else 0).search

    def matches(value: str) -> bool:
        return len(value) <= limit and search(value) is not None

    return matches


def longest(pattern: str) -> int:
    """The longest text, in characters, that a pattern is tried on. Raises InvalidPattern."""
    if len(pattern) > LONGEST_PATTERN:
        raise InvalidPattern(f"is longer than {LONGEST_PATTERN} characters; use several conditions")
    try:
        tree = parser.parse(pattern)
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise InvalidPattern(f"is no regular expression ({error}); correct it") from None
    anchored = len(tree) > 0 and tree[0] == (codes.AT, codes.AT_BEGINNING) and not tree.state.flags & re.MULTILINE
    for length in LENGTHS:
        if (1 if anchored else length) * _ways(tree, length) <= MOST_STEPS:
            return length
    raise InvalidPattern(
        "could take very long for some texts; use at most three of * and +, none inside another,"
        " or contains, starts_with and ends_with"
    )


def _ways(tree: Any, length: int) -> int:
    """At most how many ways a pattern can try from one place in a text of this length."""
    ways = 1
    for code, argument in tree:
        ways *= _ways_of(code, argument, length)
        if ways > MOST_STEPS:
            return ways
    return ways


def _ways_of(code: Any, argument: Any, length: int) -> int:
    if code in (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT):
        least, most, inner = argument
        most = min(int(most), length)
        within = _ways(inner, length)
        # An inner choice is made anew in each round; more than 25 rounds of two are too many already.
        rounds = 1 if within == 1 else within**most if most < 25 else MOST_STEPS + 1
        return int((most - min(int(least), most) + 1) * rounds)
    if code is codes.BRANCH:
        return sum(_ways(branch, length) for branch in argument[1])
    if code is codes.SUBPATTERN:
        return _ways(argument[3], length)
    if code is codes.ATOMIC_GROUP:
        return _ways(argument, length)
    if code in (codes.ASSERT, codes.ASSERT_NOT):
        return _ways(argument[1], length)
    if code in (codes.GROUPREF, codes.GROUPREF_IGNORE, codes.GROUPREF_EXISTS):
        raise InvalidPattern("refers back to a group, which can take very long; use several conditions")
    return 1
