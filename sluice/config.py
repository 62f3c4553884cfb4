"""The config file: one YAML file, all problems at once, each with its path, what is wrong and what to do."""

import difflib
import os
import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.config import Condition, PipelineConfig
from pipeline.keys import KeysConfig
from sinks.http import HttpConfig
from sinks.kinesis import KinesisConfig
from sinks.s3 import S3Config
from stream.connection import KafkaConfig
from stream.status import MetricsConfig

NAME = r"^[a-z0-9][a-z0-9_-]{0,99}$"
Name = Annotated[str, Field(pattern=NAME)]
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class Problem(BaseModel):
    """One thing that is wrong with a config."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path or 'the file'}: {self.reason}"


class ConfigError(Exception):
    """A config that cannot be used. `problems` has all that is wrong with it."""

    def __init__(self, file: Path, problems: list[Problem]) -> None:
        self.file = file
        self.problems = problems
        width = max(len(one.path) for one in problems)
        lines = [f"  {one.path:<{width}}  {one.reason}" for one in problems]
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n".join([f"{file}: {count}", *lines]))


class ReferenceConfig(BaseModel):
    """A compacted topic that enriches: key = the id as text, value = a JSON object, null deletes."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    topic: str


class StreamConfig(BaseModel):
    """What is delivered, and where: routed topics in, one destination out, one consumer group."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    topics: Annotated[list[str], Field(alias="from", min_length=1)]
    where: list[Condition] = []
    s3: S3Config | None = None
    kinesis: KinesisConfig | None = None
    http: HttpConfig | None = None

    @model_validator(mode="after")
    def _one_destination(self) -> "StreamConfig":
        given = [kind for kind in ("s3", "kinesis", "http") if getattr(self, kind) is not None]
        if len(given) != 1:
            found = f"has {' and '.join(given)}" if given else "has none"
            raise ValueError(f"needs exactly one destination of s3, kinesis and http, and {found}; make one stream for each")
        return self


class Config(BaseModel):
    """A whole config file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kafka: KafkaConfig
    keys: KeysConfig | None = None
    reference: dict[Name, ReferenceConfig] = {}
    pipelines: Annotated[dict[Name, PipelineConfig], Field(min_length=1)]
    metrics: MetricsConfig = MetricsConfig()
    streams: dict[Name, StreamConfig] = {}

    def routed_topics(self) -> dict[str, str]:
        """Every routed topic that a pipeline writes, with the pipeline's name."""
        return {
            f"{name}.{route}": name for name, pipeline in self.pipelines.items() for route in pipeline.route_names()
        }


def load(file: Path) -> Config:
    """Read and check a config. Raises ConfigError with everything that is wrong, OSError when the file cannot be read."""
    try:
        data = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506  # a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(file, [Problem(path="", reason=f"is not YAML: {_one_line(error)}; correct the syntax")]) from None
    except UnicodeDecodeError:
        raise ConfigError(file, [Problem(path="", reason="is not UTF-8 text; save it as UTF-8")]) from None
    if not isinstance(data, dict):
        raise ConfigError(file, [Problem(path="", reason="holds no mapping; see docs/configuration.md for what goes in")])
    problems: list[Problem] = []
    data = _substituted(data, "", problems)
    data = _with_absolute_paths(data, file.resolve().parent)
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        problems.extend(_problems(error))
    else:
        problems.extend(_crosswise(config))
    if problems:
        raise ConfigError(file, problems)
    return config


class _Loader(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error, as one of the two would silently not count."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _one_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{getattr(error, 'problem', None) or 'unreadable'}{place}"


def _substituted(value: Any, path: str, problems: list[Problem]) -> Any:
    """`${VAR}` in strings, from the environment: the one place where a config reads it."""
    if isinstance(value, dict):
        return {key: _substituted(one, f"{path}.{key}".lstrip("."), problems) for key, one in value.items()}
    if isinstance(value, list):
        return [_substituted(one, f"{path}[{index}]", problems) for index, one in enumerate(value)]
    if not isinstance(value, str):
        return value

    def variable(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            problems.append(Problem(path=path, reason=f"${{{name}}} is not set; set the environment variable {name}"))
            return f"unset-{name}"
        return os.environ[name]

    return VARIABLE.sub(variable, value)


FILES = (("keys", "path"), ("kafka", "security", "ca"), ("kafka", "security", "certificate"), ("kafka", "security", "key"))


def _with_absolute_paths(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Relative paths count from the config file's folder."""
    for *sections, last in FILES:
        at: Any = data
        for section in sections:
            at = at.get(section) if isinstance(at, dict) else None
        if isinstance(at, dict) and isinstance(at.get(last), str):
            at[last] = str(folder / at[last])
    return data


def _problems(error: ValidationError) -> Iterator[Problem]:
    for one in error.errors(include_url=False, include_input=False):
        yield Problem(path=_path(one["loc"]), reason=_reason(one))


def _path(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part != "[key]":
            text += f".{part}"
    return text.lstrip(".")


def _reason(one: Mapping[str, Any]) -> str:
    kind, context = one["type"], one.get("ctx", {})
    last = str(one["loc"][-1]) if one["loc"] else ""
    if kind == "extra_forbidden":
        return _unknown(last, tuple(one["loc"][:-1]))
    if kind == "missing":
        return "missing; add it (docs/configuration.md says what it means)"
    if kind == "value_error":
        return str(context["error"])
    if kind == "string_pattern_mismatch" and context.get("pattern") == NAME:
        return "is no name; use lower-case letters, digits, - and _, starting with a letter or digit"
    if kind == "literal_error":
        return f"must be one of {context['expected']}"
    message = one["msg"].replace("Input should be", "must be")
    return message[0].lower() + message[1:]


def _unknown(name: str, location: tuple[int | str, ...]) -> str:
    known = _known_keys(location)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"unknown; did you mean {close[0]}?"
    return f"unknown; remove it. Known here: {', '.join(known)}" if known else "unknown; remove it"


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """The keys of the model at a location, by walking the models as pydantic does."""
    model: Any = Config
    for part in location:
        model = _step(model, part)
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return []
    return [field.alias or name for name, field in model.model_fields.items()]


def _step(model: Any, part: int | str) -> Any:
    if isinstance(model, type) and issubclass(model, BaseModel):
        for name, field in model.model_fields.items():
            if part in (name, field.alias):
                return _plain(field.annotation)
        return None
    if typing.get_origin(model) is dict:
        return _plain(typing.get_args(model)[1])
    if typing.get_origin(model) is list:
        return _plain(typing.get_args(model)[0])
    return model


def _plain(annotation: Any) -> Any:
    """Without `Annotated` and `| None`."""
    if typing.get_origin(annotation) is Annotated:
        return _plain(typing.get_args(annotation)[0])
    members = [one for one in typing.get_args(annotation) if one is not type(None)]
    if typing.get_origin(annotation) not in (dict, list) and len(members) == 1:
        return _plain(members[0])
    return annotation


def _crosswise(config: Config) -> Iterator[Problem]:
    """What no section can see alone."""
    for name in config.pipelines.keys() & config.streams.keys():
        yield Problem(path=f"streams.{name}", reason="is the name of a pipeline too; rename one, they share their consumer groups")
    raw: dict[str, str] = {}
    for name, pipeline in config.pipelines.items():
        if pipeline.source in raw:
            yield Problem(path=f"pipelines.{name}.from", reason=f"is read by pipeline {raw[pipeline.source]} too; use another topic")
        raw[pipeline.source] = name
        for index, rule in enumerate(pipeline.enrich):
            if rule.source not in config.reference:
                yield Problem(
                    path=f"pipelines.{name}.enrich[{index}].from",
                    reason=f"{rule.source!r} is not in the reference section; add it there{_meant(rule.source, config.reference)}",
                )
        if pipeline.encrypt and config.keys is None:
            yield Problem(path=f"pipelines.{name}.encrypt", reason="needs keys; add a `keys:` section")
    routed = config.routed_topics()
    places: dict[tuple[str, str, str], str] = {}
    for name, stream in config.streams.items():
        subjects = set()
        for index, topic in enumerate(stream.topics):
            if topic not in routed:
                yield Problem(
                    path=f"streams.{name}.from[{index}]",
                    reason=f"{topic!r} is written by no pipeline{_meant(topic, routed)}; known: {', '.join(sorted(routed))}",
                )
                continue
            subjects.add(config.pipelines[routed[topic]].subject)
            if stream.s3 is not None:
                place = (stream.s3.bucket, stream.s3.prefix, topic)
                if place in places:
                    yield Problem(
                        path=f"streams.{name}.s3.prefix",
                        reason=f"bucket, prefix and topic {topic} are those of stream {places[place]}; use another prefix",
                    )
                places[place] = name
        if len(subjects) > 1:
            yield Problem(
                path=f"streams.{name}.from",
                reason=f"mixes records of {' and '.join(sorted(subjects))}; make one stream for each",
            )


def _meant(name: str, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""
