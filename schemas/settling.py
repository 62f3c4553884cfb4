"""What the fast decoder takes in another form than the contract's is put right here, in place, for all records of a batch.

These are the forms that whole fleets of devices write, and those that one look at all records of a batch finds sooner than a look
at each; what is rarer takes the way through drift.py. Both make the same of a record, and count the same.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from operator import attrgetter
from typing import Any, Literal

import msgspec
import re2
from msgspec import UNSET

from schemas.compiling import compiled
from schemas.fields import Field
from schemas.timestamps import UTC, in_utc
from schemas.values import NUMBER, camel_keys, open_fault, value_fault
from schemas.written import parse, to_parse

SEVERITIES = {"INFO": "Info", "WARN": "Warn", "CRITICAL": "Critical"}
OUTCOMES = {"success": True, "fail": False}
_all_utc = re2.compile(rf"(?:{UTC}\n)*".encode()).fullmatch  # four times as fast as `re` over so many

_FAULTY = object()
"""What stands for an object that holds what none may."""
Form = Literal["timestamp", "severity", "outcome", "object", "json"]
"""What a field's values are put right as."""
Group = tuple[Form, int]
"""What is looked at together: values of one form; what is open by how deep it lies, too."""


class Settling:
    """For records of a Struct type with these fields, or objects of one that a record holds. `drift` counts, by DriftKind."""

    def __init__(self, fields: Sequence[Field], drift: Counter[str]) -> None:
        self._drift = drift
        around = len(fields[0].path) - 1 if fields else 0
        self._loose: dict[Group, list[tuple[str, ...]]] = defaultdict(list)
        for field in (field for top in fields for field in top.walk()):
            if group := _group(field):
                self._loose[group].append(field.path[around:])
        lists = [f"a{number}" for number in range(len(self._loose))]
        lines = ["def look(records):", *(f"    {one} = []" for one in lists), "    for r in records:"]
        lines += _looking(fields, "r", 2, dict(zip(self._loose, lists, strict=True)))
        self._written = [field for field in fields if field.as_written]
        self._look: Callable[[Sequence[Any]], list[list[Any]]] = compiled(
            "look", [*lines, "        pass", f"    return [{', '.join(lists)}]"], {}
        )

    def __call__(self, records: Sequence[Any]) -> list[int]:
        """Put these records right, which no other way has been through.

        Returns the positions of those that were left as they are: an open field of them holds what none may.
        """
        rewritten = {field.name: _rewritten(field, records) for field in self._written}
        faulty = {at for values in rewritten.values() for at, value in values.items() if value is _FAULTY}
        found = self._look(records)
        if self._is_faulty(found):
            faulty.update(at for at, record in enumerate(records) if self._is_faulty(self._look([record])))
        for name, objects in rewritten.items():
            for at in objects.keys() - faulty:
                setattr(records[at], name, objects[at])
                if "quota" in objects[at]:
                    settle_quota(objects[at], self._drift)
        if faulty:
            records = [record for at, record in enumerate(records) if at not in faulty]
            found = self._look(records)
        for ((form, _), paths), values in zip(self._loose.items(), found, strict=True):
            if form == "object":
                for value in values:
                    if "quota" in value:
                        settle_quota(value, self._drift)
            elif form != "json" and values and not _are_settled(form, values):
                for path in paths:
                    self._put_right(form, path, records)
        return sorted(faulty)

    def _is_faulty(self, found: Sequence[Sequence[Any]]) -> bool:
        return any(
            (form == "object" and open_fault(values, depth)) or (form == "json" and value_fault(values, depth))
            for (form, depth), values in zip(self._loose, found, strict=True)
        )

    def _put_right(self, form: Form, path: tuple[str, ...], records: Sequence[Any]) -> None:
        *above, name = path
        owners = records
        for step in map(attrgetter, above):
            owners = list(filter(None, map(step, owners)))
        for owner in owners:
            value = getattr(owner, name)
            if form == "timestamp" and value.__class__ is str:
                setattr(owner, name, settled_timestamp(value, self._drift))
            elif form == "severity" and value in SEVERITIES:
                setattr(owner, name, SEVERITIES[value])
                self._drift["severity"] += 1
            elif form == "outcome" and value.__class__ is str:
                setattr(owner, name, OUTCOMES[value])
                self._drift["outcome"] += 1


def _rewritten(field: Field, records: Sequence[Any]) -> dict[int, Any]:
    """The objects in a field that may not stay as they are written: by position what each is, or _FAULTY."""
    depth, found = len(field.path), list(map(attrgetter(field.name), records))
    there = [at for at, value in enumerate(found) if value is not UNSET]
    read = {there[number]: _read(found[there[number]]) for number in to_parse([found[at] for at in there], depth)}
    if open_fault([value for value in read.values() if value is not _FAULTY], depth):
        return {at: _FAULTY if value is _FAULTY or open_fault([value], depth) else value for at, value in read.items()}
    return read


def _read(value: msgspec.Raw) -> Any:
    try:
        return parse(value)
    except (ValueError, ArithmeticError, RecursionError):
        return _FAULTY


def _group(field: Field) -> Group | None:
    if field.as_written:
        return None
    if field.kind in {"object", "json"}:
        return field.kind, len(field.path)
    by_kind: dict[str, Form] = {"timestamp": "timestamp"}
    by_drift: dict[str, Form] = {"outcome": "outcome", "severity": "severity"}
    form = by_kind.get(field.kind) or by_drift.get(field.drift)
    return (form, 0) if form else None


def _looking(fields: Sequence[Field], owner: str, indent: int, lists: Mapping[Group, str], depth: int = 0) -> list[str]:
    """Source that puts what stands in the loose fields of an object into the list of their form, one look at each record."""
    lines, space, held = [], "    " * indent, f"o{depth}"
    for field in fields:
        if group := _group(field):
            add = f"{lists[group]}.append(v)"
            lines += [f"{space}v = {owner}.{field.name}", f"{space}if v is not UNSET and v is not None: {add}"]
        elif inside := _looking(field.fields, held, indent + 1, lists, depth + 1):
            lines += [f"{space}{held} = {owner}.{field.name}", f"{space}if {held}:", *inside]
    return lines


def _are_settled(form: Form, values: Sequence[Any]) -> bool:
    """Whether none of these values has to be put right."""
    if form == "timestamp":
        joined = "\n".join([*values, ""])
        return _all_utc(joined.encode()) is not None and joined.count("\n") == len(values)
    return SEVERITIES.keys().isdisjoint(values) if form == "severity" else str not in set(map(type, values))


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
