"""What was released stays as it is: a tree of subjects against an older one, file by file."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from schemas.compatibility import Finding, check, check_columns, finding, resolved
from schemas.fields import Field, InvalidSchema, fields_of
from schemas.subjects import Column

Tree = Mapping[str, bytes]
"""The files under `schemas/`, by their path there: `event/v3.avsc`, `event/columns.json`, `ids.json`."""

IDS = "ids.json"
LARGEST_ID = 2**31 - 1
_ID = re.compile(r"[1-9]\d{0,9}", re.ASCII)
_VERSION = re.compile(r"([^/]+)/v([1-9]\d*)\.avsc", re.ASCII)
_MEANT_AS_VERSION = re.compile(r"[^/]+/[^/]+\.avsc", re.IGNORECASE)
_COLUMNS = re.compile(r"[^/]+/columns\.json")


def check_trees(old: Tree, new: Tree) -> list[Finding]:
    """What breaks between two trees: released versions that were edited or taken away, new ones that do more than add, columns
    that moved, ids that mean something else. An empty list is the verdict "only grows".

    The `path` of a finding begins with its file. Raises InvalidSchema, with what to do, for a file that cannot be read.
    """
    found: list[Finding] = []
    for name, data in sorted(old.items()):
        if _VERSION.fullmatch(name):
            found += _released(name, data, new.get(name))
        elif _COLUMNS.fullmatch(name):
            found += _within(name, check_columns(_columns(name, data), _columns(name, new.get(name, b"[]"))))
    for name in sorted(new):
        if _MEANT_AS_VERSION.fullmatch(name) and not _VERSION.fullmatch(name):
            raise InvalidSchema(f"{name} is no version; call it v1.avsc, v2.avsc ..., without zeros in front")
    for subject in sorted({match[1] for name in new if (match := _VERSION.fullmatch(name))}):
        found += _versions(subject, new)
    return [*found, *_ids(_numbers(old.get(IDS, b"{}")), _numbers(new.get(IDS, b"{}")), new)]


def _released(name: str, was: bytes, now: bytes | None) -> Iterator[Finding]:
    if now is None:
        yield finding(name, "version-removed", "was released and is gone")
    elif now != was:
        yield finding(name, "version-edited", "was changed after its release")
        yield from _within(name, check(parsed(name, was), parsed(name, now)))


def _versions(subject: str, tree: Tree) -> Iterator[Finding]:
    numbers = sorted(int(match[2]) for name in tree if (match := _VERSION.fullmatch(name)) and match[1] == subject)
    fields: tuple[Field, ...] = ()
    for place, number in enumerate(numbers, 1):
        name = f"{subject}/v{number}.avsc"
        if number != place:
            yield finding(name, "version-removed", f"follows on v{place - 1}: there is no v{place}")
            return
        schema = parsed(name, tree[name])
        resolved(schema, name)  # so that what is wrong with it is said of this file
        if number > 1:
            before = f"{subject}/v{number - 1}.avsc"
            yield from _within(name, check(parsed(before, tree[before]), schema))
        try:
            fields = fields_of(schema)
        except InvalidSchema as error:
            raise InvalidSchema(f"{name}: {error}") from None
    _must_lead_to_fields(f"{subject}/columns.json", tree, fields)


def _must_lead_to_fields(name: str, tree: Tree, fields: tuple[Field, ...]) -> None:
    held = {field.text_path for top in fields for field in top.walk() if field.kind != "record"}
    for column in _columns(name, tree.get(name, b"[]")):
        if column.path not in held:
            raise InvalidSchema(
                f"{name}: {column.path} of column {column.name} is no field of the newest version that has a value of its own; "
                "give the path of one"
            )


def _ids(was: Mapping[int, str], now: Mapping[int, str], tree: Tree) -> Iterator[Finding]:
    for number, version in was.items():
        if now.get(number) != version:
            yield finding(IDS, "id-changed", f"{number} meant {version} and means {now.get(number, 'nothing')}")
    there = {f"{match[1]}/v{match[2]}": name for name in sorted(tree) if (match := _VERSION.fullmatch(name))}
    named: dict[str, int] = {}
    for number, version in now.items():
        if version not in there and was.get(number) != version:
            yield finding(IDS, "id-changed", f"{number} means {version}, and there is no such version")
        if (first := named.setdefault(version, number)) != number:
            yield finding(IDS, "id-changed", f"{number} means {version}, as {first} does")
    for version, name in there.items():
        if version not in named:
            yield finding(name, "id-changed", f"has no id in {IDS}")


def _within(name: str, findings: list[Finding]) -> Iterator[Finding]:
    for one in findings:
        yield replace(one, path=f"{name}: {one.path}" if one.path else name)


def _columns(name: str, data: bytes) -> list[Column]:
    columns = columns_in(parsed(name, data))
    if columns is None:
        raise InvalidSchema(f'{name} is no list of {{"name", "path"}}; put it right, or take back the change')
    return columns


def columns_in(data: Any) -> list[Column] | None:
    """The CSV columns of a columns.json; None for what is no list of them."""
    if not isinstance(data, list):
        return None
    for one in data:
        if not isinstance(one, dict) or one.keys() != {"name", "path"}:
            return None
        if not all(isinstance(value, str) for value in one.values()):
            return None
    return [Column(**one) for one in data]


def _numbers(data: bytes) -> dict[int, str]:
    """What ids.json says: a version for each id."""
    found = parsed(IDS, data)
    if not isinstance(found, dict):
        raise InvalidSchema(f"{IDS} is no object; put it right, or take back the change")
    for number, version in found.items():
        if not _ID.fullmatch(number) or int(number) > LARGEST_ID:
            raise InvalidSchema(
                f'{IDS}: "{number}" is no id; write a number from 1 to {LARGEST_ID}, without zeros in front'
            )
        if not isinstance(version, str):
            raise InvalidSchema(f'{IDS}: {number} means no version; write one as text, "event/v1"')
    return {int(number): version for number, version in found.items()}


def parsed(name: str, data: bytes) -> Any:
    """A JSON file that every reader reads alike: UTF-8 without a byte order mark, no key twice in an object, no NaN. Raises
    InvalidSchema.
    """
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        why = f" ({error})" if type(error) is ValueError else ""
        raise InvalidSchema(f"{name} is not JSON in UTF-8{why}; put it right, or take back the change") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(made := dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice in an object")
    return made


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number there")
