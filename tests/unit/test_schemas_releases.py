"""A tree of schemas is let through only if it works; what is wrong with it is said in a sentence, whatever it is."""

import copy
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.fields import InvalidSchema
from schemas.releases import check_trees

FIELD = {"name": "a", "type": ["null", "string"], "default": None}
Files = dict[str, Any]


def record(*fields: Any, **more: Any) -> dict[str, Any]:
    return {"type": "record", "name": "R", "fields": list(fields), **more}


def field(type_: Any, **more: Any) -> dict[str, Any]:
    return {"name": "b", "type": ["null", type_], "default": None, **more}


OLD: Files = {
    "event/v1.avsc": record(FIELD),
    "event/columns.json": [{"name": "a", "path": ".a"}],
    "ids.json": {"1": "event/v1"},
}


def tree(files: Files) -> dict[str, bytes]:
    return {
        name: data if isinstance(data, bytes) else json.dumps(data).encode()
        for name, data in files.items()
        if data is not None
    }


def version(*fields: Any, **more: Any) -> Files:
    """The tree with a second version."""
    return OLD | {"event/v2.avsc": record(FIELD, *fields, **more), "ids.json": {"1": "event/v1", "2": "event/v2"}}


SECOND = json.dumps(record(FIELD)).encode()
CANNOT_BE: dict[str, tuple[Files, str]] = {
    "a column that leads nowhere": (
        OLD | {"event/columns.json": [*OLD["event/columns.json"], {"name": "x", "path": ".nope"}]},
        r"event/columns.json: .nope of column x is no field",
    ),
    "a column of an object": (
        version(field(record(FIELD, name="In"))) | {"event/columns.json": [{"name": "x", "path": ".b"}]},
        r"event/columns.json: .b of column x is no field of the newest version that has a value of its own",
    ),
    "a column whose name is a number": (
        OLD | {"event/columns.json": [{"name": 5, "path": ".a"}]},
        r'event/columns.json is no list of {"name", "path"}',
    ),
    "a column whose path is a list": (
        OLD | {"event/columns.json": [{"name": "a", "path": []}]},
        r'event/columns.json is no list of {"name", "path"}',
    ),
    "a map": (version(field({"type": "map", "values": "string"})), r"event/v2.avsc: .b: type 'map' has no JSON form"),
    "an enum": (
        version(field({"type": "enum", "name": "E", "symbols": ["X"]})),
        r"event/v2.avsc: .b: type 'enum' has no JSON form",
    ),
    "an array of records": (
        version(field({"type": "array", "items": record(FIELD, name="In")})),
        r"event/v2.avsc: .b: an array holds string, long, double",
    ),
    "an array of booleans": (
        version(field({"type": "array", "items": "boolean"})),
        r"event/v2.avsc: .b: an array holds string, long, double",
    ),
    "a decimal that Parquet does not hold": (
        version(field({"type": "bytes", "logicalType": "decimal", "precision": 39, "scale": 2})),
        r"event/v2.avsc: .b: Parquet holds 38 digits",
    ),
    "a field that is not optional": (
        version({"name": "b", "type": "string", "default": ""}),
        r"event/v2.avsc: .b: every field is optional here",
    ),
    "a new subject whose field has no default": (
        OLD | {"new/v1.avsc": record({"name": "b", "type": ["null", "string"]}), "ids.json": {"1": "event/v1", "2": "new/v1"}},
        r'new/v1.avsc: .b: every field is optional here; write "type": \["null", TYPE\], "default": null',
    ),
    "a field without a default within a new one": (
        version(field(record({"name": "c", "type": ["null", "string"]}, name="In"))),
        r"event/v2.avsc: .b.c: every field is optional here",
    ),
    "a subject that is no record": (OLD | {"new/v1.avsc": "string"}, r"new/v1.avsc: the schema: it is no record"),
    "a word of Python": (version({**FIELD, "name": "class"}), r"event/v2.avsc: .class: the name means something to Python"),
    "marks that are no object": (version(field("string", sluice=5)), r"event/v2.avsc: .b: its marks are no object"),
    "a mark that is not known": (
        version(field("string", sluice={"secret": True})),
        r"event/v2.avsc: .b: the mark secret is not known",
    ),
    "a mark that cannot be that": (
        version(field("string", sluice={"type": "json", "of": ["any"]})),
        r"event/v2.avsc: .b: the mark of is not known, or cannot be that",
    ),
    "aliases that are no names": (version(field("string", aliases=[5])), r"event/v2.avsc.* .b: its aliases are no list"),
    "a number with a zero in front": (OLD | {"event/v02.avsc": record(FIELD)}, r"event/v02.avsc is no version; call it v1"),
    "another file of a schema": (OLD | {"event/draft.avsc": record(FIELD)}, r"event/draft.avsc is no version; call it v1"),
    "an id of a list": (OLD | {"ids.json": {"1": ["event/v1"]}}, r"ids.json: 1 means no version"),
    "an id that is no number": (OLD | {"ids.json": {"1": "event/v1", "x": "event/v2"}}, r'ids.json: "x" is no id'),
    "an id with a zero in front": (OLD | {"ids.json": {"1": "event/v1", "01": "event/v1"}}, r'ids.json: "01" is no id'),
    "an id beyond 31 bits": (OLD | {"ids.json": {"1": "event/v1", "2147483648": "x"}}, r'"2147483648" is no id'),
    "ids that are a list": (OLD | {"ids.json": []}, r"ids.json is no object"),
    "a key that stands twice": (
        version() | {"event/v2.avsc": SECOND.replace(b'"name": "R"', b'"name": "Q", "name": "R"')},
        r"event/v2.avsc is not JSON in UTF-8 \(a key stands twice in an object\)",
    ),
    "a byte order mark": (version() | {"event/v2.avsc": b"\xef\xbb\xbf" + SECOND}, r"event/v2.avsc is not JSON in UTF-8"),
    "UTF-16": (version() | {"event/v2.avsc": SECOND.decode().encode("utf-16")}, r"event/v2.avsc is not JSON in UTF-8"),
    "NaN": (
        version() | {"event/v2.avsc": SECOND.replace(b"null}", b"null, \"doc\": NaN}")},
        r"event/v2.avsc is not JSON in UTF-8 \(NaN is no number there\)",
    ),
}  # fmt: skip

BREAKS: dict[str, tuple[Files, list[tuple[str, str]]]] = {
    "two ids for one version": (OLD | {"ids.json": {"1": "event/v1", "2": "event/v1"}}, [("ids.json", "id-changed")]),
    "an id of no version": (OLD | {"ids.json": {"1": "event/v1", "2": "event/v9"}}, [("ids.json", "id-changed")]),
    "no ids": (OLD | {"ids.json": None}, [("ids.json", "id-changed"), ("event/v1.avsc", "id-changed")]),
    "two columns of one name": (
        version({**FIELD, "name": "b"}) | {"event/columns.json": [{"name": "a", "path": f".{n}"} for n in "ab"]},
        [("event/columns.json: .b", "column-changed")],
    ),
}


def test_a_tree_that_works_is_let_through() -> None:
    assert check_trees(tree(OLD), tree(OLD)) == []
    assert check_trees(tree(OLD), tree(version(field("long")))) == []
    assert check_trees({}, tree(version(field("long", sluice={"number_kind": "id"})))) == []


@pytest.mark.parametrize("what", CANNOT_BE)
def test_a_tree_that_cannot_work_is_an_error_that_names_file_and_place(what: str) -> None:
    files, says = CANNOT_BE[what]
    with pytest.raises(InvalidSchema, match=says) as caught:
        check_trees(tree(OLD), tree(files))
    assert ";" in str(caught.value), "what to do"


@pytest.mark.parametrize("what", BREAKS)
def test_what_breaks_a_reader_is_found_with_its_file(what: str) -> None:
    files, expected = BREAKS[what]
    assert [(one.path, one.change) for one in check_trees(tree(OLD), tree(files))] == expected


WHOLE = version(
    field(record({**FIELD, "aliases": ["z"]}, name="In", aliases=["Old"]), sluice={"sensitive": True}, aliases=["y"]),
    {"name": "c", "type": ["null", {"type": "array", "items": ["long", "string"]}], "default": None},
    {"name": "d", "type": ["null", {"type": "bytes", "logicalType": "decimal", "precision": 4}], "default": None},
    {"name": "e", "type": ["null", "In"], "default": None, "sluice": {"type": "json", "of": "any"}},
)
odd = st.sampled_from(
    [None, 5, -1, 1.5, True, "x", "", "record", "In", "null", [], [5], ["x"], [[]], {}, {"type": "map"}]
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, item in inner for place in places(item, (*at, key)))]


@settings(max_examples=400)
@given(st.data())
def test_whatever_stands_in_the_files_there_is_a_verdict(data: st.DataObject) -> None:
    trees = [copy.deepcopy(WHOLE), copy.deepcopy(WHOLE)]
    for _ in range(data.draw(st.integers(1, 3))):
        files = data.draw(st.sampled_from(trees))
        *above, last = data.draw(st.sampled_from(places(files)[1:]))
        target: Any = files
        for key in above:
            target = target[key]
        if isinstance(target, dict) and data.draw(st.booleans()):
            target[data.draw(st.sampled_from(["aliases", "default", "items", "symbols", "sluice", "name", "type"]))] = (
                copy.deepcopy(data.draw(odd))
            )
        else:
            target[last] = copy.deepcopy(data.draw(odd))
    with suppress(InvalidSchema):
        check_trees(*({name: json.dumps(value).encode() for name, value in files.items()} for files in trees))
