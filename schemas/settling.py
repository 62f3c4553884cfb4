"""What the fast decoder takes in another form than the contract's is put right here, in place, for all records of a batch.

These are the forms that whole fleets of devices write, and those that one look at all records of a batch finds sooner than a look
at each; what is rarer takes the way through drift.py. Both make the same of a record, and count the same.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from schemas.fields import Field
from schemas.timestamps import UTC, in_utc
from schemas.values import NUMBER, camel_keys

SEVERITIES = {"INFO": "Info", "WARN": "Warn", "CRITICAL": "Critical"}
OUTCOMES = {"success": True, "fail": False}
_all_utc = re.compile(rf"(?:{UTC}\n)*+").fullmatch

Settle = Callable[[Sequence[Any], str], None]
"""Puts the field of that name right in all of these objects."""


class Settling:
    """For records of a Struct type with these fields, or objects of one that a record holds. `drift` counts, by DriftKind."""

    def __init__(self, fields: Sequence[Field], drift: Counter[str]) -> None:
        self._drift = drift
        around = len(fields[0].path) - 1 if fields else 0
        self._loose: dict[tuple[str, ...], list[tuple[str, Settle]]] = defaultdict(list)
        for field in (field for top in fields for field in top.walk()):
            settle = self._of(field)
            if settle is not None:
                self._loose[field.path[around:-1]].append((field.name, settle))

    def __call__(self, records: Sequence[Any]) -> None:
        """Put these records right, which no other way has been through."""
        for path, fields in self._loose.items():
            owners = records
            for step in path:
                owners = [held for owner in owners if (held := getattr(owner, step))]
            if owners:
                for name, settle in fields:
                    settle(owners, name)

    def _of(self, field: Field) -> Settle | None:
        by_drift: dict[str, Settle] = {"outcome": self._outcomes, "severity": self._severities}
        by_kind: dict[str, Settle] = {"timestamp": self._timestamps, "object": self._details}
        return by_drift.get(field.drift) or by_kind.get(field.kind)

    def _outcomes(self, owners: Sequence[Any], name: str) -> None:
        for owner in owners:
            said = getattr(owner, name)
            if said.__class__ is str:
                setattr(owner, name, OUTCOMES[said])
                self._drift["outcome"] += 1

    def _severities(self, owners: Sequence[Any], name: str) -> None:
        if SEVERITIES.keys().isdisjoint([getattr(owner, name) for owner in owners]):
            return
        for owner in owners:
            if (said := getattr(owner, name)) in SEVERITIES:
                setattr(owner, name, SEVERITIES[said])
                self._drift["severity"] += 1

    def _timestamps(self, owners: Sequence[Any], name: str) -> None:
        texts = [text for owner in owners if (text := getattr(owner, name)).__class__ is str]
        joined = "".join([f"{text}\n" for text in texts])
        if _all_utc(joined) and joined.count("\n") == len(texts):
            return
        for owner in owners:
            text = getattr(owner, name)
            if text.__class__ is str:
                setattr(owner, name, settled_timestamp(text, self._drift))

    def _details(self, owners: Sequence[Any], name: str) -> None:
        for owner in owners:
            detail = getattr(owner, name)
            if detail.__class__ is dict and "quota" in detail:
                settle_quota(detail, self._drift)


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
