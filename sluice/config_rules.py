"""What no section of a config can see alone: names that lead nowhere, or that are taken twice.

The rules read the file's data, not the models: what is wrong in one section must not hide what is wrong in another.
"""

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from pipeline.conditions import UNMATCHED, Condition, check
from pipeline.conditions import fields as fields_asked
from pipeline.config import SUCCESS
from pipeline.paths import InvalidPath, canonical, described, parts, resolve, touches
from schemas.structs import record_type
from schemas.subjects import load, names
from sluice.yaml_file import Problem

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}", re.ASCII)


def crosswise(data: dict[Any, Any]) -> Iterator[Problem]:
    """All problems between sections. What has the wrong form is passed over: the models report it."""
    pipelines, streams = _sections(data, "pipelines"), _sections(data, "streams")
    references = _sections(data, "reference")
    yield from _names(pipelines, streams)
    yield from _topics(pipelines, streams, references)
    for name, pipeline in pipelines.items():
        yield from _pipeline(name, pipeline, references, has_keys=isinstance(data.get("keys"), dict))
    routed = {
        f"{name}.{route}": _text(pipeline.get("schema"))
        for name, pipeline in pipelines.items()
        for route in _routes(pipeline)
    }
    places: dict[tuple[str, str, str], str] = {}
    for name, stream in streams.items():
        yield from _stream(name, stream, routed)
        yield from _fields(name, stream, routed)
        yield from _encrypted(name, stream, pipelines)
        yield from _places(name, stream, places)


def meant(name: str, known: Iterable[str]) -> str:
    """` (did you mean x?)`, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""


def _names(pipelines: dict[str, Any], streams: dict[str, Any]) -> Iterator[Problem]:
    for name in pipelines:
        if name in streams:
            reason = "is the name of a pipeline too; rename one, they would share a consumer group"
            yield Problem(("streams", name), reason)


def _topics(pipelines: dict[str, Any], streams: dict[str, Any], references: dict[str, Any]) -> Iterator[Problem]:
    """Every topic that the file names can be one, and has one purpose."""
    taken = {
        f"{name}.{route}": f"written by pipeline {name}" for name, one in pipelines.items() for route in _routes(one)
    }
    taken |= {f"{name}.dlq": f"where the dead letters of {name} go" for name in (*pipelines, *streams)}
    named = [
        *(
            (("pipelines", name, "from"), one.get("from"), f"read by pipeline {name}")
            for name, one in pipelines.items()
        ),
        *((("reference", name, "topic"), one.get("topic"), f"reference {name}") for name, one in references.items()),
    ]
    for where, topic, purpose in named:
        if not isinstance(topic, str) or not topic:
            continue  # the model reports it
        if not _TOPIC.fullmatch(topic) or topic in (".", ".."):
            yield Problem(where, "is no topic name; use letters, digits, '.', '_' and '-', at most 249")
        elif topic in taken:
            yield Problem(where, f"{topic} is {taken[topic]} already; use another topic")
        taken.setdefault(topic, purpose)


def _pipeline(name: str, pipeline: dict[str, Any], references: dict[str, Any], has_keys: bool) -> Iterator[Problem]:
    for index, rule in enumerate(_list(pipeline.get("enrich"))):
        source = _text(_mapping(rule).get("from"))
        if source and source not in references:
            reason = f"{source} is not in the `reference` section; add it there{meant(source, references)}"
            yield Problem(("pipelines", name, "enrich", index, "from"), reason)
    if pipeline.get("encrypt") and not has_keys:
        reason = "needs keys; add a section `keys: {provider: file, path: keys.yaml}`"
        yield Problem(("pipelines", name, "encrypt"), reason)


def _stream(name: str, stream: dict[str, Any], routed: dict[str, str]) -> Iterator[Problem]:
    subjects: dict[str, None] = {}
    seen = set()
    for index, topic in enumerate(_list(stream.get("from"))):
        where = ("streams", name, "from", index)
        if not isinstance(topic, str):
            continue
        if topic in seen:
            yield Problem(where, f"{topic} stands twice; name it once")
        elif topic not in routed:
            known = f"known: {', '.join(sorted(routed))}" if routed else "a pipeline has to be there first"
            yield Problem(where, f"{topic} is written by no pipeline{meant(topic, routed)}; {known}")
        elif routed[topic] in names():
            subjects[routed[topic]] = None
        seen.add(topic)
    if len(subjects) > 1:
        reason = f"mixes records of {' and '.join(sorted(subjects))}; make one stream for each"
        yield Problem(("streams", name, "from"), reason)


def _fields(name: str, stream: dict[str, Any], routed: dict[str, str]) -> Iterator[Problem]:
    """The fields that a stream asks for are fields of the records that it reads, and CSV has columns for them."""
    subject = next((routed[one] for one in _list(stream.get("from")) if isinstance(one, str) and one in routed), "")
    if subject not in names():
        return
    record = record_type(load(subject))
    for index, one in _conditions(stream):
        for within, reason in check([one], record):
            yield Problem(("streams", name, "where", index, *within[1:]), reason)
    key = _text(_mapping(stream.get("kinesis")).get("partition_key"))
    try:
        found = resolve(key, record) if key else None
        if found is not None and found.kind in ("record", "array"):
            reason = f"{key} holds {described(found.kind)}; name the field that spreads records over shards"
            yield Problem(("streams", name, "kinesis", "partition_key"), reason)
        if "[" in key:
            reason = f"{key} holds [...]; name a field, or a key that is written with a dot"
            yield Problem(("streams", name, "kinesis", "partition_key"), reason)
    except InvalidPath as error:
        yield Problem(("streams", name, "kinesis", "partition_key"), str(error))
    form = _mapping(stream.get("s3")).get("format")
    if form == "csv" and not load(subject).columns:
        yield Problem(("streams", name, "s3", "format"), f"records of {subject} have no CSV columns; use json")


def _encrypted(name: str, stream: dict[str, Any], pipelines: dict[str, Any]) -> Iterator[Problem]:
    """What is encrypted is text, and what a CFB field is decrypted with is delivered beside it: formats need a place for both."""
    form = _text(_mapping(stream.get("s3")).get("format"))
    read = {one.rpartition(".")[0] for one in _list(stream.get("from")) if isinstance(one, str)}
    for pipeline in (one for key, one in pipelines.items() if key in read):
        subject = _text(pipeline.get("schema"))
        if subject not in names():
            continue
        fields = _kinds(subject)
        for rule in map(_mapping, _list(pipeline.get("encrypt"))):
            field, path = (canonical(_text(rule.get(key))) for key in ("field", "iv_field"))
            if fields.get(field, "string") != "string":
                yield from _no_place(name, stream, field)
            if path and not has_place(form, subject, path):
                reason = (
                    f"{form} has no place for {path}, without which {field} cannot be decrypted; name an iv_field "
                    f"that the schema has, such as {field}_iv, or use json"
                )
                yield Problem(("streams", name, "s3", "format"), reason)


def has_place(form: str, subject: str, path: str) -> bool:
    """Whether records of a subject that are written in this format (json, csv, avro, parquet) have what lies at a path, written
    as `canonical` does."""
    if form == "csv":
        return path in {column.path for column in load(subject).columns}
    return form not in ("avro", "parquet") or path in _kinds(subject)


def _kinds(subject: str) -> dict[str, str]:
    """The paths of all fields, and their kinds."""
    return {field.text_path: field.kind for top in load(subject).fields for field in top.walk()}


def _no_place(name: str, stream: dict[str, Any], field: str) -> Iterator[Problem]:
    """`field` holds no text by its schema, and a token when it is delivered."""
    form = _mapping(stream.get("s3")).get("format")
    if form in ("csv", "avro", "parquet"):
        reason = f"{form} has no place for the token in {field}, which holds no text by its schema; use json"
        yield Problem(("streams", name, "s3", "format"), reason)
    for index, one in _conditions(stream):
        for where, path in fields_asked([one]):
            if touches(parts(path), parts(field)):
                reason = f"{field} is encrypted before, so {path} cannot be asked for; take it away"
                yield Problem(("streams", name, "where", index, *where[1:], "field"), reason)


def _places(name: str, stream: dict[str, Any], places: dict[tuple[str, str, str], str]) -> Iterator[Problem]:
    """Two streams that write objects under the same keys would each find the other's."""
    s3 = _mapping(stream.get("s3"))
    bucket, prefix = _text(s3.get("bucket")), _text(s3.get("prefix"))
    for topic in dict.fromkeys(_list(stream.get("from"))) if bucket else ():
        place = (bucket, prefix, str(topic))
        other = places.setdefault(place, name)
        if other != name:
            reason = f"bucket, prefix and topic {topic} are those of stream {other}; use another prefix"
            yield Problem(("streams", name, "s3", "prefix"), reason)
            return


def _routes(pipeline: dict[str, Any]) -> list[str]:
    routes = _mapping(pipeline.get("routes"))
    return [*map(str, routes), UNMATCHED] if routes else [SUCCESS]


def _sections(data: dict[Any, Any], name: str) -> dict[str, dict[str, Any]]:
    return {str(key): _mapping(value) for key, value in _mapping(data.get(name)).items()}


def _mapping(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _conditions(stream: dict[str, Any]) -> Iterator[tuple[int, Condition]]:
    """Those of `where`, each with its place in it."""
    where = stream.get("where")
    for index, one in enumerate(where if isinstance(where, list) else ()):
        with suppress(ValidationError):  # the model reports it
            yield index, Condition.model_validate(one)


def _list(value: Any) -> list[Any]:
    return [one for one in value if isinstance(one, str | dict)] if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
