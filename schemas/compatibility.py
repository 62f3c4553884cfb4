"""The additive-only verdict: what a newer schema may not do to readers of the older one.

Stricter than a registry's FULL_TRANSITIVE: that lets optional fields be removed, reordered and renamed through aliases,
unions and enums be widened and types be promoted. Here a schema only grows at the end.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import fastavro
from fastavro.schema import SchemaParseException, UnknownType

from schemas.fields import MAX_FIELDS, InvalidSchema
from schemas.subjects import Column
from schemas.validity import faults

Change = Literal[
    "removed",
    "renamed",
    "moved",
    "retyped",
    "not-at-the-end",
    "no-default",
    "default-changed",
    "logical-type-changed",
    "symbol-removed",
    "symbols-reordered",
    "symbol-added",
    "branch-removed",
    "branches-reordered",
    "branch-added",
    "alias-changed",
    "mark-removed",
    "mark-added",
    "column-changed",
    "version-removed",
    "version-edited",
    "id-changed",
]

_MUST_HAVE = {"record": "fields", "error": "fields", "enum": "symbols", "fixed": "size"}
_NAMED = tuple(_MUST_HAVE)
_HOLDS = {"array": ("items", "[]"), "map": ("values", "{}")}
"""Types that hold values of one other: where it stands, and what is appended to the path."""
_ADVICE: dict[Change, tuple[str, str]] = {
    "removed": ("readers lose a value that they were promised", "keep the field; write null from now on"),
    "renamed": (
        "readers look for the old name",
        "keep the field, append the new name as a field of its own and fill both",
    ),
    "moved": (
        "readers by position take another value, readers by path find none",
        "put it back where it was; append only",
    ),
    "retyped": ("readers parse the value as the old type", "keep the field, append one of the new type and fill both"),
    "not-at-the-end": ("positions after it shift: CSV columns, JSON key order", "append it at the end of its record"),
    "no-default": (
        "readers of this version cannot read older records",
        'make it optional: ["null", TYPE] with default null',
    ),
    "default-changed": ("one old record reads as two different values", "keep the default of the older version"),
    "logical-type-changed": (
        "readers scale or interpret the value as before",
        "keep it, append a field of the new type",
    ),
    "symbol-removed": ("older records hold the symbol", "keep the symbol, even if nothing writes it any more"),
    "symbols-reordered": ("readers by index take another symbol", "keep the order; append new symbols"),
    "symbol-added": (
        "older readers have no default for a symbol they do not know",
        "append a text field instead of a symbol",
    ),
    "branch-removed": (
        "older records hold values of this branch",
        "keep the branch, even if nothing writes it any more",
    ),
    "branches-reordered": ("readers by branch number take another type", "keep the order of the branches"),
    "branch-added": ("older readers cannot read values of the new branch", "append a field of the new type instead"),
    "alias-changed": (
        "an alias renames for some readers and not for others",
        "leave aliases as they are; append a field",
    ),
    "mark-removed": (
        "values that were masked, exempt or put right are not any more",
        "leave the mark; a mark may be added",
    ),
    "mark-added": (
        "a card number in it would pass for a number of another kind",
        "leave number_kind out: what a sensitive field holds is looked at",
    ),
    "column-changed": (
        "CSV readers by position or header take another value",
        "keep the columns in order; append only",
    ),
    "version-removed": (
        "records that were written with it can no longer be read",
        "put the file back; versions are numbered from 1 without a gap",
    ),
    "version-edited": (
        "records that were written with it are read as something else",
        "take the change back (git checkout REV -- FILE), and write it into a new version",
    ),
    "id-changed": (
        "Avro records that carry the id are read with another schema",
        "put it back; new versions get new ids",
    ),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One way in which a newer schema breaks the older one's promise.

    `path` is the field (`.endpoint.name`; "" is the schema itself), `change` a code, `text` what changed, `breaks` who
    suffers and why, `instead` what to do.
    """

    path: str
    change: Change
    text: str
    breaks: str
    instead: str


def check(old: Any, new: Any) -> list[Finding]:
    """What breaks between two parsed .avsc files, outermost first; an empty list is the verdict "only grows".

    Raises InvalidSchema, with what to do, for what is no valid Avro, recursive, or too large to have an answer.
    """
    was, now = resolved(old, "old schema"), resolved(new, "new schema")
    return list(_Comparison(was).types(was, now, ""))


def check_columns(old: Sequence[Column], new: Sequence[Column]) -> list[Finding]:
    """What breaks between the CSV columns of two versions: the older ones must be the beginning of the newer."""
    findings = []
    for place, column in enumerate(old):
        now = new[place] if place < len(new) else None
        if now != column:
            found = f"{now.name} ({now.path})" if now else "nothing"
            text = f"column {place + 1} was {column.name} ({column.path}) and is {found}"
            findings.append(finding(column.path, "column-changed", text))
    names = [column.name for column in new]
    for place, column in enumerate(new):
        if (first := names.index(column.name)) < place:
            text = f"column {place + 1} is called {column.name}, as column {first + 1} is"
            findings.append(finding(column.path, "column-changed", text))
    return findings


def finding(path: str, change: Change, text: str) -> Finding:
    """A finding with who suffers and what to do, which `change` decides."""
    return Finding(path, change, text, *_ADVICE[change])


class _Comparison:
    """Walks two resolved schemas at once. A named type that is used twice is compared once."""

    def __init__(self, old: Any) -> None:
        self._seen: set[tuple[int, int]] = set()
        self._names_before = {one["name"] for one in _types(old) if one["type"] in _NAMED}
        self._new: set[int] = set()

    def types(self, old: Any, new: Any, path: str) -> Iterator[Finding]:
        if isinstance(old, list) and isinstance(new, list):
            yield from self._unions(old, new, path)
            return
        if isinstance(old, list) or isinstance(new, list) or old["type"] != new["type"]:
            yield finding(path, "retyped", f"was {_say(old)} and is {_say(new)}")
            return
        if (id(old), id(new)) in self._seen:
            return
        self._seen.add((id(old), id(new)))
        yield from self._logical_types(old, new, path)
        kind = old["type"]
        if kind in _NAMED:
            yield from self._names(old, new, path)
        if kind in ("record", "error"):
            yield from self._fields(old["fields"], new["fields"], path)
        elif kind == "enum":
            yield from _symbols(old, new, path)
        elif kind in _HOLDS:
            key, sign = _HOLDS[kind]
            yield from self.types(old[key], new[key], path + sign)
        elif kind == "fixed" and old["size"] != new["size"]:
            yield finding(path, "retyped", f"was {old['size']} bytes long and is {new['size']}")

    def _fields(self, old: list[Any], new: list[Any], path: str) -> Iterator[Finding]:
        old_names = [field["name"] for field in old]
        places = {field["name"]: place for place, field in enumerate(new)}
        kept = [name for name in old_names if name in places]
        in_order = sorted(kept, key=places.__getitem__)
        renamed = set()
        for place, field in enumerate(old):
            name, at = field["name"], f"{path}.{field['name']}"
            if name not in places:
                heir = new[place] if place < len(new) and new[place]["name"] not in old_names else None
                if heir is not None and (_same_type(field["type"], heir["type"]) or name in heir.get("aliases", ())):
                    renamed.add(heir["name"])
                    yield finding(at, "renamed", f"is called {heir['name']} now")
                else:
                    yield finding(at, "removed", "is gone")
                continue
            now = new[places[name]]
            if in_order.index(name) != kept.index(name):
                yield finding(at, "moved", f"was number {place + 1} of its record and is number {places[name] + 1}")
            yield from self._field(field, now, at)
        for place, field in enumerate(new):
            name, at = field["name"], f"{path}.{field['name']}"
            if name in old_names or name in renamed:
                continue
            if any(places[later] > place for later in kept):
                yield finding(at, "not-at-the-end", "is new and stands before fields that were there")
            if "default" not in field:
                yield finding(at, "no-default", "is new and has no default")
            yield from self._new_field(field, at)

    def _new_field(self, field: Mapping[str, Any], path: str) -> Iterator[Finding]:
        if field.get("aliases"):
            yield finding(path, "alias-changed", f"is new and has the aliases {', '.join(field['aliases'])}")
        yield from _exempted({}, field, path)
        yield from self._new_type(field["type"], path)

    def _new_type(self, type_: Any, path: str) -> Iterator[Finding]:
        """Aliases in what is new: to some readers it would be what was there. Types that were there are compared elsewhere."""
        if isinstance(type_, list):
            for branch in type_:
                yield from self._new_type(branch, path)
            return
        if id(type_) in self._new or (type_["type"] in _NAMED and type_["name"] in self._names_before):
            return
        self._new.add(id(type_))
        if type_["type"] in _NAMED and type_.get("aliases"):
            yield finding(path, "alias-changed", f"its type is new and has the aliases {', '.join(type_['aliases'])}")
        for field in _fields_in(type_):
            yield from self._new_field(field, f"{path}.{field['name']}")
        if type_["type"] in _HOLDS:
            key, sign = _HOLDS[type_["type"]]
            yield from self._new_type(type_[key], path + sign)

    def _field(self, old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> Iterator[Finding]:
        if ("default" in old) != ("default" in new) or not _same(old.get("default"), new.get("default")):
            was, now = (_say(field["default"]) if "default" in field else "none" for field in (old, new))
            yield finding(path, "default-changed", f"had the default {was} and has {now}")
        yield from _aliases(old, new, path)
        for mark in ("sensitive", "number_kind", "drift"):
            was_mark, now_mark = _marks(old).get(mark), _marks(new).get(mark)
            if was_mark and was_mark != now_mark:
                yield finding(path, "mark-removed", f"was marked {mark}: {_say(was_mark)} and is not any more")
        yield from _exempted(old, new, path)
        was_form, now_form = _form(old), _form(new)
        if was_form != now_form:
            yield finding(
                path, "logical-type-changed", f"was marked {was_form or 'plain'} and is {now_form or 'plain'}"
            )
        yield from self.types(old["type"], new["type"], path)

    def _names(self, old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> Iterator[Finding]:
        if old["name"] != new["name"]:
            yield finding(path, "renamed", f"its type was called {old['name']} and is {new['name']}")
        yield from _aliases(old, new, path)

    def _logical_types(self, old: Any, new: Any, path: str) -> Iterator[Finding]:
        for key in ("logicalType", "precision", "scale"):
            absent = 0 if key == "scale" and "decimal" in (old.get("logicalType"), new.get("logicalType")) else None
            was, now = old.get(key, absent), new.get(key, absent)
            if not _same(was, now):
                yield finding(path, "logical-type-changed", f"{key} was {_say(was)} and is {_say(now)}")

    def _unions(self, old: list[Any], new: list[Any], path: str) -> Iterator[Finding]:
        was, now = [_say(branch) for branch in old], [_say(branch) for branch in new]
        gone = [branch for branch in was if branch not in now]
        added = [branch for branch in now if branch not in was]
        if len(gone) == len(added) == 1 and was.index(gone[0]) == now.index(added[0]):
            yield from self.types(old[was.index(gone[0])], new[now.index(added[0])], path)
        else:
            for branch in gone:
                yield finding(path, "branch-removed", f"can no longer be {branch}")
            for branch in added:
                yield finding(path, "branch-added", f"can also be {branch} now")
        kept = [branch for branch in was if branch in now]
        if kept != [branch for branch in now if branch in was]:
            yield finding(path, "branches-reordered", f"was one of {', '.join(was)} and is one of {', '.join(now)}")
        for branch in kept:
            yield from self.types(old[was.index(branch)], new[now.index(branch)], path)


def _symbols(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> Iterator[Finding]:
    was, now = old["symbols"], new["symbols"]
    for symbol in was:
        if symbol not in now:
            yield finding(path, "symbol-removed", f"has no symbol {symbol} any more")
    kept = [symbol for symbol in was if symbol in now]
    if now[: len(kept)] != kept:
        yield finding(path, "symbols-reordered", f"the symbols {', '.join(kept)} are not its first, in this order")
    added = [symbol for symbol in now if symbol not in was]
    if added and "default" not in old:
        yield finding(path, "symbol-added", f"has the new symbol {added[0]}, and the older version has no default")
    if not _same(old.get("default"), new.get("default")):
        text = f"had the default symbol {_say(old.get('default'))} and has {_say(new.get('default'))}"
        yield finding(path, "default-changed", text)


def _aliases(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> Iterator[Finding]:
    was, now = sorted(old.get("aliases", ())), sorted(new.get("aliases", ()))
    if was != now:
        text = f"had the aliases {', '.join(was) or 'none'} and has {', '.join(now) or 'none'}"
        yield finding(path, "alias-changed", text)


def _exempted(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> Iterator[Finding]:
    """A sensitive field that was no number of another kind, and is one now."""
    marks = _marks(new)
    if marks.get("number_kind") and not _marks(old).get("number_kind") and marks.get("sensitive"):
        yield finding(path, "mark-added", f"is sensitive and was no number of kind {_say(marks['number_kind'])}")


def _form(field: Mapping[str, Any]) -> str:
    """The JSON form that a field is marked with (`sluice.type`), as text to compare."""
    marks = _marks(field)
    form, of = str(marks.get("type", "")), marks.get("of", "any")
    return form if of == "any" else f"{form} of {of}"


def _marks(field: Mapping[str, Any]) -> Mapping[str, Any]:
    marks = field.get("sluice", {})
    return marks if isinstance(marks, Mapping) else {}


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON: 0, 0.0 and false are three values."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _same_type(one: Any, other: Any) -> bool:
    return not any(_Comparison(one).types(one, other, ""))


def _types(resolved: Any) -> Iterator[Mapping[str, Any]]:
    """Every type in a resolved schema, once, but for unions."""
    left, seen = [resolved], set()
    while left:
        type_ = left.pop()
        if isinstance(type_, list):
            left += type_
        elif id(type_) not in seen:
            seen.add(id(type_))
            yield type_
            left += [field["type"] for field in _fields_in(type_)]
            left += [type_[key] for kind, (key, _) in _HOLDS.items() if kind == type_["type"]]


def _fields_in(type_: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    fields: Sequence[Mapping[str, Any]] = type_["fields"] if type_["type"] in ("record", "error") else ()
    return fields


def _say(value: Any) -> str:
    """A resolved type, or a default, in a few words."""
    if isinstance(value, Mapping) and "type" in value:
        return f"{value['type']} {value['name']}" if "name" in value else str(value["type"])
    if isinstance(value, list) and value and all(isinstance(item, Mapping) and "type" in item for item in value):
        return "union of " + ", ".join(map(_say, value))
    return json.dumps(value, ensure_ascii=False)[:80]


def resolved(schema: Any, which: str) -> Any:
    """A schema with every name full and every reference followed: a mapping with `type` for each type, a list for a union.

    `which` names the schema in errors. Raises InvalidSchema, with what to do, for what is no valid Avro, recursive, or has
    more than 10,000 fields.
    """
    too_many = InvalidSchema(
        f"{which}: more than {MAX_FIELDS} fields; split the record, or hold rare keys as text of type json"
    )
    if _size(schema) > MAX_FIELDS:
        raise too_many
    try:
        fastavro.parse_schema(schema, {})
        found = _resolve(schema, "", {}, (), which)
        for fault in faults(found):
            raise SchemaParseException(fault)
        return found
    except InvalidSchema:
        raise
    except RecursionError:
        raise InvalidSchema(f"{which}: nested too deeply; flatten it") from None
    except Exception as error:  # fastavro raises AttributeError, KeyError, TypeError and its own for odd input
        reason = (
            str(error) if isinstance(error, SchemaParseException | UnknownType) else "it has not the form of a schema"
        )
        raise InvalidSchema(
            f"{which} is not valid Avro: {reason}; write it as the Avro specification 1.11 says"
        ) from None


def _size(schema: Any) -> int:
    """How many objects there are in a parsed JSON file, counted without recursion and no further than needed."""
    left, count = [schema], 0
    while left and count <= MAX_FIELDS:
        value = left.pop()
        if isinstance(value, Mapping):
            count += "name" in value and "type" in value
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)
    return count


def _resolve(schema: Any, space: str, named: dict[str, Any], inside: tuple[str, ...], which: str) -> Any:
    if isinstance(schema, list):
        return [_resolve(branch, space, named, inside, which) for branch in schema]
    if isinstance(schema, str):
        full = _full_name(schema, space)
        if full in inside or schema in inside:
            raise InvalidSchema(
                f"{which}: {schema} contains itself, so it has no columns; hold the inner part as text of type json"
            )
        return named.get(full) or named.get(schema) or {"type": schema}
    kind = schema["type"]
    if not isinstance(kind, str) or kind not in (
        *_NAMED,
        "array",
        "map",
        "string",
        "bytes",
        "int",
        "long",
        "float",
        "double",
        "boolean",
        "null",
    ):
        return _resolve(kind, space, named, inside, which)
    if kind in ("array", "map"):
        key = "items" if kind == "array" else "values"
        return {**schema, key: _resolve(schema[key], space, named, inside, which)}
    if kind not in _NAMED:
        return schema
    full = _full_name(schema["name"], schema.get("namespace", space))
    space = full.rpartition(".")[0]
    if kind in ("record", "error") and len({field["name"] for field in schema["fields"]}) < len(schema["fields"]):
        raise SchemaParseException(f"record {full} has two fields of one name")
    type_ = {**schema, "name": full, _MUST_HAVE[kind]: schema[_MUST_HAVE[kind]]}
    if "fields" in schema:
        within = (*inside, full)
        fields = [{**field, "type": _resolve(field["type"], space, named, within, which)} for field in schema["fields"]]
        type_["fields"] = fields
    named[full] = type_
    return type_


def _full_name(name: str, space: str) -> str:
    return name if "." in name or not space else f"{space}.{name}"
