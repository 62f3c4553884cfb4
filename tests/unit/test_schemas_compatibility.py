"""The additive-only verdict: what breaks a reader is found with its path, what only grows is let through."""

import copy
import io
import json
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codec import Codec
from schemas.compatibility import check, check_columns
from schemas.fields import InvalidSchema, fields_of
from schemas.projection import CsvRow, csv_header
from schemas.subjects import Column, Subject, Version

Schema = dict[str, Any]


def record(*fields: Schema, **more: Any) -> Schema:
    return {"type": "record", "name": "R", "namespace": "t", "fields": list(fields), **more}


def field(name: str, type_: Any = "string", **more: Any) -> Schema:
    return {"name": name, "type": ["null", type_], "default": None, **more}


def inner(*fields: Schema, name: str = "In", **more: Any) -> Schema:
    return {"type": "record", "name": name, "fields": list(fields), **more}


def enum(*symbols: str, **more: Any) -> Schema:
    return {"type": "enum", "name": "E", "symbols": list(symbols), **more}


def decimal(precision: int, scale: int) -> Schema:
    return {"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale}


a, b, c = field("a"), field("b"), field("c")
plain = {"name": "a", "type": "string"}


def fixed(size: int) -> Schema:
    return {"type": "fixed", "name": "F", "size": size}


def of(type_: Any, **more: Any) -> Schema:
    """A record with one optional field."""
    return record(field("a", type_, **more))


def bare(type_: Any, **more: Any) -> Schema:
    """A record with one field of exactly this type."""
    return record({"name": "a", "type": type_, **more})


def within(*fields: Schema, **more: Any) -> Schema:
    """A record within a record."""
    return record(field("i", inner(*fields, **more)))


ALLOWED = {
    "nothing": (record(a, b), record(a, b)),
    "optional-field-appended": (record(a), record(a, b)),
    "several-appended": (record(a), record(a, b, c)),
    "field-with-a-default-appended": (record(a), record(a, {"name": "n", "type": "int", "default": 0})),
    "appended-in-depth": (within(a), within(a, b)),
    "appended-in-an-array": (of({"type": "array", "items": inner(a)}), of({"type": "array", "items": inner(a, b)})),
    "record-appended": (record(a), record(a, field("i", inner(b)))),
    "doc-of-a-field": (record(a), record(field("a", doc="what it is"))),
    "doc-of-the-record": (record(a), record(a, doc="what it is")),
    "doc-of-an-enum": (of(enum("X")), of(enum("X", doc="d"))),
    "symbol-with-enum-default": (of(enum("X", "Y", default="X")), of(enum("X", "Y", "Z", default="X"))),
    "inner-type-by-name": (
        record(field("i", inner(a)), field("j", "In")),
        record(field("i", inner(a, b)), field("j", "t.In")),
    ),
    "mark-of-sensitivity": (record(a), of("string", sluice={"sensitive": True})),
    "mark-of-a-number": (record(a), of("string", sluice={"number_kind": "imei"})),
    "mark-of-sensitivity-on-a-number": (
        of("string", sluice={"number_kind": "imei"}),
        of("string", sluice={"number_kind": "imei", "sensitive": True}),
    ),
    "type-that-was-there-in-a-new-field": (
        record(field("i", inner(a, aliases=["Old"]))),
        record(field("i", inner(a, aliases=["Old"])), field("j", "In")),
    ),
    "scale-0-written-out": (
        of({"type": "bytes", "logicalType": "decimal", "precision": 5}),
        of(decimal(5, 0)),
    ),
    "mark-of-any-written-out": (
        of("string", sluice={"type": "json"}),
        of("string", sluice={"type": "json", "of": "any"}),
    ),
    "name-written-in-full": (record(a), {**record(a), "name": "t.R", "namespace": "other"}),
}

STRING, OPTIONAL, BOTH = "string", ["null", "string"], ["null", "string", "long"]
MILLIS, MICROS = ({"type": "long", "logicalType": f"timestamp-{unit}"} for unit in ("millis", "micros"))
SHARED = field("j", "In")

# Those that FULL_TRANSITIVE of a registry lets pass begin with "registry-".
BREAKS: dict[str, tuple[Any, Any, set[tuple[str, str]]]] = {
    "registry-optional-removed": (record(a, b), record(a), {(".b", "removed")}),
    "registry-first-optional-removed": (record(a, b), record(b), {(".a", "removed")}),
    "registry-removed-in-depth": (within(a, b), within(a), {(".i.b", "removed")}),
    "registry-reordered": (record(a, b), record(b, a), {(".a", "moved"), (".b", "moved")}),
    "registry-inserted-first": (record(a), record(b, a), {(".b", "not-at-the-end")}),
    "registry-inserted-between": (record(a, c), record(a, b, c), {(".b", "not-at-the-end")}),
    "registry-inserted-in-depth": (within(a), within(b, a), {(".i.b", "not-at-the-end")}),
    "registry-renamed-through-an-alias": (record(a), record(field("b", aliases=["a"])), {(".a", "renamed")}),
    "registry-alias-added": (record(a), of(STRING, aliases=["z"]), {(".a", "alias-changed")}),
    "registry-default-changed": (bare(STRING, default="x"), bare(STRING, default="y"), {(".a", "default-changed")}),
    "registry-renamed-optional": (record(a), record(b), {(".a", "renamed")}),
    "registry-new-field-with-alias": (record(a), record(a, field("b", aliases=["z"])), {(".b", "alias-changed")}),
    "registry-new-type-with-the-alias-of-an-old": (
        within(a),
        record(field("i", inner(a)), field("j", inner(a, name="N", aliases=["In"]))),
        {(".j", "alias-changed")},
    ),
    "registry-new-type-with-the-alias-of-the-record": (
        record(a),
        record(a, field("j", {"type": "array", "items": inner(b, name="N", aliases=["t.R"])})),
        {(".j[]", "alias-changed")},
    ),
    "registry-alias-within-a-new-type": (
        record(a),
        record(a, field("j", inner(field("k", inner(field("b", aliases=["a"]), name="M")), name="N"))),
        {(".j.k.b", "alias-changed")},
    ),
    "registry-alias-of-an-enum-in-a-new-map": (
        record(a),
        record(a, field("j", {"type": "map", "values": enum("X", aliases=["R"])})),
        {(".j{}", "alias-changed")},
    ),
    "registry-string-to-bytes": (record(a), of("bytes"), {(".a", "retyped")}),
    "registry-mark-changed": (record(a), of(STRING, sluice={"type": "json"}), {(".a", "logical-type-changed")}),
    "registry-symbols-reordered": (of(enum("X", "Y")), of(enum("Y", "X")), {(".a", "symbols-reordered")}),
    "registry-branches-reordered": (bare(OPTIONAL), bare(OPTIONAL[::-1]), {(".a", "branches-reordered")}),
    "record-renamed-through-an-alias": (
        record(a),
        record(a, name="S", aliases=["R"]),
        {("", "renamed"), ("", "alias-changed")},
    ),
    "required-removed": (record(a, plain | {"name": "b"}), record(a), {(".b", "removed")}),
    "no-default": (record(a), record(a, {"name": "b", "type": STRING}), {(".b", "no-default")}),
    "nullable-without-default": (record(a), record(a, {"name": "b", "type": OPTIONAL}), {(".b", "no-default")}),
    "int-to-long": (of("int"), of("long"), {(".a", "retyped")}),
    "string-to-long": (record(a), of("long"), {(".a", "retyped")}),
    "string-to-record": (record(a), of(inner(b)), {(".a", "retyped")}),
    "retyped-in-depth": (
        within(field("j", inner(a, name="J"))),
        within(field("j", inner(field("a", "int"), name="J"))),
        {(".i.j.a", "retyped")},
    ),
    "moved-out-of-its-record": (within(a, b), record(field("i", inner(a)), b), {(".i.b", "removed")}),
    "made-optional": (record(plain), bare(OPTIONAL), {(".a", "retyped")}),
    "made-required": (bare(OPTIONAL), record(plain), {(".a", "retyped")}),
    "default-taken-away": (record(a), bare(OPTIONAL), {(".a", "default-changed")}),
    "default-added": (record(plain), bare(STRING, default=""), {(".a", "default-changed")}),
    "default-of-a-number": (bare("double", default=0), bare("double", default=0.5), {(".a", "default-changed")}),
    "mark-of-sensitivity-removed": (of(STRING, sluice={"sensitive": True}), of(STRING), {(".a", "mark-removed")}),
    "mark-of-a-number-changed": (
        of(STRING, sluice={"number_kind": "imei"}),
        of(STRING, sluice={"number_kind": "id"}),
        {(".a", "mark-removed")},
    ),
    "mark-of-a-number-on-a-sensitive-field": (
        of(STRING, sluice={"sensitive": True}),
        of(STRING, sluice={"sensitive": True, "number_kind": "id"}),
        {(".a", "mark-added")},
    ),
    "both-marks-at-once": (
        record(a),
        of(STRING, sluice={"sensitive": True, "number_kind": "id"}),
        {(".a", "mark-added")},
    ),
    "both-marks-within-a-new-field": (
        record(a),
        record(a, field("i", inner(field("b", sluice={"sensitive": True, "number_kind": "id"})))),
        {(".i.b", "mark-added")},
    ),
    "precision": (of(decimal(14, 6)), of(decimal(16, 6)), {(".a", "logical-type-changed")}),
    "scale": (of(decimal(14, 6)), of(decimal(14, 7)), {(".a", "logical-type-changed")}),
    "decimal-to-bytes": (of(decimal(14, 6)), of("bytes"), {(".a", "logical-type-changed")}),
    "timestamp-logical-type": (of(MILLIS), of(MICROS), {(".a", "logical-type-changed")}),
    "symbol-removed": (of(enum("X", "Y", default="X")), of(enum("X", default="X")), {(".a", "symbol-removed")}),
    "symbol-without-default": (of(enum("X")), of(enum("X", "Y")), {(".a", "symbol-added")}),
    "symbol-inserted": (
        of(enum("X", "Y", default="X")),
        of(enum("X", "Z", "Y", default="X")),
        {(".a", "symbols-reordered")},
    ),
    "enum-default-only-in-the-new": (
        of(enum("X")),
        of(enum("X", "Y", default="X")),
        {(".a", "symbol-added"), (".a", "default-changed")},
    ),
    "enum-default-changed": (
        of(enum("X", "Y", default="X")),
        of(enum("X", "Y", default="Y")),
        {(".a", "default-changed")},
    ),
    "branch-added": (bare(OPTIONAL), bare(BOTH), {(".a", "branch-added")}),
    "branch-removed": (bare(BOTH), bare(OPTIONAL), {(".a", "branch-removed")}),
    "array-items": (
        of({"type": "array", "items": "int"}),
        of({"type": "array", "items": STRING}),
        {(".a[]", "retyped")},
    ),
    "map-values": (of({"type": "map", "values": "int"}), of({"type": "map", "values": STRING}), {(".a{}", "retyped")}),
    "fixed-size": (of(fixed(4)), of(fixed(5)), {(".a", "retyped")}),
    "type-renamed": (within(a), within(a, name="Out"), {(".i", "renamed")}),
    "namespace-changed": (record(a), record(a, namespace="u"), {("", "renamed")}),
    "a-shared-type-where-it-is-defined": (
        record(field("i", inner(a)), SHARED),
        record(field("i", inner(b, a)), SHARED),
        {(".i.b", "not-at-the-end")},
    ),
    "two-at-once": (record(a, b), record(field("a", "int"), c), {(".a", "retyped"), (".b", "renamed")}),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_only_grows_is_let_through(name: str) -> None:
    assert check(*ALLOWED[name]) == []


@pytest.mark.parametrize("name", BREAKS)
def test_what_breaks_is_found_with_its_path(name: str) -> None:
    old, new, expected = BREAKS[name]
    before = copy.deepcopy((old, new))
    findings = check(old, new)
    assert {(finding.path, finding.change) for finding in findings} == expected
    assert all(finding.text and finding.breaks and finding.instead for finding in findings)
    assert (old, new) == before, "the check changed what it was given"


def test_the_table_is_as_large_as_promised() -> None:
    assert len(ALLOWED) + len(BREAKS) >= 40
    assert sum(name.startswith("registry-") for name in BREAKS) >= 12


@pytest.mark.parametrize("name", [name for name in BREAKS if name.startswith("registry-")])
def test_a_registry_would_let_these_pass(name: str) -> None:
    """Each is readable both ways by Avro's own rules, or invisible to them."""
    old, new, _ = BREAKS[name]
    filled = {"a": "X", "b": "y", "c": "z", "i": {"a": "x", "b": "y"}}
    for writer, reader in ((old, new), (new, old)):
        value = {f["name"]: filled.get(f["name"]) for f in writer["fields"]}
        if name == "registry-string-to-bytes":
            value = {}
        body = io.BytesIO()
        fastavro.schemaless_writer(body, fastavro.parse_schema(writer, {}), value)
        body.seek(0)
        fastavro.schemaless_reader(body, fastavro.parse_schema(writer, {}), fastavro.parse_schema(reader, {}))


deep: Any = "string"
for _ in range(3000):
    deep = {"type": "array", "items": deep}


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({}, "not valid Avro"),
        (17, "not valid Avro"),
        (None, "not valid Avro"),
        ("no-such-type", "not valid Avro"),
        ({"type": "record", "name": "R"}, "not valid Avro"),
        (record(a, a), "not valid Avro"),
        (of({"type": "enum", "name": "E"}), "not valid Avro"),
        (of({"type": "fixed", "name": "F"}), "not valid Avro"),
        ({"type": "record", "name": "R", "fields": [{"type": "string"}]}, "not valid Avro"),
        ({"type": "record", "name": "R", "fields": [{"name": "a", "type": "Missing"}]}, "not valid Avro"),
        (record(field("a", decimal(4, 6))), "not valid Avro"),
        (bare(["null", "string"], default="x"), "not valid Avro"),
        (bare(["string", "null"], default=None), "not valid Avro"),
        (bare(inner({"name": "b", "type": "string"}), default={}), "not valid Avro"),
        (bare(inner({"name": "b", "type": ["null", "string"]}), default={}), "not valid Avro"),
        (bare("long", default=1.5), "not valid Avro"),
        (bare("int", default=2**31), "not valid Avro"),
        (of(enum("X", default="Y")), "not valid Avro"),
        (record(field("b-c")), "not valid Avro"),
        (record(field("b", aliases=[1, "x"])), ".b: its aliases are no list of names"),
        (record(field("b", aliases="x")), "not valid Avro"),
        (record(a, aliases=None), "the schema: its aliases are no list of names"),
        (record(field("i", inner(a, aliases=[5]))), "the type of .i: its aliases are no list of names"),
        (bare(["null", "string", "string"]), "not valid Avro"),
        (bare(["null", ["string"]]), "not valid Avro"),
        (bare([{"type": "array", "items": "int"}, {"type": "array", "items": "string"}]), "not valid Avro"),
        (of({"type": "bytes", "logicalType": "decimal"}), "not valid Avro"),
        (record(field("next", "R")), "contains itself"),
        (record(field("next", {"type": "array", "items": "t.R"})), "contains itself"),
        (record(*(field(f"f{n}") for n in range(20_000))), "more than 10000 fields"),
        (record(field("a", deep)), "nested too deeply"),
    ],
)
def test_a_schema_that_has_no_answer_is_an_error_that_says_what_to_do(schema: Any, says: str) -> None:
    with pytest.raises(InvalidSchema, match=says) as caught:
        check(record(a), schema)
    assert "new schema" in str(caught.value)
    with pytest.raises(InvalidSchema, match="old schema"):
        check(schema, record(a))


def test_columns_only_grow_too() -> None:
    old = [Column("id", ".id"), Column("name", ".name")]
    assert check_columns(old, [*old, Column("new", ".new")]) == []
    assert [f.change for f in check_columns(old, old[:1])] == ["column-changed"]
    assert [f.path for f in check_columns(old, [old[1], old[0]])] == [".id", ".name"]
    assert [f.path for f in check_columns(old, [old[0], Column("name", ".other")])] == [".name"]
    assert [f.path for f in check_columns(old, [*old, Column("name", ".again")])] == [".again"]


names = st.text("abcdefgh", min_size=4, max_size=9)
types = st.sampled_from(["string", "long", "double", "boolean", decimal(14, 6)])


def records(schema: Schema) -> list[Schema]:
    """A record schema and all records within it."""
    found = [schema]
    for member in schema["fields"]:
        for branch in member["type"]:
            if isinstance(branch, dict) and branch["type"] == "record":
                found += records(branch)
    return found


@st.composite
def chains(draw: st.DrawFn) -> list[Schema]:
    """Versions that each grow from the one before by allowed changes."""
    versions = [record(field("first"), field("nested", inner(field("first"))))]
    for number in range(draw(st.integers(1, 4))):
        grown = copy.deepcopy(versions[-1])
        for place in range(draw(st.integers(1, 3))):
            into = draw(st.sampled_from(records(grown)))
            name = f"{draw(names)}{number}{place}"
            type_ = inner(field("first"), name=f"N{name}") if draw(st.booleans()) else draw(types)
            into["fields"].append(field(name, type_, doc=draw(names)))
        versions.append(grown)
    return versions


def paths(schema: Schema, at: str = "") -> list[str]:
    found = []
    for member in schema["fields"]:
        found.append(f"{at}.{member['name']}")
        for branch in member["type"]:
            if isinstance(branch, dict) and branch["type"] == "record":
                found += paths(branch, found[-1])
    return found


def example(schema: Schema) -> Schema:
    made: Schema = {}
    for member in schema["fields"]:
        branch = member["type"][1]
        if isinstance(branch, dict) and branch["type"] == "record":
            made[member["name"]] = example(branch)
        else:
            made[member["name"]] = {"string": "x", "long": 7, "double": 0.5, "boolean": True}.get(str(branch))
    return made


@settings(max_examples=40)
@given(chains())
def test_any_chain_of_allowed_changes_keeps_order_and_reads_both_ways(versions: list[Schema]) -> None:
    for older in range(len(versions)):
        for newer in range(older, len(versions)):
            old, new = versions[older], versions[newer]
            assert check(old, new) == []
            assert [path for path in paths(new) if path in set(paths(old))] == paths(old)
            for was, now in zip(
                records(old), (r for r in records(new) if r["name"] in {r["name"] for r in records(old)}), strict=True
            ):
                assert [f["name"] for f in now["fields"]][: len(was["fields"])] == [f["name"] for f in was["fields"]]
            for writer, reader in ((old, new), (new, old)):
                body = io.BytesIO()
                value = example(writer)
                fastavro.schemaless_writer(body, fastavro.parse_schema(writer, {}), value)
                body.seek(0)
                read = fastavro.schemaless_reader(
                    body, fastavro.parse_schema(writer, {}), fastavro.parse_schema(reader, {})
                )
                assert isinstance(read, dict)
                assert read["first"] == value["first"]
                assert list(read) == [f["name"] for f in reader["fields"]]


def leaves(schema: Schema, at: str = "") -> list[str]:
    """The paths of fields that are no records."""
    found = []
    for member in schema["fields"]:
        branch = member["type"][1]
        path = f"{at}.{member['name']}"
        found += leaves(branch, path) if isinstance(branch, dict) and branch["type"] == "record" else [path]
    return found


def subjects(versions: list[Schema]) -> list[Subject]:
    """The subject as it was after each version: new columns at the end, as `check_columns` wants it."""
    made: list[Subject] = []
    columns: list[Column] = []
    for number, schema in enumerate(versions, 1):
        known = {column.path for column in columns}
        columns += [Column(path[1:].replace(".", "_"), path) for path in leaves(schema) if path not in known]
        released = tuple(Version("chain", place, one) for place, one in enumerate(versions[:number], 1))
        made.append(Subject("chain", released, tuple(columns)))
    return made


@settings(max_examples=40)
@given(chains())
def test_any_chain_of_allowed_changes_keeps_every_csv_prefix_and_json_key_order(versions: list[Schema]) -> None:
    after = subjects(versions)
    for older in range(len(versions)):
        for newer in range(older, len(versions)):
            old, new = after[older], after[newer]
            assert check_columns(old.columns, new.columns) == []
            assert csv_header(new).startswith(csv_header(old)[:-1])
            value = json.dumps(example(versions[older])).encode()
            codec = Codec(new)
            again = codec.encode(codec.decode(value))
            assert order(json.loads(again)) == order(json.loads(Codec(old).encode(Codec(old).decode(value))))
            assert CsvRow(new)(again).startswith(CsvRow(old)(again)[:-1])


def order(value: Any) -> Any:
    """The keys of an object, in order and at every depth."""
    return [(key, order(item)) for key, item in value.items()] if isinstance(value, dict) else None


@settings(max_examples=60)
@given(chains(), st.data())
def test_any_later_tampering_is_found(versions: list[Schema], data: st.DataObject) -> None:
    new = copy.deepcopy(versions[-1])
    victim = data.draw(st.sampled_from(records(new)))
    what = data.draw(st.sampled_from(["drop", "swap", "retype", "rename", "default"]))
    place = data.draw(st.integers(0, len(victim["fields"]) - 1))
    target = victim["fields"][place]
    if what == "drop":
        del victim["fields"][place]
    elif what == "swap":
        if len(victim["fields"]) < 2:
            return
        victim["fields"].insert((place + 1) % len(victim["fields"]), victim["fields"].pop(place))
    elif what == "retype":
        target["type"] = ["null", {"type": "array", "items": "string"}]
    elif what == "rename":
        target["name"] += "_new"
    else:
        del target["default"]
    assert check(versions[-1], new), f"{what} of {json.dumps(target)} went unseen"


def test_a_type_that_is_used_in_many_places_is_looked_at_once() -> None:
    """Each of 60 types has two fields of the one before: 2^60 paths."""

    def towers(first: Schema) -> Schema:
        top = inner(first, name="L0")
        for level in range(1, 60):
            top = inner(field("a", top), field("b", f"L{level - 1}"), name=f"L{level}")
        return top

    low, grown = towers(a), towers(field("a", "long"))
    assert check(low, low) == []
    deepest = ".a" * 60
    assert [(one.path, one.change) for one in check(low, grown)] == [(deepest, "retyped")]
    assert [one.change for one in check(record(field("x", low)), record(field("y", low)))] == ["renamed"]
    with pytest.raises(InvalidSchema, match="more than 10000 fields"):
        fields_of(low)
