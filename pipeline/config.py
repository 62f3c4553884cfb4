"""The `pipelines` section of a config: what is done to the records of one raw topic, checked against their schema."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from pipeline.ciphers import BlockAlgorithm
from pipeline.conditions import UNMATCHED, Condition, Match
from pipeline.config_checks import problems
from pipeline.keys import DEAD_LETTERS
from pipeline.paths import Problem, canonical, parse
from pipeline.tokens import TOKEN_ALGORITHMS, TokenAlgorithm
from schemas import subjects
from schemas.subjects import UnknownSubject, load

__all__ = ["Condition", "EncryptRule", "EnrichRule", "PipelineConfig"]

Algorithm = Literal[TokenAlgorithm, BlockAlgorithm]
Path = Annotated[str, AfterValidator(canonical)]
"""A path, written in one way whatever way it was given; one that is none stays as it is, and is reported."""
Rule = TypeVar("Rule", bound=BaseModel)
Held = TypeVar("Held")
Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$")]

GateMode = Annotated[Literal["off", "count", "refuse"], BeforeValidator(lambda said: "off" if said is False else said)]
"""Without quotes, off is false in YAML."""

HASH = "HMAC-SHA256"

SUCCESS = "success"
"""The only route of a pipeline that has no routes."""
FAIL = "fail"
MOST_WAIT_SECONDS = 3600


def _has_one_purpose(key: str | None) -> str | None:
    if key == DEAD_LETTERS:
        raise ValueError(f"{DEAD_LETTERS} seals dead letters; use a key of its own for fields")
    return key


KeyName = Annotated[str, AfterValidator(_has_one_purpose)]


def _said_null(value: Any) -> Any:
    """YAML's null is the word, too."""
    return "null" if value is None else value


class EnrichRule(BaseModel):
    """A join: what a reference knows of an id that a record has, put into the record."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    by: Path = Field(description="The field that holds the id to look up, as a path: `.endpoint.id`.")
    source: str = Field(alias="from", description="The reference that is looked up in, by its name in `reference`.")
    into: Path = Field(description="The object that is filled in, as a path: `.endpoint`.")
    mode: Literal["fill", "overwrite"] = Field(
        default="fill",
        description="fill: only what is null or absent in the record. overwrite: all that the reference has.",
    )
    on_missing: Annotated[Literal["null", "wait", "dead-letter"], BeforeValidator(_said_null)] = Field(
        default="null",
        description="What becomes of a record whose id the reference does not know. null: the fields that are absent are null."
        " dead-letter: it goes to the dead letters. wait: its partition waits until the reference knows the id, for"
        " `wait_seconds`; after that it goes to the dead letters.",
        json_schema_extra={"enum": ["null", None, "wait", "dead-letter"], "type": ["string", "null"]},
    )
    wait_seconds: float = Field(
        default=60, gt=0, le=MOST_WAIT_SECONDS, description="How long `on_missing: wait` waits for an id."
    )

    @model_validator(mode="after")
    def _waits_if_it_says_how_long(self) -> Self:
        if "wait_seconds" in self.model_fields_set and self.on_missing != "wait":
            reason = "says nothing without on_missing: wait; add that, or remove this"
            _raise(type(self).__name__, [Problem(("wait_seconds",), reason)])
        return self


class EncryptRule(BaseModel):
    """One field that leaves encrypted, on every route."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    field: Path = Field(
        description="The field, as a path: `.transaction.cc.cc_number`. Tokens (GCM, GCM-SIV) also take numbers and whole objects"
        " (`.transaction.cc`); the others take text."
    )
    key: KeyName = Field(description="The key's name in the key file.")
    algorithm: Algorithm = Field(
        default="AES-256-GCM",
        description="AES-256-GCM and AES-256-GCM-SIV: one token, which nobody can change unnoticed. CFB, OFB, CTR, CBC-PKCS7: as"
        " openssl and Vector write them; a change goes unnoticed.",
    )
    iv_field: Path | None = Field(
        default=None,
        description="Where CFB, OFB, CTR and CBC-PKCS7 put the initialisation vector, as a path:"
        " `.transaction.cc.cc_number_iv`.",
    )
    encoding: Literal["base64", "hex"] = Field(
        default="base64", description="How those write value and vector as text; a token is always base64url."
    )
    key_id_field: Path | None = Field(
        default=None,
        description="Where those put the id of the key's version, as a path, so that values stay readable after a rotation.",
    )
    bind: list[Path] = Field(
        default=[],
        description="Fields that a token is bound to, as paths (`.id`): it opens only beside the same values. They must leave in"
        " clear, as they came.",
    )
    required_on: list[Label] | None = Field(
        default=None,
        description="Routes that a record may not take without the field. By default success and fail; in a pipeline that has"
        " neither, all but unmatched.",
    )
    search_field: Path | None = Field(
        default=None,
        description="Where a keyed hash of the text goes, as a path, so that equal values can be found.",
    )
    search_key: KeyName | None = Field(default=None, description="The key of that hash, by its name in the key file.")
    pre_authorisation: bool = Field(
        default=False,
        description="Says that a security code (cc_cvv) is encrypted before the payment is authorised, and gone afterwards:"
        " PCI DSS 3.3.1 allows it no longer, encrypted or not.",
    )

    @property
    def is_token(self) -> bool:
        """Whether the rule writes tokens."""
        return self.algorithm in TOKEN_ALGORITHMS

    def added_fields(self) -> list[str]:
        """Paths of text fields that the rule writes beside its own."""
        return [path for path in (self.iv_field, self.key_id_field, self.search_field) if path is not None]

    @model_validator(mode="after")
    def _suits_its_algorithm(self) -> Self:
        found: list[tuple[str, str]] = []
        if self.is_token:
            keeps = f"{self.algorithm} keeps"
            if self.iv_field is not None:
                found.append(("iv_field", f"{keeps} its nonce in the token; remove it, or use AES-256-CFB"))
            if self.key_id_field is not None:
                found.append(("key_id_field", f"{keeps} the key's id in the token; remove it"))
            if self.encoding != "base64":
                found.append(("encoding", f"{keeps} to base64url; remove it, or use AES-256-CFB"))
        else:
            if self.iv_field is None:
                found.append(
                    ("iv_field", f"missing; {self.algorithm} needs one, for example iv_field: {self.field}_iv")
                )
            if self.bind:
                found.append(("bind", f"{self.algorithm} can be bound to nothing; remove it, or use AES-256-GCM"))
        if (self.search_field is None) != (self.search_key is None):
            found.append(("search_key", "search_field and search_key go together; add the other one"))
        if self.search_key == self.key:
            found.append(("search_key", f"{self.key} encrypts this field; use a key of its own for hashes"))
        _raise(type(self).__name__, [Problem((name,), reason) for name, reason in found])
        return self


class RedactRule(BaseModel):
    """One field whose text keeps its place and loses its meaning."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    field: Path = Field(description="The field, as a path: `.user.username`. It must hold text.")
    by: Literal["mask", "hash", "last4"] = Field(
        alias="with",
        description="mask: `***` instead. hash: HMAC-SHA-256 with a key, in hex, the same for the same text. last4: all but the"
        " last four characters hidden.",
    )
    key: KeyName | None = Field(default=None, description="The key of `with: hash`, by its name in the key file.")

    @model_validator(mode="after")
    def _has_a_key_if_it_needs_one(self) -> Self:
        if (self.by == "hash") != (self.key is not None):
            said = (
                "with: hash needs a key; name one of the key file" if self.by == "hash" else "only with: hash has a key"
            )
            _raise(type(self).__name__, [Problem(("key",), said)])
        return self


class SampleRule(BaseModel):
    """Only some of the records, chosen by what they hold."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    one_in: int = Field(ge=2, le=1_000_000, description="One record in so many stays.")
    by: Path | None = Field(
        default=None,
        description="The field that decides, as a path: records with the same value there stay or go together. By default the"
        " whole record.",
    )
    always: list[Condition] = Field(default=[], description="Records that meet all of these stay in any case.")


class DeduplicateRule(BaseModel):
    """Records that come twice are left out the second time: best effort, forgotten when a worker ends."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: list[Path] = Field(default=[".id"], min_length=1, description="The fields that tell records apart, as paths.")
    window: int = Field(default=100_000, ge=2, le=10_000_000, description="How many ids a worker remembers.")


class PipelineConfig(BaseModel):
    """What is done to the records of one raw topic, in this order: enrich, drop, keep, set, rename, redact, sample, deduplicate,
    route, encrypt.

    A pipeline NAME writes to `NAME.success`, `NAME.fail`, `NAME.unmatched`: one topic for each route, and dead letters to
    `NAME.dlq`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, protected_namespaces=())

    source: str = Field(alias="from", min_length=1, description="The raw topic that is read.")
    subject: str = Field(alias="schema", description="The subject that records are checked against: event or usage.")
    enrich: list[EnrichRule] = Field(default=[], description="References that fill in what records lack.")
    drop: list[Path] = Field(default=[], description="Fields that are removed, as paths.")
    keep: list[Path] = Field(
        default=[], description="Fields that stay, as paths; all others are removed. Without any, all stay."
    )
    set_: dict[Path, Any] = Field(
        default={},
        alias="set",
        description="Values by path, such as `.organisation.name: Acme`, in every record that has the object around the field.",
    )
    rename: dict[Path, Path] = Field(
        default={},
        description="New paths by old ones. Not for event and usage: what is delivered never changes its name.",
    )
    redact: list[RedactRule] = Field(default=[], description="Fields whose text is masked, hashed or cut to its end.")
    sample: SampleRule | None = Field(default=None, description="Only one record in so many goes on.")
    deduplicate: DeduplicateRule | None = Field(
        default=None, description="Records that were seen already are left out."
    )
    routes: dict[Label, Annotated[list[Condition], Field(min_length=1)]] = Field(
        default={},
        description="Conditions by route. The first that matches takes the record, the rest is unmatched; without any, all"
        " is success.",
    )
    match: Match = Field(
        default="first", description="first: the first route that matches takes a record. all: each gets a copy."
    )
    encrypt: list[EncryptRule] = Field(default=[], description="Fields that are encrypted, on every route.")
    gate: GateMode = Field(
        default="refuse",
        description="What happens to a record with a card number in clear that no rule covers, key and headers included."
        " refuse: it goes to the dead letters. count: it is counted and goes on. off: nobody looks.",
    )

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
            told = problems(_readable(data), complete=False)
            others = [one for one in told if not any(one.where[: len(at)] == at[:3] for at in places)]
            raise ValidationError.from_exception_data(cls.__name__, [*found, *map(_as_detail, others)]) from None
        _raise(cls.__name__, list(problems(config)))
        return config

    def route_names(self) -> tuple[str, ...]:
        """The labels that records may leave under, `unmatched` last."""
        return (*self.routes, UNMATCHED) if self.routes else (SUCCESS,)

    def requiring_routes(self) -> frozenset[str]:
        """The labels that no record may leave under without a field that is to be encrypted, unless its rule says otherwise."""
        labels = frozenset(self.routes) or frozenset((SUCCESS,))
        return labels & {SUCCESS, FAIL} or labels

    def key_uses(self) -> Iterator[tuple[str, str, str]]:
        """The keys that rules name, in order: where in the pipeline (`encrypt[0].key`), which, and the algorithm it is for."""
        for number, rule in enumerate(self.encrypt):
            yield f"encrypt[{number}].key", rule.key, rule.algorithm
            if rule.search_key is not None:
                yield f"encrypt[{number}].search_key", rule.search_key, HASH
        for number, redacted in enumerate(self.redact):
            if redacted.key is not None:
                yield f"redact[{number}].key", redacted.key, HASH

    def extra_fields(self) -> list[tuple[str, ...]]:
        """Fields that encryption adds to records: the `extra` of a `schemas.codec.Codec` that reads or writes them."""
        return [tuple(map(str, parse(path))) for rule in self.encrypt for path in rule.added_fields()]

    def token_fields(self) -> list[tuple[str, ...]]:
        """Fields that are tokens when records leave: the `encrypted` of a `schemas.codec.Codec` that reads them then."""
        return [tuple(map(str, parse(rule.field))) for rule in self.encrypt if rule.is_token]


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
        keep=[path for path in _listed(given.get("keep")) if isinstance(path, str)],
        set_=_mapped(given.get("set"), object),
        rename=_mapped(given.get("rename"), str),
        redact=_rules(RedactRule, given.get("redact"), {"field": "", "by": "mask", "key": None}),
        sample=_rule(SampleRule, given.get("sample")),
        deduplicate=_rule(DeduplicateRule, given.get("deduplicate")),
        routes={
            str(label): _rules(Condition, listed, {"field": None})
            for label, listed in (routes if isinstance(routes, Mapping) else {}).items()
        },
        encrypt=_rules(EncryptRule, given.get("encrypt"), {"field": "", "iv_field": None, "key": None}),
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


def _rule(model: type[Rule], item: Any) -> Rule | None:
    try:
        return None if item is None else model.model_validate(item)
    except ValidationError:
        return None


def _mapped(items: Any, type_: type[Held]) -> dict[str, Held]:
    given = items if isinstance(items, Mapping) else {}
    return {path: value for path, value in given.items() if isinstance(path, str) and isinstance(value, type_)}


def _listed(items: Any) -> list[Any]:
    return items if isinstance(items, list) else []
