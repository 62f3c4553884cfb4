"""What pydantic finds wrong with a config, in words that say what to do. Shows no value but numbers out of their range."""

import difflib
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ValidationError

from sluice.yaml_file import Path, Problem, shown

NAME = r"^[a-z0-9][a-z0-9_-]{0,99}$"
"""Of pipelines, streams and references: part of topic names, consumer groups, metrics and object keys."""

_ROUNDS = 10
_NOTHING = object()
_BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}
_FORMS = {
    "string_type": "must be text; put it in quotes",
    "dict_type": "must be a mapping; write KEY: VALUE lines below it",
    "mapping_type": "must be a mapping; write KEY: VALUE lines below it",
    "model_type": "must be a mapping; write KEY: VALUE lines below it",
    "model_attributes_type": "must be a mapping; write KEY: VALUE lines below it",
    "list_type": "must be a list; write [A, B] or lines that begin with -",
    "tuple_type": "must be a list; write [A, B] or lines that begin with -",
    "too_short": "is empty; give at least one",
    "string_too_short": "is empty; write something",
    "path_type": "must be text; put it in quotes",
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false; write one, without quotes"),
    **dict.fromkeys(
        ("int_type", "int_parsing", "int_parsing_size", "int_from_float"),
        "must be a whole number; write one, without quotes",
    ),
    **dict.fromkeys(("float_type", "float_parsing", "finite_number"), "must be a number; write one, without quotes"),
}


def problems(model: type[BaseModel], data: dict[Any, Any]) -> list[Problem]:
    """All that is wrong with data for a model; nothing if it is valid.

    pydantic looks at a model as a whole only when its fields are right: so what is wrong is left out, and the rest is looked
    at again.
    """
    found: dict[Path, Problem] = {}
    left_out: set[Path] = set()
    for _ in range(_ROUNDS):
        try:
            model.model_validate(_without(left_out, data, ()), by_alias=True, by_name=False)
        except ValidationError as error:
            places = []
            for one in error.errors(include_url=False):
                where = _in_file(one["loc"], left_out, data)
                places.append(where)
                if where not in found and not any(_follows(where, one["type"], path, found, data) for path in left_out):
                    found[where] = Problem(where, _reason(model, where, one, _at(where, data)))
            more = {_removable(where, left_out, data) for where in places} - {()}
            if not more:
                break
            left_out |= more
        else:
            break
    return list(found.values())


def _without(left_out: set[Path], value: Any, where: Path) -> Any:
    if isinstance(value, dict):
        return {
            key: _without(left_out, one, (*where, key)) for key, one in value.items() if (*where, key) not in left_out
        }
    if isinstance(value, list):
        kept = [index for index in range(len(value)) if (*where, index) not in left_out]
        return [_without(left_out, value[index], (*where, index)) for index in kept]
    return value


def _in_file(location: Path, left_out: set[Path], data: Any) -> Path:
    """A place as it is in the file, from one in the data without what was left out: lists have become shorter."""
    where: Path = ()
    at = data
    for part in location:
        if part == "[key]":
            continue
        if isinstance(part, int) and isinstance(at, list):
            part = [index for index in range(len(at)) if (*where, index) not in left_out][part]  # noqa: PLW2901  # the place in the file
        where = (*where, part)
        at = member(at, part)
    return where


def _removable(where: Path, left_out: set[Path], data: Any) -> Path:
    """The place, or the innermost one around it that is there and has not been left out; () if only the top is left."""
    for length in range(len(where), 1, -1):
        if _at(where[:length], data) is not _NOTHING and where[:length] not in left_out:
            return where[:length]
    return ()


def _at(where: Path, data: Any) -> Any:
    for part in where:
        data = member(data, part)
    return data


def member(at: Any, part: int | str) -> Any:
    """What a mapping or a list has there; something that is neither, where it has nothing."""
    try:
        return at[part] if isinstance(at, dict | list) else _NOTHING  # type: ignore[index]  # a wrong type is caught
    except (LookupError, TypeError):
        return _NOTHING


def _follows(where: Path, kind: str, path: Path, found: Mapping[Path, Problem], data: Any) -> bool:
    """Whether a problem may be there only because `path` was left out, which has a problem of its own."""
    parent = path[:-1]
    if path[: len(where)] == where and (path == where or kind in ("missing", "too_short")):
        return True
    if _is_rule(parent) and where[: len(parent)] == parent:
        return True  # of a rule in a list, and of a condition, what is wrong with its form was seen at once
    # A section, a misspelt key, or what was left out in the hope to see more: its parent may well need it.
    meant_otherwise = path not in found or "did you mean" in found[path].reason or isinstance(_at(path, data), dict)
    return parent == where and meant_otherwise


def _is_rule(where: Path) -> bool:
    """Whether this is a rule in a list, or a condition within one: `routes.a[0]`, `routes.a[0].not`."""
    return isinstance(where[-1], int) or (where[-1] == "not" and len(where) > 1 and _is_rule(where[:-1]))


def _reason(model: type[BaseModel], where: Path, one: Mapping[str, Any], given: Any) -> str:
    """What to say of an error of pydantic's; `given` is what the file has there."""
    match one["type"]:
        case "extra_forbidden":
            return _unknown(model, str(where[-1]), where[:-1])
        case "missing":
            return _missing(model, where)
        case "value_error":
            return str(one["ctx"]["error"])
        case "literal_error":
            return _choice(given, one["ctx"]["expected"])
        case _:
            return _misfit(one, given)


def _misfit(one: Mapping[str, Any], given: Any) -> str:
    """Why a value is not of the form that it must have."""
    kind, context = one["type"], one.get("ctx", {})
    if kind == "string_pattern_mismatch":
        letters = "lower-case letters" if context["pattern"] == NAME else "letters"
        return f"is no name; use {letters}, digits, - and _, beginning with a letter or digit"
    if kind in _BOUNDS:
        bound, word = _BOUNDS[kind]
        number = f", is {given}" if isinstance(given, int | float) and not isinstance(given, bool) else ""
        return f"must be {word} {context[bound]:g}{number}; correct it"
    if kind in _FORMS:
        return _FORMS[kind]
    message = one["msg"].replace("Input should be", "must be")
    return f"{message[0].lower()}{message[1:]}; correct it"


def _choice(given: Any, expected: str) -> str:
    choices = [choice.strip("'") for choice in expected.replace(" or ", ", ").split(", ")]
    close = difflib.get_close_matches(given, choices, n=1, cutoff=0.6) if isinstance(given, str) else []
    return f"must be one of {', '.join(choices)}" + (f"; did you mean {close[0]}?" if close else "; choose one")


def _missing(model: type[BaseModel], where: Path) -> str:
    parent = _model_at(model, where[:-1])
    fields = parent.model_fields.items() if parent else ()
    about = next((field.description for name, field in fields if where[-1] in (name, field.alias)), None)
    return f"missing; add it: {about}" if about else "missing; add it, as docs/configuration.md says"


def _unknown(model: type[BaseModel], name: str, where: Path) -> str:
    parent = _model_at(model, where)
    known = [field.alias or key for key, field in parent.model_fields.items()] if parent else []
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"unknown; did you mean {close[0]}?"
    if name != shown(name):
        return "unknown; write a blank after the colon of a key, or remove it"
    return f"unknown; remove it. Known here: {', '.join(known)}" if known else "unknown; remove it"


def _model_at(model: type[BaseModel], where: Path) -> type[BaseModel] | None:
    """The model of a section, found by walking the models as pydantic does."""
    at: Any = model
    for part in where:
        at = _step(at, part)
    return at if isinstance(at, type) and issubclass(at, BaseModel) else None


def _step(at: Any, part: int | str) -> Any:
    if isinstance(at, type) and issubclass(at, BaseModel):
        for name, field in at.model_fields.items():
            if part in (name, field.alias):
                return _plain(field.annotation)
        return None
    members = typing.get_args(at)
    if members and typing.get_origin(at) in (dict, Mapping, typing.get_origin(Mapping[str, str])):
        return _plain(members[1])
    if members and typing.get_origin(at) in (list, tuple):
        return _plain(members[0])
    return at


def _plain(annotation: Any) -> Any:
    """Without `Annotated` and `| None`."""
    if typing.get_origin(annotation) is Annotated:
        return _plain(typing.get_args(annotation)[0])
    members = [one for one in typing.get_args(annotation) if one is not type(None)]
    if typing.get_origin(annotation) not in (dict, list, tuple) and len(members) == 1:
        return _plain(members[0])
    return annotation


def in_order(found: list[Problem], data: Mapping[Any, Any]) -> Iterator[Problem]:
    """Problems in the order of the file, each place once with each reason."""
    rank = {where: number for number, where in enumerate(_places(data, ()))}
    unique = dict.fromkeys(found)
    yield from sorted(unique, key=lambda one: next(rank[at] for at in _upwards(one.where) if at in rank))


def _places(value: Any, where: Path) -> Iterator[Path]:
    yield where
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from _places(one, (*where, str(key)))
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from _places(one, (*where, index))


def _upwards(where: Path) -> Iterator[Path]:
    for length in range(len(where), -1, -1):
        yield where[:length]
