"""The `pipelines` section of a config: what is done to the records of one raw topic, checked against their schema."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

import msgspec
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from pipeline import conditions
from pipeline.conditions import UNMATCHED, Condition
from pipeline.keys import DEAD_LETTERS
from pipeline.paths import InvalidPath, Location, Names, Problem, described, parse, resolve, text
from schemas import subjects
from schemas.structs import record_type
from schemas.subjects import UnknownSubject, load

__all__ = ["Condition", "EncryptRule", "EnrichRule", "PipelineConfig"]

Algorithm = Literal["AES-256-GCM", "AES-256-CFB"]
Rule = TypeVar("Rule", bound=BaseModel)
Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$")]

SUCCESS = "success"
"""The only route of a pipeline that has no routes."""
RESERVED = (UNMATCHED, "dlq")


class EnrichRule(BaseModel):
    """A join: fields of a reference, put where the record lacks them."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    by: str = Field(description="The field that holds the id to look up, as a path: `.endpoint.id`.")
    source: str = Field(alias="from", description="The reference that is looked up in, by its name in `reference`.")
    into: str = Field(description="The object that is filled in, as a path: `.endpoint`.")


class EncryptRule(BaseModel):
    """One field that leaves encrypted, on every route."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    field: str = Field(description="The field, as a path: `.transaction.cc.cc_number`. It must hold text.")
    key: str = Field(description="The key's name in the key file.")
    algorithm: Algorithm = Field(
        default="AES-256-GCM",
        description="AES-256-GCM: one token, which nobody can change unnoticed. AES-256-CFB: as openssl and Vector write it.",
    )
    iv_field: str | None = Field(
        default=None,
        description="Where AES-256-CFB puts the initialisation vector, as a path: `.transaction.cc.cc_number_iv`.",
    )
    encoding: Literal["base64", "hex"] = Field(
        default="base64", description="How AES-256-CFB writes value and vector as text."
    )

    @field_validator("key")
    @classmethod
    def _key_has_one_purpose(cls, key: str) -> str:
        if key == DEAD_LETTERS:
            raise ValueError(f"{DEAD_LETTERS} seals dead letters; use a key of its own for fields")
        return key

    @model_validator(mode="after")
    def _suits_its_algorithm(self) -> Self:
        problems = []
        if self.algorithm == "AES-256-CFB" and self.iv_field is None:
            problems.append(
                Problem(("iv_field",), f"missing; AES-256-CFB needs one, for example iv_field: {self.field}_iv")
            )
        if self.algorithm == "AES-256-GCM" and self.iv_field is not None:
            problems.append(
                Problem(("iv_field",), "AES-256-GCM keeps its nonce in the token; remove it, or use AES-256-CFB")
            )
        if self.algorithm == "AES-256-GCM" and self.encoding != "base64":
            problems.append(
                Problem(("encoding",), "an AES-256-GCM token is always base64url; remove it, or use AES-256-CFB")
            )
        _raise(type(self).__name__, problems)
        return self


class PipelineConfig(BaseModel):
    """What is done to the records of one raw topic, in this order: enrich, drop, route, encrypt.

    A pipeline NAME writes to `NAME.success`, `NAME.fail`, `NAME.unmatched`: one topic for each route, and dead letters to
    `NAME.dlq`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, protected_namespaces=())

    source: str = Field(alias="from", min_length=1, description="The raw topic that is read.")
    subject: str = Field(alias="schema", description="The subject that records are checked against: event or usage.")
    enrich: list[EnrichRule] = Field(default=[], description="References that fill in what records lack.")
    drop: list[str] = Field(default=[], description="Fields that are removed, as paths.")
    routes: dict[Label, Annotated[list[Condition], Field(min_length=1)]] = Field(
        default={},
        description="Conditions by route. The first that matches takes the record, the rest is unmatched; without any, all"
        " is success.",
    )
    encrypt: list[EncryptRule] = Field(default=[], description="Fields that are encrypted, on every route.")

    @field_validator("subject")
    @classmethod
    def _subject_is_known(cls, name: str) -> str:
        try:
            load(name)
        except UnknownSubject as error:
            raise ValueError(str(error)) from None
        return name

    @model_validator(mode="wrap")
    @classmethod
    def _fits_its_schema(cls, data: Any, build: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            config = build(data)
        except ValidationError as error:
            # What is wrong with the form of one rule must not hide what is wrong with the others.
            found = [_detail(one) for one in error.errors(include_url=False)]
            places = [one["loc"] for one in found]
            others = [
                one for one in _problems(_readable(data)) if not any(one.where[: len(at)] == at[:3] for at in places)
            ]
            raise ValidationError.from_exception_data(cls.__name__, [*found, *map(_as_detail, others)]) from None
        _raise(cls.__name__, list(_problems(config)))
        return config

    def route_names(self) -> tuple[str, ...]:
        """The labels that records may leave under, `unmatched` last."""
        return (*self.routes, UNMATCHED) if self.routes else (SUCCESS,)

    def extra_fields(self) -> list[tuple[str, ...]]:
        """Fields that encryption adds to records: the `extra` of a `schemas.codec.Codec` that reads or writes them."""
        return [tuple(map(str, parse(rule.iv_field))) for rule in self.encrypt if rule.iv_field is not None]


def _raise(model: str, problems: list[Problem]) -> None:
    """All problems at once, each at its own place in the config; pydantic puts the model's own place before it."""
    if problems:
        raise ValidationError.from_exception_data(model, list(map(_as_detail, problems)))


def _as_detail(problem: Problem) -> InitErrorDetails:
    kind = PydanticCustomError("value_error", "{error}", {"error": problem.reason})
    return InitErrorDetails(type=kind, loc=problem.where, input=None)


def _detail(error: ErrorDetails) -> InitErrorDetails:
    """An error of pydantic's, to be raised again."""
    kind = PydanticCustomError(error["type"], error["msg"], error.get("ctx", {}))
    return InitErrorDetails(type=kind, loc=error["loc"], input=None)


def _readable(data: Any) -> "PipelineConfig":
    """The part of a config that has the right form; a rule that has not is one that says nothing."""
    given = data if isinstance(data, Mapping) else {}
    subject = given.get("schema", given.get("subject"))
    routes = given.get("routes")
    return PipelineConfig.model_construct(
        subject=subject if subject in subjects.names() else "",
        enrich=_rules(EnrichRule, given.get("enrich"), {"by": "", "source": "", "into": ""}),
        drop=[path if isinstance(path, str) else "" for path in _listed(given.get("drop"))],
        routes={
            str(label): _rules(Condition, listed, {"field": None})
            for label, listed in (routes if isinstance(routes, Mapping) else {}).items()
        },
        encrypt=_rules(EncryptRule, given.get("encrypt"), {"field": "", "iv_field": None}),
    )


def _rules(model: type[Rule], items: Any, paths: dict[str, str | None]) -> list[Rule]:
    """The rules of a list; of one that has the wrong form, the paths that it has."""
    rules = []
    for item in _listed(items):
        try:
            rules.append(model.model_validate(item))
        except ValidationError:
            given = item if isinstance(item, Mapping) else {}
            found = {name: given[name] for name in paths if isinstance(given.get(name), str)}
            rules.append(model.model_construct(None, **{**paths, **found, "op": "exists"}))
    return rules


def _listed(items: Any) -> list[Any]:
    return items if isinstance(items, list) else []


def _problems(config: PipelineConfig) -> Iterator[Problem]:
    if not config.subject:
        return
    record = record_type(load(config.subject))
    yield from _wrong_names(config)
    yield from _wrong_joins(config, record)
    drops: dict[str, Names] = {}
    for number, path in enumerate(config.drop):
        try:
            drops[resolve(path, record).path] = parse(path)
        except InvalidPath as error:
            yield Problem(("drop", number), str(error))
    yield from _wrong_routes(config, record, drops)
    yield from _wrong_encryption(config, record, drops)


def _wrong_names(config: PipelineConfig) -> Iterator[Problem]:
    for label in config.routes:
        if label in RESERVED:
            yield Problem(("routes", label), f"{label} is a name of Sluice's own; choose another")


def _wrong_joins(config: PipelineConfig, record: type[msgspec.Struct]) -> Iterator[Problem]:
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


def _wrong_routes(
    config: PipelineConfig, record: type[msgspec.Struct], drops: Mapping[str, Names]
) -> Iterator[Problem]:
    for label, listed in config.routes.items():
        for where, reason in conditions.check(listed, record):
            yield Problem(("routes", label, *where), reason)
        for where, path in conditions.fields(listed):
            place = ("routes", label, *where, "field")
            if _is_enriched(path, config):
                yield Problem(
                    place,
                    f"{path} is filled in by enrich, so its value may change between two readings of a record; route by what the"
                    " record itself holds",
                )
            for dropped, outer in drops.items():
                if _is_within(_parts(path), outer):
                    yield Problem(
                        place, f"{dropped} is dropped before records are routed; remove it from drop, or this condition"
                    )


def _is_enriched(path: str, config: PipelineConfig) -> bool:
    """Whether a join may change what a path leads to. The id that a join looks up is there, so that it fills in another field."""
    names = _parts(path)
    joins = [rule for rule in config.enrich if _touches(names, _parts(rule.into))]
    return any(rule.by != path for rule in joins)


def _parts(path: str) -> Names:
    """The parts of a path; of one that is none, a name that nothing has."""
    try:
        return parse(path)
    except InvalidPath:
        return (path,)


def _touches(one: Names, other: Names) -> bool:
    return _is_within(one, other) or _is_within(other, one)


def _is_within(names: Names, outer: Names) -> bool:
    return names[: len(outer)] == outer


def _wrong_encryption(
    config: PipelineConfig, record: type[msgspec.Struct], drops: Mapping[str, Names]
) -> Iterator[Problem]:
    taken: dict[str, str] = {}
    for number, rule in enumerate(config.encrypt):
        try:
            at = resolve(rule.field, record)
        except InvalidPath as error:
            yield Problem(("encrypt", number, "field"), str(error))
            continue
        place = ("encrypt", number, "field")
        if at.inside or at.kind != "string":
            held = "any value" if at.inside else described(at.kind)
            yield Problem(
                place, f"{rule.field} holds {held}, and only text can be encrypted; name fields that hold text"
            )
        if rule.field in taken:
            yield Problem(place, f"{rule.field} is {taken[rule.field]} already; each field can be encrypted once")
        taken[rule.field] = "encrypted"
        yield from (
            Problem(place, f"{rule.field} is dropped before it is encrypted; remove this rule, or {dropped} from drop")
            for dropped, outer in drops.items()
            if _is_within(at.names, outer)
        )
    for number, rule in enumerate(config.encrypt):
        if rule.iv_field is not None:
            if rule.iv_field in taken:
                reason = f"{rule.iv_field} is {taken[rule.iv_field]} already; give each rule an iv_field of its own"
            else:
                reason = _misplaced_iv(rule.iv_field, rule, record)
            if reason:
                yield Problem(("encrypt", number, "iv_field"), reason)
            taken[rule.iv_field] = "an iv_field"


def _misplaced_iv(path: str, rule: EncryptRule, record: type[msgspec.Struct]) -> str:
    """Why a vector cannot be put there; "" if it can.

    It must be in an object that is there whenever the field is, and overwrite nothing that a record may bring.
    """
    try:
        names, field = parse(path), parse(rule.field)
    except InvalidPath as error:
        return str(error)
    if not _is_within(field[:-1], names[:-1]):
        return f"{path} is in another object than {rule.field}; put it beside the field, for example {rule.field}_iv"
    if not str(names[-1]).isidentifier():
        return f"{path} is no name for a field that is added; use letters, digits and _"
    try:
        found: Location = resolve(path, record)
    except InvalidPath:
        return ""
    if found.kind != "string" or not found.name.endswith("_iv"):
        return (
            f"{text(names)} is a field of the schema, holds {described(found.kind)} and would be overwritten; use a name that"
            f" the schema does not have, or one of its fields for vectors, for example {rule.field}_iv"
        )
    return ""
