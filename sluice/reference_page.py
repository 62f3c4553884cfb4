"""docs/configuration.md and docs/config.schema.json, made from the models: `make docs`. A test fails when they are stale."""

import json
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, IPvAnyNetwork, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pipeline.config import Condition
from sluice import schemas_page
from sluice.config import Config

HEAD = """\
# Configuration

<!-- Made by `make docs` from the models in the code. Change their descriptions, not this page. -->

One YAML file describes everything. `sluice check FILE --offline` shows all that is wrong with it at once; `sluice check FILE`
also looks at what it names. Everything but `kafka` and one pipeline may be left out. Unknown keys are refused.

- `${VAR}` anywhere in a value is taken from the environment. No problem quotes what comes from there, but for values of three
  characters and less. Names of keys, topics and buckets are shown wherever they came from: put secrets in the keys that are for
  secrets.
- Relative paths count from the config file's folder.
- Fields of records are written as paths: `.transaction.cc.cc_number`.
- Pipelines and streams share one namespace of names: `a-z`, `0-9`, `-` and `_`. A pipeline NAME writes to `NAME.success`,
  `NAME.fail`, `NAME.unmatched`, one topic for each route; dead letters of a pipeline or stream NAME go to `NAME.dlq`.
- Editors complete and check the file with `# yaml-language-server: $schema=PATH/docs/config.schema.json` as its first line.

Examples: [workshop.yaml](../examples/workshop.yaml), [data-streamer.yaml](../examples/data-streamer.yaml).

"""
TAIL = """\
## Conditions

`equal`, `not_equal`, `greater`, `greater_or_equal`, `less`, `less_or_equal`, `contains`, `starts_with`, `ends_with`, `matches` (a
regular expression of RE2), `in` (a list in `value`) and `in_cidr` (networks) compare a field with `value`; `exists`, `is_null`,
`is_number`, `is_string` and `is_boolean` take none. A list of conditions holds when all of them do, and one may
stand alone instead; `any`, `all`, `not` and lists nest.

- Text and numbers never equal each other, and booleans are no numbers. A condition on a field that is not there is false.
- Routes depend on what the record itself holds: conditions on what `enrich` fills in are refused.

## The key file

`keys.path` names a file of mode 0400. `sluice keys new FILE NAME` adds a key, `sluice keys rotate FILE NAME` replaces the active
version of one, `sluice keys list FILE` shows what there is, and none shows a key. Each name has one active version, that
encrypts, and any number that only decrypt. A running worker takes a changed file within seconds. With `provider: env` the same
content stands in `SLUICE_KEYS`, as YAML or JSON. How keys are kept and rotated: [security.md](security.md#encryption-keys).

```yaml
card-number:
  - {id: "2026-11", state: active, base64: "..."}          # 32 bytes; 16 or 24 for AES-128 and 192
  - {id: "2025-03", state: decrypt-only, text: "..."}      # 32 characters as they are
dead-letters:
  - {id: "1", state: active, base64: "..."}                # seals what could not be taken
```
"""
_CONDITION = {"$ref": "#/$defs/Condition"}
_NAMES: dict[Any, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Path: "path",
    SecretStr: "text, kept secret",
    IPvAnyNetwork: "network (10.0.0.0/8)",
    Any: "any value",
}


def page() -> str:
    """The reference page, as Markdown."""
    lines = [HEAD.rstrip("\n"), ""]
    for place, model, about in _sections():
        lines += [f"## `{place}`" if place else "## The file", "", about, ""]
        lines += ["| key | value | default | |", "| --- | --- | --- | --- |"]
        lines += [_row(name, field) for name, field in model.model_fields.items()]
        lines.append("")
    return "\n".join([*lines, TAIL])


def schema() -> str:
    """The JSON Schema of the file, for editors."""
    found = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema(by_alias=True)}
    one = found["$defs"].pop("Condition")
    _let_stand_alone(found)
    several = {"items": _CONDITION, "minItems": 1, "type": "array"}
    found["$defs"] = {"Condition": {"anyOf": [one, several]}, **found["$defs"]}
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def _let_stand_alone(schema: Any) -> None:
    """Where a list of conditions may stand, one may (sluice/config_forms.py)."""
    if isinstance(schema, dict) and schema.get("items") == _CONDITION:
        listed = {key: schema.pop(key) for key in ("items", "minItems", "type") if key in schema}
        schema["anyOf"] = [listed, _CONDITION]
    elif isinstance(schema, dict | list):
        for below in schema.values() if isinstance(schema, dict) else schema:
            _let_stand_alone(below)


def main() -> None:
    """Write all pages that are made from code into the folder that is given as argument."""
    folder = Path(sys.argv[1])
    (folder / "schemas.md").write_text(schemas_page.page(), encoding="utf-8")
    (folder / "configuration.md").write_text(page(), encoding="utf-8")
    (folder / "config.schema.json").write_text(schema(), encoding="utf-8")


def _sections() -> Iterator[tuple[str, type[BaseModel], str]]:
    """Each model once, where it is met first, outermost first."""
    waiting: list[tuple[str, type[BaseModel]]] = [("", Config)]
    seen = set()
    while waiting:
        place, model = waiting.pop(0)
        if model in seen:
            continue
        seen.add(model)
        yield place, model, " ".join((model.__doc__ or "").split())
        inner = []
        for name, field in model.model_fields.items():
            inner += list(_models(f"{place}.{field.alias or name}".lstrip("."), field.annotation))
        waiting = [*inner, *waiting] if place else inner


def _models(place: str, annotation: Any) -> Iterator[tuple[str, type[BaseModel]]]:
    origin, members = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield place, annotation
    elif origin in (dict, Mapping):
        yield from _models(f"{place}.NAME", members[1])
    elif origin is list:
        yield from _models(f"{place}[]", members[0])
    elif origin is Annotated:
        yield from _models(place, members[0])
    elif origin in (types.UnionType, typing.Union):
        for member in members:
            yield from _models(place, member)


def _row(name: str, field: FieldInfo) -> str:
    default = "required" if field.is_required() else _default(field)
    bounds = _bounds(field)
    value = _said(field.annotation) + (f", {bounds}" if bounds else "")
    cells = (f"`{field.alias or name}`", value, default, field.description or "")
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is None or value is PydanticUndefined or (isinstance(value, dict | list | tuple | str) and not value):
        return ""
    if isinstance(value, BaseModel):
        return "its defaults"
    return f"`{str(value).lower()}`" if isinstance(value, bool) else f"`{value}`"


def _bounds(field: FieldInfo) -> str:
    said = []
    for one in field.metadata:
        match one:
            case Ge(ge=bound):
                said.append(f"at least {bound:,}")
            case Gt(gt=bound):
                said.append(f"above {bound:,}")
            case Le(le=bound):
                said.append(f"at most {bound:,}")
            case Lt(lt=bound):
                said.append(f"below {bound:,}")
    return ", ".join(said)


def _said(annotation: Any) -> str:
    """A type in words."""
    if annotation in _NAMES:
        return _NAMES[annotation]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "condition" if annotation is Condition else "see below"
    return _said_of_several(typing.get_origin(annotation), typing.get_args(annotation))


def _said_of_several(origin: Any, members: tuple[Any, ...]) -> str:
    if origin is Literal:
        return ", ".join(f"`{one}`" for one in members)
    if origin is Annotated:
        return _said(members[0])
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_said(one) for one in members if one is not type(None))
    if origin in (list, tuple):
        return f"list of: {_said(members[0])}"
    inner = _said(members[1])
    return "mapping of names" if inner == "see below" else f"mapping of names to: {inner}"


if __name__ == "__main__":
    main()
