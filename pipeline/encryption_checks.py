"""What is wrong with the `encrypt` rules of a pipeline."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import msgspec

from pipeline.gone import Gone
from pipeline.paths import InvalidPath, Location, Problem, described, is_within, parse, parts, resolve, text, touches
from schemas.structs import is_field_name

if TYPE_CHECKING:
    from pipeline.config import EncryptRule, PipelineConfig


def wrong_encryption(config: "PipelineConfig", record: type[msgspec.Struct], gone: Gone) -> Iterator[Problem]:
    """Everything that is wrong with the rules, each with its place in the config."""
    taken: dict[str, str] = {}
    for number, rule in enumerate(config.encrypt):
        for reason in _wrong_field(rule, record, taken):
            yield Problem(("encrypt", number, "field"), reason)
        taken[rule.field] = "encrypted"
        if reason := gone.why(rule.field):
            yield Problem(("encrypt", number, "field"), reason)
        yield from _wrong_bindings(number, rule, record, config, gone)
        for label in rule.required_on or ():
            if label not in config.route_names():
                known = ", ".join(config.route_names())
                yield Problem(("encrypt", number, "required_on"), f"{label} is no route; known are {known}")
    yield from _wrong_added(config, record, taken)
    encrypting = {rule.key for rule in config.encrypt}
    for number, rule in enumerate(config.encrypt):
        if rule.search_key is not None and rule.search_key != rule.key and rule.search_key in encrypting:
            reason = f"{rule.search_key} encrypts fields; use a key of its own for hashes"
            yield Problem(("encrypt", number, "search_key"), reason)


def _wrong_added(config: "PipelineConfig", record: type[msgspec.Struct], taken: dict[str, str]) -> Iterator[Problem]:
    """Fields that rules add; `taken` are those that they encrypt."""
    for number, rule in enumerate(config.encrypt):
        for name in ("iv_field", "key_id_field", "search_field"):
            path = getattr(rule, name)
            if path is None:
                continue
            if path in taken:
                reason = f"{path} is {taken[path]} already; give each rule {name} of its own"
            else:
                reason = _misplaced(path, rule, record)
            if reason:
                yield Problem(("encrypt", number, name), reason)
            taken[path] = f"an {name}" if name == "iv_field" else f"a {name}"


def _wrong_field(rule: "EncryptRule", record: type[msgspec.Struct], taken: Mapping[str, str]) -> Iterator[str]:
    """`taken`: the fields of the rules before this one."""
    try:
        at = resolve(rule.field, record)
    except InvalidPath as error:
        yield str(error)
        return
    if at.inside:
        yield f"{rule.field} is within {text(at.names)}, which holds any value; encrypt all of that as a token"
    elif at.kind != "string" and not rule.is_token:
        held = described(at.kind)
        yield f"{rule.field} holds {held}, and only text can be encrypted by {rule.algorithm}; use AES-256-GCM, or name text"
    if rule.field in taken:
        yield f"{rule.field} is {taken[rule.field]} already; each field can be encrypted once"
    elif around := next((other for other in taken if touches(at.names, parts(other))), None):
        yield f"{rule.field} and {around} are one within the other, and both encrypted; remove one of them"


def _wrong_bindings(
    number: int, rule: "EncryptRule", record: type[msgspec.Struct], config: "PipelineConfig", gone: Gone
) -> Iterator[Problem]:
    """A token opens beside the values that it was made beside: they must leave as they were then, and be written in one way."""
    for index, path in enumerate(rule.bind):
        place = ("encrypt", number, "bind", index)
        try:
            at = resolve(path, record)
        except InvalidPath as error:
            yield Problem(place, str(error))
            continue
        if at.inside or at.kind not in ("string", "integer"):
            yield Problem(
                place, f"{path} holds {described(at.kind)}; bind to fields that hold text or whole numbers, such as .id"
            )
        if any(touches(at.names, parts(other.field)) for other in config.encrypt):
            yield Problem(place, f"{path} is encrypted itself; bind to what stays in clear")
        if reason := gone.why(path, redacted=False):
            yield Problem(place, reason)


def _misplaced(path: str, rule: "EncryptRule", record: type[msgspec.Struct]) -> str:
    """Why what a rule adds cannot be put there; "" if it can.

    It must be in an object that is there whenever the field is, and overwrite nothing that a record may bring.
    """
    try:
        names, field = parse(path), parse(rule.field)
    except InvalidPath as error:
        return str(error)
    if not isinstance(names[-1], str) or not is_field_name(names[-1]):
        return (
            f"{path} is no name for a field; write one beside {rule.field}, without quotes, \\ and control characters"
        )
    beside = f"{rule.field}_{'iv' if path == rule.iv_field else 'key' if path == rule.key_id_field else 'hash'}"
    if not is_within(field[:-1], names[:-1]):
        return f"{path} is in another object than {rule.field}; put it beside the field, for example {beside}"
    try:
        found: Location = resolve(path, record)
    except InvalidPath:
        return ""
    if found.kind != "string" or not found.name.endswith("_iv") or path != rule.iv_field:
        return (
            f"{text(names)} is a field of the schema, holds {described(found.kind)} and would be overwritten; use a name that"
            f" the schema does not have, for example {beside}"
        )
    return ""
