"""docs/schemas.md, made from the subjects: `make docs`. A test fails when it is stale."""

from collections.abc import Iterator, Mapping

from schemas.fields import Field
from schemas.subjects import Subject, load, names

HEAD = """\
# Subjects: what records hold

<!-- Made by `make docs` from schemas/. Change the schemas, not this page. -->

A subject is what a topic's records are checked against, and what is delivered. All fields are optional: absent stays absent, null
stays null. Keys stand in the order of these tables, in JSON and in Avro; CSV columns have an order of their own. All of it only
grows.

| type | in JSON | in Avro |
| --- | --- | --- |
| string, boolean, long, double | as such; a long has 64 bits | as such |
| timestamp | text, UTC, `2026-11-26T10:00:00.125Z` | string |
| decimal(p, s) | a number with at most s places, exact | bytes, logical type decimal |
| record, array | object, array | record, array |
| object, any | any JSON object, any JSON value | string that holds JSON |

A double keeps 15 to 17 significant digits. Of a number below 2^53 (9007199254740992) in size, digits beyond them are rounded
(1e-400 becomes 0). A number of that size or more is refused if any digit of it would change.

*sensitive*: what a card or a person is known by. No log and no error holds a value of any field, and `sluice check` warns of
card fields that would leave in clear. The others are delivered as they came, unless the pipeline encrypts or drops them;
nothing is masked. `detail` may hold usernames too (`support_username`, `target_username`): it is open, so nothing within it
can be marked; `drop` takes them out.

A field with another kind of number in it (*imei*, *iccid*, *id* ...) holds no card number, whatever its digits say.

"""
TAIL = """\
## How to add a field

1. Copy the newest version: `cp schemas/event/v4.avsc schemas/event/v5.avsc`. A released file never changes.
2. Append the field **at the end of its record**, with `"type": ["null", TYPE], "default": null` and a `doc`.
3. A personal or card field gets `"sluice": {"sensitive": true}`; an id or a serial number `"sluice": {"number_kind": "id"}`;
   no field gets both.
4. Give the version the next free number in `schemas/ids.json`.
5. If it should be in CSV, append its column to `schemas/event/columns.json`.
6. Put a record that has it into `schemas/event/examples/v5/`.
7. `make docs check test`: the check says what would break whom, and what to do instead.
8. Roll out the workers first, then the producers that send it. Readers of what is delivered need nothing
   ([consumers.md](consumers.md)).
"""
_ORDER = ("event", "usage")


def page() -> str:
    """The page, as Markdown."""
    subjects = [*_ORDER, *(name for name in names() if name not in _ORDER)]
    return HEAD + "".join(line + "\n" for name in subjects for line in _subject(load(name))) + TAIL


def _subject(subject: Subject) -> Iterator[str]:
    since, columns = _since(subject), {column.path: column.name for column in subject.columns}
    has_columns = bool(subject.columns)
    yield f"## {subject.name}"
    yield ""
    for version in subject.versions:
        yield f"- v{version.number}: {version.schema['doc']}"
    yield ""
    yield f"| field | type | since |{' CSV column |' if has_columns else ''} |"
    yield f"| --- | --- | --- |{' --- |' if has_columns else ''} --- |"
    for top in subject.fields:
        for field in top.walk():
            marks = " *sensitive*" if field.sensitive else f" *{field.number_kind}*" if field.number_kind else ""
            column = f" {_code(columns.get(field.text_path, ''))} |" if has_columns else ""
            yield f"| `{field.text_path}` | {_type(field)} | v{since[field.text_path]} |{column} {field.doc}{marks} |"
    yield ""
    if has_columns:
        yield f"CSV, {len(subject.columns)} columns in this order: " + ", ".join(
            f"`{one.name}`" for one in subject.columns
        )
        yield ""


def _since(subject: Subject) -> Mapping[str, int]:
    found: dict[str, int] = {}
    for version in subject.versions:
        for top in version.fields:
            for field in top.walk():
                found.setdefault(field.text_path, version.number)
    return found


def _type(field: Field) -> str:
    match field.kind:
        case "decimal":
            return f"decimal({field.precision}, {field.scale})"
        case "array":
            return "array of " + " or ".join(field.items)
        case "json":
            return "any"
        case kind:
            return kind


def _code(text: str) -> str:
    return f"`{text}`" if text else ""
