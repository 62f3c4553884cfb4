"""Regular expressions that take a time in proportion to the text, whatever the pattern.

RE2 does that, where Python's own engine may take years for a pattern like `(a+)+b`. It has no look-around and no references back.
"""

from collections.abc import Callable

import re2

LARGEST = 1000
"""Steps of RE2's program: a pattern's length once counted repetitions are written out. It bounds the time for each byte."""


class InvalidPattern(ValueError):
    """A pattern that cannot be taken. The text says why and what to do."""


def matcher(pattern: str, ignore_case: bool = False) -> Callable[[str], bool]:
    """A function that says whether the pattern is found anywhere in a text. Raises InvalidPattern.

    The syntax is https://github.com/google/re2/wiki/Syntax: `\\d`, `\\w`, `\\s` and `\\b` know ASCII only, and
    `$` is the end of the text.
    """
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    options.case_sensitive = not ignore_case
    try:
        compiled = re2.compile(pattern, options)
    except (re2.error, UnicodeEncodeError) as error:
        reason = error.args[0].decode(errors="replace") if isinstance(error, re2.error) else str(error)
        raise InvalidPattern(f"is no regular expression of RE2 ({reason}); correct it") from None
    if compiled.programsize > LARGEST:
        raise InvalidPattern("is too large with its counted repetitions; use * or +, or several conditions")
    search = compiled.search

    def matches(value: str) -> bool:
        return search(value.encode()) is not None  # a str would be encoded too, and its places be counted in characters

    return matches
