"""What the fast decoder takes in another form than the contract's is put right here, in place, for all records of a batch.

These are the forms that whole fleets of devices write, and those that one look at all records of a batch finds sooner than a look
at each; what is rarer takes the way through drift.py. Both make the same of a record, and count the same.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from decimal import Decimal
from operator import attrgetter
from typing import Any

from schemas.fields import Field
from schemas.timestamps import UTC, in_utc
from schemas.values import NUMBER, camel_keys, open_fault

SEVERITIES = {"INFO": "Info", "WARN": "Warn", "CRITICAL": "Critical"}
OUTCOMES = {"success": True, "fail": False}
_all_utc = re.compile(rf"(?:{UTC}\n)*+").fullmatch

Settle = Callable[[Sequence[Any], str, Callable[[Any], Any]], None]
"""Puts the field of that name right in all of these objects; the last reads it."""


class Settling:
    """For records of a Struct type with these fields, or objects of one that a record holds. `drift` counts, by DriftKind."""

    def __init__(self, fields: Sequence[Field], drift: Counter[str]) -> None:
        self._drift = drift
        around = len(fields[0].path) - 1 if fields else 0
        loose: dict[tuple[str, ...], list[tuple[Settle, str, Callable[[Any], Any]]]] = defaultdict(list)
        self._open: list[tuple[Sequence[Callable[[Any], Any]], int]] = []
        for field in (field for top in fields for field in top.walk()):
            if field.kind == "object":
                self._open.append((list(map(attrgetter, field.path[around:])), len(field.path)))
            settle = self._of(field)
            if settle is not None:
                loose[field.path[around:-1]].append((settle, field.name, attrgetter(field.name)))
        self._loose = [(list(map(attrgetter, path)), settles) for path, settles in loose.items()]

    def __call__(self, records: Sequence[Any]) -> None:
        """Put these records right, which no other way has been through.

        Raises ValueError if an open object in one of them holds what none may; then nothing was changed or counted.
        """
        for steps, depth in self._open:
            if open_fault(_follow(steps, records), depth):
                raise ValueError
        for steps, fields in self._loose:
            if owners := _follow(steps, records):
                for settle, name, read in fields:
                    settle(owners, name, read)

    def _of(self, field: Field) -> Settle | None:
        by_drift: dict[str, Settle] = {"outcome": self._outcomes, "severity": self._severities}
        by_kind: dict[str, Settle] = {"timestamp": self._timestamps, "object": self._details}
        return by_drift.get(field.drift) or by_kind.get(field.kind)

    def _outcomes(self, owners: Sequence[Any], name: str, read: Callable[[Any], Any]) -> None:
        for owner in owners:
            said = read(owner)
            if said.__class__ is str:
                setattr(owner, name, OUTCOMES[said])
                self._drift["outcome"] += 1

    def _severities(self, owners: Sequence[Any], name: str, read: Callable[[Any], Any]) -> None:
        if SEVERITIES.keys().isdisjoint(map(read, owners)):
            return
        for owner in owners:
            if (said := read(owner)) in SEVERITIES:
                setattr(owner, name, SEVERITIES[said])
                self._drift["severity"] += 1

    def _timestamps(self, owners: Sequence[Any], name: str, read: Callable[[Any], Any]) -> None:
        texts = [text for text in map(read, owners) if text.__class__ is str]
        joined = "\n".join([*texts, ""])
        if not texts or (_all_utc(joined) and joined.count("\n") == len(texts)):
            return
        for owner in owners:
            text = read(owner)
            if text.__class__ is str:
                setattr(owner, name, settled_timestamp(text, self._drift))

    def _details(self, owners: Sequence[Any], name: str, read: Callable[[Any], Any]) -> None:
        for detail in filter(None, map(read, owners)):
            if "quota" in detail:
                settle_quota(detail, self._drift)


def _follow(steps: Sequence[Callable[[Any], Any]], owners: Sequence[Any]) -> Sequence[Any]:
    """What lies behind these steps, of those that have it."""
    for step in steps:
        owners = list(filter(None, map(step, owners)))
    return owners


def settled_timestamp(text: str, drift: Counter[str]) -> str:
    """A timestamp in the form of the contract; as it came if it has no known form. Counts in `drift`."""
    normal = in_utc(text)
    if normal is None:
        drift["timestamp-unread"] += 1
        return text
    if normal != text:
        drift["timestamp"] += 1
    return normal


def settle_quota(detail: dict[str, Any], drift: Counter[str]) -> None:
    """Put right, in place, the quota in the `detail` of an event: keys in camelCase, and a volume that is text. Counts in
    `drift`."""
    quota = detail["quota"]
    if type(quota) is not dict:
        return
    if names := camel_keys(quota):
        drift["camel-case"] += len(names)
        quota = detail["quota"] = {names.get(key, key): value for key, value in quota.items()}
    volume = quota.get("volume")
    if type(volume) is str and NUMBER.fullmatch(volume):
        quota["volume"] = Decimal(volume)
        drift["number-text"] += 1
