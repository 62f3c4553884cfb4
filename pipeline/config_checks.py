"""What is wrong with a pipeline's rules: checked against the schema, and against each other, before anything runs."""

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec

from pipeline import conditions
from pipeline.card_search import CardSearch
from pipeline.conditions import TYPE_TESTS, UNMATCHED, comparisons
from pipeline.contradictions import contradiction, demanded
from pipeline.encryption_checks import wrong_encryption
from pipeline.gate import KINDS
from pipeline.gone import Gone
from pipeline.paths import InvalidPath, Problem, described, is_within, parts, resolve, touches
from pipeline.shaping import fitting
from schemas.fields import Field
from schemas.settling import Settling
from schemas.structs import record_type
from schemas.subjects import load
from schemas.values import value_fault

if TYPE_CHECKING:
    from pipeline.config import PipelineConfig

RESERVED = (UNMATCHED, "dlq", "dead-letter")


def problems(config: "PipelineConfig", *, complete: bool = True) -> Iterator[Problem]:
    """Everything that is wrong with the rules of a pipeline; where some have the wrong form, what can be told."""
    if not config.subject:
        return
    record = record_type(load(config.subject))
    gone = Gone(config, record)
    yield from gone.problems
    yield from _wrong_names(config)
    yield from _wrong_joins(config, record)
    yield from _wrong_values(config, record)
    yield from _wrong_redaction(config, record, gone)
    yield from _wrong_thinning(config, record, gone)
    yield from _wrong_routes(config, record, gone)
    if complete:
        yield from _useless_routes(config)
    yield from wrong_encryption(config, record, gone)


def _wrong_names(config: "PipelineConfig") -> Iterator[Problem]:
    for label in config.routes:
        if label in RESERVED:
            yield Problem(("routes", label), f"{label} is a name of Sluice's own; choose another")


def _wrong_joins(config: "PipelineConfig", record: type[msgspec.Struct]) -> Iterator[Problem]:
    for number, rule in enumerate(config.enrich):
        try:
            by = resolve(rule.by, record)
            if by.kind not in ("integer", "string"):
                yield Problem(
                    ("enrich", number, "by"), f"{rule.by} holds {described(by.kind)}; name the field that holds an id"
                )
        except InvalidPath as error:
            yield Problem(("enrich", number, "by"), str(error))
        try:
            into = resolve(rule.into, record)
            if into.kind != "record":
                yield Problem(("enrich", number, "into"), f"{rule.into} holds {described(into.kind)}; name an object")
        except InvalidPath as error:
            yield Problem(("enrich", number, "into"), str(error))


def _wrong_values(config: "PipelineConfig", record: type[msgspec.Struct]) -> Iterator[Problem]:
    for path, value in config.set_.items():
        place = ("set", path)
        try:
            at = resolve(path, record)
        except InvalidPath as error:
            yield Problem(place, str(error))
            continue
        if at.inside or at.kind == "record":
            yield Problem(place, f"{path} is no field that holds a value; name one of the schema's")
            continue
        try:
            fitting(value, at.type)
        except (ValueError, ArithmeticError):
            yield Problem(place, f"{path} holds {described(at.kind)}, and this is none; correct the value")
            continue
        if reason := _other_form(value, at.names, config):
            yield Problem(place, f"{path} {reason}")
        if config.gate == "refuse" and _leaves_as_card(value, at.names, config):
            reason = f"{path} would hold the number of a card, and the gate refuse every record; set something else"
            yield Problem(place, reason)
    if config.rename and load(config.subject).columns:
        reason = f"{config.subject} is delivered, and its names are a promise to those who read it; remove it"
        yield Problem(("rename",), reason)
        return
    for old, new in config.rename.items():
        try:
            source, target = resolve(old, record), resolve(new, record)
        except InvalidPath as error:
            yield Problem(("rename", old), str(error))
            continue
        if new in config.rename:
            yield Problem(("rename", old), f"{new} is renamed itself; give each field a new name that none has")
        if list(config.rename.values()).count(new) > 1:
            yield Problem(
                ("rename", old), f"{new} is what another field is renamed to as well; give each field a new name"
            )
        if source.inside or target.inside or source.type != target.type:
            reason = f"{old} and {new} do not hold the same; name a field that holds {described(source.kind)}"
            yield Problem(("rename", old), reason)


def never_true(config: "PipelineConfig") -> Iterator[str]:
    """Comparisons in the routes of a valid config that are true of no record, in words."""
    record = record_type(load(config.subject))
    for label, asked in config.routes.items():
        for _, one in comparisons(asked):
            at = resolve(one.field or "", record)
            if at.inside or at.kind == "open":
                continue
            if at.kind not in TYPE_TESTS.get(one.op or "", (at.kind,)):
                yield f"route {label}: {at.path} holds {described(at.kind)}, so {one.op} is never true"
            if one.op in ("equal", "in") and not one.ignore_case:
                for value in one.value if isinstance(one.value, list) else [one.value]:
                    if reason := _other_form(value, at.names, config):
                        yield f"route {label}: what {at.path} is compared with {reason}"


def _leaves_as_card(value: Any, names: Sequence[str], config: "PipelineConfig") -> bool:
    """Whether the gate would find a card number in this."""
    hidden = [*(rule.field for rule in config.encrypt), *(rule.field for rule in config.redact)]
    if any(is_within(tuple(names), parts(field)) for field in hidden):
        return False
    return not _field(names, config).number_kind and any(CardSearch(KINDS)([msgspec.json.encode(value)]))


def _field(names: Sequence[str], config: "PipelineConfig") -> Field:
    return next(one for top in load(config.subject).fields for one in top.walk() if one.path == tuple(names))


def _other_form(value: Any, names: Sequence[str], config: "PipelineConfig") -> str:
    """Why a value is none that a record is delivered with; "" if it is."""
    field = _field(names, config)
    drift, owner = Counter[str](), SimpleNamespace(**{field.name: copy.deepcopy(value)})
    if field.kind in ("object", "json") and value_fault([value], len(field.path)):
        return "is nested too deep, or holds a number beyond 64 bits or a double; correct the value"
    Settling((field,), drift)([owner])
    settled = getattr(owner, field.name)
    if settled != value:
        return f"is delivered in another form; write {settled}"
    return "holds a time in UTC; write it like 2021-10-27T08:38:02Z" if drift else ""


def _wrong_redaction(config: "PipelineConfig", record: type[msgspec.Struct], gone: Gone) -> Iterator[Problem]:
    for number, rule in enumerate(config.redact):
        place = ("redact", number, "field")
        try:
            at = resolve(rule.field, record)
        except InvalidPath as error:
            yield Problem(place, str(error))
            continue
        if at.inside or at.kind != "string":
            yield Problem(place, f"{rule.field} is no field that holds text; name one, or drop this one")
        if reason := gone.why(rule.field, redacted=False):
            yield Problem(place, reason)
        if any(other.field == rule.field for other in config.redact[:number]):
            yield Problem(place, f"{rule.field} is redacted already; one rule decides what becomes of it")
    encrypting = {rule.key for rule in config.encrypt}
    for number, rule in enumerate(config.redact):
        if rule.key in encrypting:
            reason = f"{rule.key} encrypts fields; use a key of its own for hashes"
            yield Problem(("redact", number, "key"), reason)


def _wrong_thinning(config: "PipelineConfig", record: type[msgspec.Struct], gone: Gone) -> Iterator[Problem]:
    named: list[tuple[tuple[str | int, ...], str]] = []
    if config.sample is not None:
        named += [(("sample", "by"), config.sample.by)] if config.sample.by else []
        always = ("sample", "always")
        yield from (
            Problem((*always, *where), reason) for where, reason in conditions.check(config.sample.always, record)
        )
        for where, path in conditions.fields(config.sample.always):
            yield from _unsteady((*always, *where, "field"), path, config, gone)
    if config.deduplicate is not None:
        for number, path in enumerate(config.deduplicate.by):
            named.append((("deduplicate", "by", number), path))
            if path in config.deduplicate.by[:number]:
                yield Problem(("deduplicate", "by", number), f"{path} stands there twice; remove one of them")
    for place, path in named:
        try:
            at = resolve(path, record)
        except InvalidPath as error:
            yield Problem(place, str(error))
            continue
        if at.inside or at.kind in ("record", "array", "open"):
            yield Problem(
                place, f"{path} holds {described(at.kind)}; name a field that holds text, a number, true or false"
            )
        yield from _unsteady(place, path, config, gone)
    deciding: dict[str, list[str]] = {
        "sample": [config.sample.by] if config.sample and config.sample.by else [],
        "deduplicate": config.deduplicate.by if config.deduplicate else [],
    }
    for stage, paths in deciding.items():
        if paths and all(_is_set(path, config) for path in paths):
            reason = f"{paths[0]} is set before, so all records would be alike; name a field that tells them apart"
            yield Problem((stage, "by"), reason)


def _is_set(path: str, config: "PipelineConfig") -> bool:
    return any(touches(parts(path), parts(given)) for given in config.set_)


def _unsteady(place: tuple[str | int, ...], path: str, config: "PipelineConfig", gone: Gone) -> Iterator[Problem]:
    """What becomes of a record must depend on the record alone: it may be read twice."""
    if _is_enriched(path, config):
        yield Problem(
            place,
            f"{path} is filled in by enrich, so its value may change between two readings of a record; decide by what the"
            " record itself holds",
        )
    if reason := gone.why(path):
        yield Problem(place, reason)


def _wrong_routes(config: "PipelineConfig", record: type[msgspec.Struct], gone: Gone) -> Iterator[Problem]:
    for label, listed in config.routes.items():
        for where, reason in conditions.check(listed, record):
            yield Problem(("routes", label, *where), reason)
        for where, path in conditions.fields(listed):
            yield from _unsteady(("routes", label, *where, "field"), path, config, gone)


def _useless_routes(config: "PipelineConfig") -> Iterator[Problem]:
    """Routes that no record takes: their conditions exclude each other, or an earlier route takes all that they would."""
    earlier: dict[str, set[str]] = {}
    for label, listed in config.routes.items():
        if excluded := contradiction(listed):
            yield Problem(
                ("routes", label), f"no record ever takes it: {excluded} exclude each other; correct one of them"
            )
        demands = {one.model_dump_json(exclude_defaults=True) for one in demanded(listed)}
        before = next((other for other, fewer in earlier.items() if fewer <= demands), None)
        if before is not None and config.match == "first":
            reason = f"no record ever takes it: {before} stands before it and takes all of them; put it before {before}"
            yield Problem(("routes", label), reason)
        earlier[label] = demands


def _is_enriched(path: str, config: "PipelineConfig") -> bool:
    """Whether a join may change what a path leads to. The id that a join looks up is there, so that it fills in another field."""
    names = parts(path)
    joins = [rule for rule in config.enrich if touches(names, parts(rule.into))]
    return any(rule.by != path for rule in joins)
