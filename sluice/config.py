"""The config file: one YAML file, all problems at once, each with its path, what is wrong and what to do."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pipeline.config import Condition, PipelineConfig
from pipeline.paths import parse
from schemas.registry import RegistryConfig
from sinks.http import HttpConfig
from sinks.kinesis import KinesisConfig
from sinks.s3 import S3Config
from sluice import config_problems, yaml_file
from sluice.config_forms import as_written, written_out
from sluice.config_problems import NAME
from sluice.config_rules import crosswise
from sluice.key_config import KeysConfig
from sluice.yaml_file import Problem
from stream.connection import KafkaConfig
from stream.status import MetricsConfig

Name = Annotated[str, Field(pattern=NAME)]


class ConfigError(Exception):
    """A config that cannot be used. `problems` has all that is wrong with it; its text shows them, and no secret."""

    def __init__(self, file: Path, problems: list[Problem]) -> None:
        self.file = file
        self.problems = problems
        width = max(len(one.path) for one in problems)
        lines = [f"  {one.path:<{width}}  {one.reason}" if width else f"  {one.reason}" for one in problems]
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n".join([f"{file}: {count}", *lines]))


class ReferenceConfig(BaseModel):
    """What enriches records. Every worker that needs it holds it in memory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    topic: str = Field(
        min_length=1,
        description="A compacted topic: its keys are ids as text, its values JSON objects; null deletes an entry.",
    )


class StreamConfig(BaseModel):
    """What is delivered, and where: routed topics in, one destination (s3, kinesis or http) out, one consumer group."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    topics: list[str] = Field(
        alias="from", min_length=1, description="The routed topics that are read: PIPELINE.ROUTE, all of one schema."
    )
    where: list[Condition] = Field(
        default=[], description="Only records that match all of these conditions are delivered."
    )
    json_style: Literal["current", 2019] = Field(
        default="current",
        description="How JSON is written: as the schema has it, or as the streamer of 2019 did (docs/consumers.md).",
    )
    s3: S3Config | None = Field(default=None, description="Deliver to a bucket of Amazon S3 or anything compatible.")
    kinesis: KinesisConfig | None = Field(default=None, description="Deliver to an Amazon Kinesis data stream.")
    http: HttpConfig | None = Field(default=None, description="Deliver to an HTTP endpoint.")

    @field_validator("json_style", mode="before")
    @classmethod
    def _year_in_quotes(cls, style: Any) -> Any:
        return 2019 if style == "2019" else style

    @model_validator(mode="after")
    def _style_is_of_json(self) -> Self:
        if self.json_style != "current" and self.s3 is not None and self.s3.format != "json":
            raise ValueError(
                f"json_style is about JSON, and s3 writes {self.s3.format}; leave it out, or use format json"
            )
        return self

    @model_validator(mode="after")
    def _one_destination(self) -> Self:
        given = [kind for kind in ("s3", "kinesis", "http") if getattr(self, kind) is not None]
        if len(given) != 1:
            found = f"has {' and '.join(given)}" if given else "has none"
            raise ValueError(
                f"needs exactly one destination of s3, kinesis and http, and {found}; make one stream for each"
            )
        return self

    @property
    def kind(self) -> str:
        """The kind of destination: s3, kinesis or http."""
        return next(kind for kind in ("s3", "kinesis", "http") if getattr(self, kind) is not None)


class GoldenTest(BaseModel):
    """A record, and what a pipeline makes of it. `sluice check` runs it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pipeline: str = Field(description="The pipeline that takes the record.")
    input: Any = Field(description="The record: an object, or the raw text of one.")
    route: str | list[str] | None = Field(
        description="The route that it takes, or dead-letter; null if `sample` or `deduplicate` leaves it out. With `match: all`"
        " one of its routes, or a list of all of them."
    )
    value: dict[str, Any] | None = Field(
        default=None,
        description="What leaves, all of it: encrypted fields in clear, no vectors and key ids, search tokens or none."
        " Without it only the route is looked at.",
    )
    encrypted: list[str] = Field(
        default=[],
        description="Fields that must not leave as they are in `value` (or in `input`), as paths: those that rules encrypt.",
    )

    @field_validator("encrypted")
    @classmethod
    def _are_paths(cls, encrypted: list[str]) -> list[str]:
        for path in encrypted:
            parse(path)
        return encrypted

    error: dict[Literal["reason", "path"], str] | None = Field(
        default=None, description="Why it is a dead letter: `{reason: wrong-type, path: .id}`."
    )
    reference: dict[str, list[dict[str, Any]]] = Field(
        default={}, description="Entries of references by name, each with an id; without any, nothing is known."
    )


class Config(BaseModel):
    """A whole config file. Everything but `kafka` and one pipeline may be left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kafka: KafkaConfig = Field(description="The cluster, and how Sluice makes its topics on it.")
    keys: KeysConfig | None = Field(default=None, description="Where encryption keys come from.")
    registry: RegistryConfig | None = Field(
        default=None,
        description="A Schema Registry with Confluent's API, where Avro records get their schema ids; without it the ids are"
        " those of schemas/ids.json.",
    )
    reference: dict[Name, ReferenceConfig] = Field(default={}, description="Topics that enrich records, by name.")
    pipelines: dict[Name, PipelineConfig] = Field(
        min_length=1,
        description="What is done to the records of a raw topic, by name. Streams share this namespace of names.",
    )
    metrics: MetricsConfig = Field(
        default=MetricsConfig(), description="Where each worker shows its metrics and whether it is alive and ready."
    )
    streams: dict[Name, StreamConfig] = Field(default={}, description="What is delivered, and where, by name.")
    tests: list[GoldenTest] = Field(default=[], description="Records, and what becomes of them.")

    def routed_topics(self) -> dict[str, str]:
        """Every routed topic that a pipeline writes, with the pipeline's name."""
        return {
            f"{name}.{route}": name for name, pipeline in self.pipelines.items() for route in pipeline.route_names()
        }


def load(file: Path) -> Config:
    """Read and check a config; looks at no other file. The one place that reads the environment for it.

    Raises ConfigError with everything that is wrong, OSError when the file cannot be read.
    """
    try:
        document = yaml_file.read(file.read_bytes(), os.environ)
    except yaml_file.Unreadable as error:
        raise ConfigError(file, [Problem((), str(error))]) from None
    data = _with_absolute_paths(document.data, file.resolve().parent)
    whole = written_out(data)
    found = [*config_problems.problems(Config, whole), *crosswise(whole)]
    found = [one._replace(where=as_written(one.where, data)) for one in found]
    found = [one for one in found if not any(one.where[: len(where)] == where for where in document.unset)]
    found = [Problem(one.where, document.without_values(one.reason)) for one in found]
    if found or document.problems:
        ordered = config_problems.in_order([*document.problems, *found], data)
        raise ConfigError(file, [one.without_cards() for one in ordered])
    return Config.model_validate(whole, by_alias=True, by_name=False)


_FILES = (
    ("keys", "path"),
    ("registry", "ca"),
    ("kafka", "security", "ca"),
    ("kafka", "security", "certificate"),
    ("kafka", "security", "key"),
)


def _with_absolute_paths(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Relative paths count from the config file's folder."""
    if isinstance(data.get("keys"), dict) and data["keys"].get("provider", "file") == "file":
        data["keys"].setdefault("path", str(KeysConfig.model_fields["path"].default))
    for *sections, last in _FILES:
        at: Any = data
        for section in sections:
            at = at.get(section) if isinstance(at, dict) else None
        if isinstance(at, dict) and isinstance(at.get(last), str):
            at[last] = str(folder / Path(at[last]).expanduser())
    return data
