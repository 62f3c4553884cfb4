"""Redact: texts that keep their place and lose their meaning: a mask, a keyed hash, the last four."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from pipeline.config import HASH, RedactRule
from pipeline.keys import Keys
from pipeline.paths import Loads, resolve
from pipeline.shaping import Shape, compile_shape
from pipeline.tokens import SearchTokens

MASK = "***"
SHORT = 8
"""A text of fewer characters would give away half of itself with its last four: it is masked."""


def compile_redact(rules: Sequence[RedactRule], record: type[msgspec.Struct], keys: Keys) -> Shape:
    """Redacts fields that hold text, in place. Raises InvalidPath, and UnknownKey for a key that nobody has.

    Nulls and what a record lacks stay as they are. Hashes are HMAC-SHA-256 (RFC 2104) of the text in UTF-8, in hex: equal
    for equal texts, as long as the key is the same version.
    """
    locations = [resolve(rule.field, record) for rule in rules]
    loads = Loads([at.parent for at in locations if at.parent])
    constants: dict[str, Any] = {}
    lines = []
    for number, (rule, at) in enumerate(zip(rules, locations, strict=True)):
        owner = loads.variables[at.parent.path] if at.parent else "r"
        constants[f"redacted{number}"] = _redacted(rule, keys)
        guard, value = f"{owner} and " if at.parent else "", f"{owner}.{at.name}"
        lines.append(f"if {guard}type({value}) is str: {value} = redacted{number}({value})")
    return compile_shape("redact", loads, lines, constants)


def _redacted(rule: RedactRule, keys: Keys) -> Callable[[str], str]:
    if rule.by == "mask":
        return lambda text: MASK
    if rule.by == "last4":
        return _last4
    hashes = SearchTokens(keys.demand(rule.key or "", HASH))
    return lambda text: hashes.one(text.encode())


def _last4(text: str) -> str:
    return "*" * (len(text) - 4) + text[-4:] if len(text) >= SHORT else MASK
