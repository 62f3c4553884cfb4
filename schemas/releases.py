"""What was released stays as it is: a tree of subjects against an older one, file by file."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from schemas.compatibility import Finding, check, check_columns, finding, resolved
from schemas.fields import InvalidSchema
from schemas.subjects import Column

Tree = Mapping[str, bytes]
"""The files under `schemas/`, by their path there: `event/v3.avsc`, `event/columns.json`, `ids.json`."""

IDS = "ids.json"
_VERSION = re.compile(r"([^/]+)/v(\d+)\.avsc")
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
        elif name == IDS:
            found += _ids(_mapping(name, data), _mapping(name, new.get(name, b"{}")))
    for subject in sorted({match[1] for name in new if (match := _VERSION.fullmatch(name))}):
        found += _versions(subject, new)
    if IDS in new:
        found += _without_id(new)
    return found


def _released(name: str, was: bytes, now: bytes | None) -> Iterator[Finding]:
    if now is None:
        yield finding(name, "version-removed", "was released and is gone")
    elif now != was:
        yield finding(name, "version-edited", "was changed after its release")
        yield from _within(name, check(_parsed(name, was), _parsed(name, now)))


def _versions(subject: str, tree: Tree) -> Iterator[Finding]:
    numbers = sorted(int(match[2]) for name in tree if (match := _VERSION.fullmatch(name)) and match[1] == subject)
    for place, number in enumerate(numbers, 1):
        name = f"{subject}/v{number}.avsc"
        if number != place:
            yield finding(name, "version-removed", f"follows on v{place - 1}: there is no v{place}")
            return
        if number == 1:
            resolved(_parsed(name, tree[name]), name)
        else:
            before = f"{subject}/v{number - 1}.avsc"
            yield from _within(name, check(_parsed(before, tree[before]), _parsed(name, tree[name])))


def _without_id(tree: Tree) -> Iterator[Finding]:
    named = set(_mapping(IDS, tree[IDS]).values())
    for name in sorted(tree):
        if (match := _VERSION.fullmatch(name)) and f"{match[1]}/v{match[2]}" not in named:
            yield finding(name, "id-changed", f"has no id in {IDS}")


def _ids(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Finding]:
    for number, version in was.items():
        if now.get(number) != version:
            yield finding(IDS, "id-changed", f"{number} meant {version} and means {now.get(number, 'nothing')}")


def _within(name: str, findings: list[Finding]) -> Iterator[Finding]:
    for one in findings:
        yield replace(one, path=f"{name}: {one.path}" if one.path else name)


def _columns(name: str, data: bytes) -> list[Column]:
    listed = _parsed(name, data)
    if not isinstance(listed, list) or not all(
        isinstance(one, dict) and one.keys() == {"name", "path"} for one in listed
    ):
        raise InvalidSchema(f'{name} is no list of {{"name", "path"}}; put it right, or take back the change')
    return [Column(**one) for one in listed]


def _mapping(name: str, data: bytes) -> Mapping[str, Any]:
    found = _parsed(name, data)
    if not isinstance(found, dict):
        raise InvalidSchema(f"{name} is no object; put it right, or take back the change")
    return found


def _parsed(name: str, data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidSchema(f"{name} is not JSON in UTF-8; put it right, or take back the change") from None
