"""`sluice check`: everything that a config names, looked at before anything runs; one line for each thing, with its remedy."""

import asyncio
import ipaddress
import sys
from collections.abc import Iterator, Sequence
from itertools import chain

from pipeline.conditions import fields
from pipeline.config import PipelineConfig
from pipeline.config_checks import never_true
from pipeline.keys import DEAD_LETTERS, Keys
from pipeline.paths import is_within, parse, touches
from pipeline.paths import text as path_text
from schemas.cards import is_security_code
from schemas.registry import Breaks, RegistryUnavailable, subject_name
from schemas.registry import opened as opened_registry
from schemas.subjects import load
from sinks.contract import Finding
from sluice import golden, logs
from sluice.config import Config, ConfigError, StreamConfig
from sluice.config_rules import has_place
from sluice.exits import Exit, UserError
from sluice.keys import opened, sizes_used, source_of, unfit
from sluice.topics import cluster, remedy
from sluice.wiring import make_sink, topic_specs
from stream.certificates import problems

SIGNS = {"ok": "✓", "warning": "!", "error": "✗", "unavailable": "✗"}
CARD = ("transaction", "cc")
"""The object that holds a card."""


def run(config: Config, offline: bool) -> int:
    """Print a line for each thing that was looked at: ✓, ! (a warning) or ✗. Blocks, at most about 15 s.

    Returns 78 if only another configuration cures something, else 69 if something is out of reach, else 0. `offline` looks at
    nothing outside this machine. An S3 check leaves one small object behind (`{prefix}_sluice/check`).
    """
    logs.silence()
    inside = [
        _size(config),
        *_keys(config),
        *_cards(config),
        *_routes(config),
        *_conditions(config),
        *_left_out(config),
        *_brokers(config),
    ]
    wrong_files = [Finding("error", problem) for problem in problems(config.kafka.security)]
    _print([*inside, *wrong_files])
    outside = [] if offline else asyncio.run(_outside(config, with_kafka=not wrong_files))
    findings = [*inside, *wrong_files, *outside]
    levels = {one.level for one in findings}
    if "error" in levels:
        return Exit.CONFIG
    return Exit.UNAVAILABLE if "unavailable" in levels else Exit.DONE


def show_problems(error: ConfigError) -> int:
    """Print a line for each problem of a config that cannot be used, and return 78."""
    _print([Finding("error", f"config: {one.path or 'the file'}: {one.reason}") for one in error.problems])
    return Exit.CONFIG


def _print(findings: Sequence[Finding]) -> None:
    for one in findings:
        remedy = f"; {one.remedy}" if one.remedy else ""
        sys.stdout.write(f"{SIGNS[one.level]} {one.text}{remedy}\n")
    sys.stdout.flush()


def _size(config: Config) -> Finding:
    """Whether the file is valid was decided when it was loaded."""
    parts = [
        f"{name}: {load(one.subject).latest}, {one.source} → {', '.join(one.route_names())}"
        for name, one in config.pipelines.items()
    ]
    return Finding("ok", f"config: {len(config.streams)} streams; pipelines {'; '.join(parts)}")


def _keys(config: Config) -> Iterator[Finding]:
    """Keys that are on this machine. Data keys are asked for with all that is outside."""
    if _from_kms(config):
        yield Finding("ok", f"keys: data keys for {', '.join(sizes_used(config))} are to come from {config.keys}")
        return
    source = source_of(config)
    try:
        opened(config, source)
    except UserError as error:
        for problem in str(error).splitlines():
            yield Finding("error", f"keys: {problem}")
        return
    yield from _fit(config, source.keys)
    if DEAD_LETTERS not in source.keys:
        remedy = "add a section `keys:`, then run" if config.keys is None else "run"
        yield Finding(
            "warning",
            f"keys: none is called {DEAD_LETTERS}, so dead letters hold origin and reason only",
            f"{remedy} `sluice keys new FILE {DEAD_LETTERS}` to keep what was refused, sealed",
        )


def _fit(config: Config, keys: Keys) -> Iterator[Finding]:
    yield from (Finding("warning", f"keys: {warning}") for warning in keys.warnings)
    problems = list(unfit(config, keys))
    yield from (Finding("error", f"keys: {problem}") for problem in problems)
    if problems:
        return
    if config.keys is not None:
        yield Finding("ok", f"keys: {config.keys} has {', '.join(keys.names)}, one active version each")
    failed = [Finding("error", one, "correct the pipeline, or the test") for one in golden.failures(config, keys)]
    yield from failed
    if config.tests and not failed:
        yield Finding("ok", f"tests: {len(config.tests)} records become what they should")


def _from_kms(config: Config) -> bool:
    return config.keys is not None and config.keys.provider == "aws-kms"


def _cards(config: Config) -> Iterator[Finding]:
    """Card fields leave encrypted, or not at all."""
    for name, pipeline in config.pipelines.items():
        gone = [
            parse(path)
            for path in (
                *pipeline.drop,
                *(rule.field for rule in pipeline.encrypt),
                *(rule.field for rule in pipeline.redact),
            )
        ]
        kept = [parse(path) for path in pipeline.keep]
        clear = [
            field.text_path
            for top in load(pipeline.subject).fields
            for field in top.walk()
            if field.path[: len(CARD)] == CARD and field.sensitive
            if not any(field.path[: len(path)] == path for path in gone)
            if not kept or any(touches(field.path, path) for path in kept)
        ]
        if clear:
            remedy = f"encrypt or drop them in pipelines.{name}, unless no record has them"
            yield Finding("warning", f"pipeline {name}: {', '.join(clear)} would leave in clear", remedy)
        yield from _weak(name, pipeline)
        if pipeline.gate != "refuse":
            does = "nobody looks for card numbers in clear" if pipeline.gate == "off" else "card numbers leave in clear"
            text = f"pipeline {name}: gate is {pipeline.gate}, so {does}"
            yield Finding("warning", text, "take it away, unless no record can hold one")


def _weak(name: str, pipeline: PipelineConfig) -> Iterator[Finding]:
    """Rules that do what they say, and not what somebody might hope."""
    changeable = [rule.field for rule in pipeline.encrypt if not rule.is_token]
    if changeable:
        text = f"pipeline {name}: nobody can tell whether {', '.join(changeable)} was changed after it was encrypted"
        yield Finding("warning", text, "use AES-256-GCM, unless a reader needs what openssl and Vector write")
    unnamed = [rule.field for rule in pipeline.encrypt if not rule.is_token and rule.key_id_field is None]
    if unnamed:
        fields = ", ".join(unnamed)
        text = f"pipeline {name}: after a rotation nobody can tell with which version of its key {fields} was encrypted"
        yield Finding("warning", text, "give each rule a key_id_field, or keep a list of when keys were rotated")
    before = [(rule.field, rule.pre_authorisation) for rule in pipeline.encrypt]
    for path, pre_authorisation in (*before, *((rule.field, False) for rule in pipeline.redact if rule.by != "mask")):
        for code in _security_codes(pipeline, path):
            text = (
                f"pipeline {name}: {code} may not be kept after the payment is authorised, encrypted, hashed or not (PCI DSS"
                " 3.3.1)"
            )
            remedy = "drop it" if not pre_authorisation else "see that it is deleted then, from the raw topic too"
            yield Finding("warning", text, remedy)


def _security_codes(pipeline: PipelineConfig, path: str) -> list[str]:
    """The security codes that stand at this path or below it, as far as they are not dropped before."""
    names = [field.path for top in load(pipeline.subject).fields for field in top.walk()]
    within = dict.fromkeys([parse(path), *(one for one in names if is_within(one, parse(path)))])
    gone = [parse(one) for one in pipeline.drop]
    return [
        path_text(one)
        for one in within
        if is_security_code(str(one[-1])) and not any(is_within(one, outer) for outer in gone)
    ]


def _routes(config: Config) -> Iterator[Finding]:
    delivered = set(chain.from_iterable(stream.topics for stream in config.streams.values()))
    for topic, pipeline in config.routed_topics().items():
        if topic not in delivered:
            remedy = "name it in `from:` of one, if its records matter"
            yield Finding("warning", f"pipeline {pipeline}: no stream delivers {topic}", remedy)
    for name, one in config.pipelines.items():
        for said in never_true(one):
            yield Finding("warning", f"pipeline {name}: {said}", "correct the condition, no record meets it")


def _conditions(config: Config) -> Iterator[Finding]:
    """`where` of streams is asked of what pipelines wrote: what they encrypted or dropped cannot be asked for."""
    for name, stream in config.streams.items():
        pipelines = _read_by(config, stream)
        for _, path in fields(stream.where):
            for pipeline in pipelines:
                one = config.pipelines[pipeline]
                changed = {rule.field: "encrypts" for rule in one.encrypt} | dict.fromkeys(one.drop, "drops")
                for field, does in changed.items():
                    if parse(path)[: len(parse(field))] == parse(field):
                        text = f"stream {name}: where asks for {path}, which pipeline {pipeline} {does}"
                        remedy = "it is asked of what the pipeline wrote; take it away, or change the pipeline"
                        yield Finding("warning", text, remedy)


def _left_out(config: Config) -> Iterator[Finding]:
    """What rules write beside their field, and a stream's format has no place for."""
    for name, stream in config.streams.items():
        form = stream.s3.format if stream.s3 else "json"
        for pipeline in _read_by(config, stream):
            one = config.pipelines[pipeline]
            for path in (path for rule in one.encrypt for path in (rule.key_id_field, rule.search_field) if path):
                if not has_place(form, one.subject, path):
                    text = f"stream {name}: {form} has no place for {path} of pipeline {pipeline} and leaves it out"
                    yield Finding("warning", text, "name a field that the schema has, or use json")


def _read_by(config: Config, stream: StreamConfig) -> list[str]:
    """The pipelines whose topics a stream reads."""
    routed = config.routed_topics()
    return sorted({routed[topic] for topic in stream.topics})


def _brokers(config: Config) -> Iterator[Finding]:
    away = [broker for broker in config.kafka.brokers if not _is_local(broker.rpartition(":")[0])]
    if away and not config.kafka.security.protocol.endswith("SSL"):
        text = f"kafka: records travel to {', '.join(away)} in clear ({config.kafka.security.protocol})"
        yield Finding("warning", text, "set kafka.security.protocol to SSL or SASL_SSL, unless the network is your own")
    if away and config.kafka.replication < 2:
        remedy = "set kafka.replication to 3 where there are three brokers"
        yield Finding("warning", "kafka: topics have one replica, so a lost disk is lost records", remedy)


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


async def _outside(config: Config, with_kafka: bool) -> list[Finding]:
    """All looks at once; printed in the order of the config, each as soon as those before it are."""
    looks = [
        *([_cluster(config)] if with_kafka else []),
        *([_registry(config)] if config.registry else []),
        *([_data_keys(config)] if _from_kms(config) else []),
        *(_stream(config, name) for name in config.streams),
    ]
    found = []
    for look in [asyncio.ensure_future(one) for one in looks]:
        findings = await look
        _print(findings)
        found += findings
    return found


async def _cluster(config: Config) -> list[Finding]:
    kafka = config.kafka
    try:
        async with cluster(kafka) as topics:
            states = await topics.compare(topic_specs(config))
    except UserError as error:
        return [Finding("error" if error.code == Exit.CONFIG else "unavailable", f"kafka: {error}")]
    findings = [Finding("ok", f"kafka: {kafka.bootstrap} answers")]
    findings += [Finding("warning", f"kafka: {sentence}") for sentence in topics.away]
    missing = [one.name for one in states if one.state == "missing"]
    if missing:
        text = f"topics: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not there"
        findings.append(Finding("unavailable", text, "make them with `sluice topics FILE`"))
    for one in states:
        if one.state == "differs":
            findings.append(Finding("error", f"topics: {one.name}: {one.detail}{remedy(one)}"))
    if all(one.state == "ok" for one in states):
        findings.append(Finding("ok", f"topics: {len(states)} topics are as the config needs them"))
    return findings


async def _registry(config: Config) -> list[Finding]:
    """Whether the registry answers, and our versions go with those that it has. Registers nothing."""
    registry = opened_registry(config.registry)
    try:
        for pipeline in config.pipelines.values():
            await registry.compare(load(pipeline.subject), subject_name(pipeline.source))
    except RegistryUnavailable as error:
        return [Finding("unavailable", f"registry: {error}")]
    except Breaks as error:
        return [Finding("error", f"registry: {error}")]
    finally:
        await registry.close()
    return [Finding("ok", "registry: it answers, and the schemas of all pipelines go with those that it has")]


async def _data_keys(config: Config) -> list[Finding]:
    """Whether KMS gives a data key for each name. Keeps none of them."""
    source = source_of(config)
    try:
        await asyncio.to_thread(opened, config, source)
    except UserError as error:
        return [Finding("error" if error.code == Exit.CONFIG else "unavailable", f"keys: {error}")]
    finally:
        source.close()
    return list(_fit(config, source.keys))


async def _stream(config: Config, name: str) -> list[Finding]:
    sink = make_sink(config, name)
    try:
        return [Finding(one.level, f"stream {name}: {one.text}", one.remedy) for one in await sink.check()]
    finally:
        await sink.close()
