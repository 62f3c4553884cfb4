"""The ledger: what was sent against what is at each destination, by the records' own ids and their decrypted card fields."""

import base64
import binascii
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from sluice.demo.configuration import CARD_FIELDS, key_name
from sluice.demo.oracle import DEAD_LETTER, Truth

ROUTES = ("success", "fail", "unmatched")
_CARD_IN_RAW = re.compile(rb'"cc_number"\s*:\s*"?(\d{12,19})')
_DIGITS = re.compile(rb"\d{12,19}")
_LONGEST_LIST = 5


class Delivered(NamedTuple):
    """One record as it stands at a destination."""

    id: int | None
    origin: str | None
    """Its `sluice_id`, where the destination shows one."""
    card: Mapping[str, Any] | None
    """The card fields and their IV fields, as delivered."""
    texts: Iterable[str]
    """All texts in it: none of them may be a card field in clear."""


class CardNumbers:
    """The card numbers that were sent, to be found again wherever they must not be."""

    def __init__(self, raw_values: Iterable[bytes | None]) -> None:
        """`raw_values`: everything that was sent, what cannot be read too."""
        self._numbers = {number for value in raw_values if value for number in _CARD_IN_RAW.findall(value)}

    def __len__(self) -> int:
        return len(self._numbers)

    def in_clear(self, data: bytes) -> int:
        """How often one of them stands in these bytes."""
        return sum(digits in self._numbers for digits in _DIGITS.findall(data))


@dataclass
class Account:
    """One stream: what is expected there, and what was found."""

    stream: str
    expected: Mapping[int, Truth]
    keys: Mapping[str, bytes]
    found: Counter[int] = field(default_factory=Counter)
    damaged: set[int] = field(default_factory=set)
    unexpected: int = 0
    clear: int = 0

    def take(self, one: Delivered) -> None:
        """Enter one record that was found."""
        truth = self.expected.get(one.id) if one.id is not None else None
        if truth is None:
            self.unexpected += 1
            return
        self.found[truth.id or 0] += 1
        if one.origin is not None and one.origin != truth.origin:
            self.damaged.add(truth.id or 0)
        if truth.card is not None:
            self._compare_card(truth, one)

    def _compare_card(self, truth: Truth, one: Delivered) -> None:
        assert truth.card is not None, "asked before"
        _, *others = truth.card
        texts = set(one.texts)
        self.clear += sum(
            value in texts for value in others
        )  # the number is looked for in the bytes, wherever it stands
        for name, value in zip(CARD_FIELDS, truth.card, strict=True):
            if decrypted(one.card or {}, name, self.keys) != value:
                self.damaged.add(truth.id or 0)

    @property
    def missing(self) -> set[int]:
        """Ids that are not there, or not there as they were sent."""
        return (self.expected.keys() - self.found.keys()) | self.damaged

    @property
    def duplicates(self) -> int:
        return self.found.total() - len(self.found)

    def as_json(self) -> dict[str, int]:
        missing = len(self.missing)
        return {
            "expected": len(self.expected),
            "delivered": len(self.expected) - missing,
            "missing": missing,
            "duplicates": self.duplicates,
            "clear_card_fields": self.clear,
        }

    def problems(self, *, exactly_once: bool) -> list[str]:
        """What is not as promised, in sentences with ids and origins, never with a value."""
        found = []
        if lost := sorted(self.missing - self.damaged):
            found.append(f"{self.stream}: {len(lost)} records are missing: {_listed(lost, self.expected)}")
        if self.damaged:
            damaged = _listed(sorted(self.damaged), self.expected)
            found.append(f"{self.stream}: {len(self.damaged)} records are not as they were sent: {damaged}")
        if self.unexpected:
            found.append(f"{self.stream}: {self.unexpected} records do not belong there")
        if self.clear:
            found.append(f"{self.stream}: {self.clear} card fields are in clear")
        if exactly_once and self.duplicates:
            twice = _listed(sorted(number for number, count in self.found.items() if count > 1), self.expected)
            found.append(f"{self.stream}: {self.duplicates} records are there again, where once was promised: {twice}")
        return found


@dataclass(frozen=True)
class Ledger:
    """The balance of a demo."""

    seconds: float
    """How long the devices sent."""
    pipelines: dict[str, dict[str, int]]
    streams: dict[str, dict[str, int]]
    kills: int
    problems: tuple[str, ...]
    """Why it is not ok; empty if it is."""

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def records(self) -> int:
        return sum(one["in"] for one in self.pipelines.values())

    def as_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "seconds": round(self.seconds, 1),
            "records_per_second": round(self.records / self.seconds, 1) if self.seconds else 0.0,
            "pipelines": self.pipelines,
            "streams": self.streams,
            "kills": self.kills,
        }


def pipeline_balance(
    name: str, truths: Iterable[Truth], routed: Mapping[str, Iterable[str]], dead: Iterable[str]
) -> tuple[dict[str, int], list[str]]:
    """A pipeline's figures, and what is wrong with them, from the origins (`sluice-id`) that are on its topics.

    `routed`: by route. A record that a crash made the router write twice counts once. Every record must be in exactly the
    place that the oracle names.
    """
    places: dict[str, set[str]] = {route: set(routed.get(route, ())) for route in ROUTES}
    places[DEAD_LETTER] = set(dead)
    should: dict[str, set[str]] = {place: set() for place in places}
    for truth in truths:
        should[truth.route].add(truth.origin)
    problems = []
    for place, origins in places.items():
        title = f"{name}.dlq" if place == DEAD_LETTER else f"{name}.{place}"
        if lost := sorted(should[place] - origins):
            problems.append(f"{title}: {len(lost)} records are missing: {', '.join(lost[:_LONGEST_LIST])}")
        if strange := sorted(origins - should[place]):
            problems.append(
                f"{title}: {len(strange)} records do not belong there: {', '.join(strange[:_LONGEST_LIST])}"
            )
    counts = {place: len(origins) for place, origins in places.items()}
    dead_letters = counts.pop(DEAD_LETTER)
    return {"in": sum(map(len, should.values())), **counts, "dead_letters": dead_letters}, problems


def decrypted(card: Mapping[str, Any], name: str, keys: Mapping[str, bytes]) -> str | None:
    """A card field in clear, one at a time and by nobody's code but the library's; None for what cannot be decrypted."""
    try:
        data, iv = (base64.b64decode(card[field], validate=True) for field in (name, f"{name}_iv"))
        return Cipher(AES(keys[key_name(name)]), CFB(iv)).decryptor().update(data).decode()
    except (KeyError, TypeError, ValueError, binascii.Error):
        return None


def _listed(ids: list[int], expected: Mapping[int, Truth]) -> str:
    more = f" and {len(ids) - _LONGEST_LIST} more" if len(ids) > _LONGEST_LIST else ""
    return ", ".join(f"id {number} from {expected[number].origin}" for number in ids[:_LONGEST_LIST]) + more
