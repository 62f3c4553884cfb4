"""From a config to running objects: which class serves which section stands here, as code that can be read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from agents import http_forwarder, kinesis_forwarder, s3_batcher
from agents.collector import Project, Where
from agents.dead_letters import DeadLetterDesk
from agents.delivery import Forwarder
from agents.router import Router
from agents.s3_batcher import ChainedS3
from agents.schema_ids import SchemaIds
from pipeline.config import PipelineConfig
from pipeline.dead_letters import Sealer
from pipeline.keys import Keys
from pipeline.matching import compile_conditions
from pipeline.paths import parse
from pipeline.pipeline import Pipeline
from pipeline.references import Entry, Tables
from schemas.codec import UNTAKEN, Codec
from schemas.json_2019 import json_2019
from schemas.masking import Mask
from schemas.refused import Refused
from schemas.registry import EmbeddedRegistry, Registry, opened, subject_name
from schemas.subjects import Subject, load
from schemas.writers import Writers
from sinks.contract import Sink
from sinks.http import HttpSink
from sinks.kinesis import KinesisSink
from sinks.s3 import S3Sink
from sluice.config import Config, StreamConfig
from stream import metrics
from stream.app import GROUP_PREFIX, Workload
from stream.outbox import Outbox
from stream.permissions import Need, Operation
from stream.reference import Apply
from stream.topics import TopicSpec, spec


@dataclass
class Wired:
    """What a worker process runs."""

    workloads: list[Workload] = field(default_factory=list)
    sinks: dict[str, Sink] = field(default_factory=dict)
    references: dict[str, Apply] = field(default_factory=dict)
    """Reference topic → what takes its records."""
    tables: Tables = field(default_factory=lambda: Tables(live=True))
    registry: Registry = field(default_factory=EmbeddedRegistry)
    writers: dict[str, Writers] = field(default_factory=dict)
    """Pipeline → what it knows of schema ids."""


def wire(config: Config, names: Sequence[str], outbox: Outbox, keys: Keys) -> Wired:
    """The workloads of these pipelines and streams."""
    wired = Wired(registry=opened(config.registry))
    for name in names:
        if name in config.pipelines:
            writers = wired.writers[name] = Writers(registry=config.registry is not None)
            pipeline = make_pipeline(config, name, keys, wired.tables, writers)
            desk = DeadLetterDesk(name, outbox, Sealer(keys))
            router = Router(name, config.kafka, pipeline, outbox, desk, SchemaIds(name, wired.registry, writers), keys)
            source = config.pipelines[name].source
            wired.workloads.append(Workload(name, [source], router.work, router.starts, router.outputs))
            for rule in config.pipelines[name].enrich:
                wired.references[config.reference[rule.source].topic] = applier(wired.tables, rule.source)
        else:
            workload, sink = _stream(config, name, outbox, keys)
            wired.workloads.append(workload)
            wired.sinks[name] = sink
    return wired


def make_pipeline(config: Config, name: str, keys: Keys, tables: Tables, writers: Writers | None = None) -> Pipeline:
    return Pipeline(name, config.pipelines[name], keys, tables, writers)


async def register(config: Config, wired: Wired) -> None:
    """See that the registry has the schemas of the pipelines, and learn their ids. Raises RegistryUnavailable and Breaks."""
    for name, writers in wired.writers.items():
        subject = load(config.pipelines[name].subject)
        ids = await wired.registry.register(subject, subject_name(config.pipelines[name].source))
        for version in subject.versions:
            if version.number in ids:
                writers.learn(ids[version.number], version.schema)


def applier(tables: Tables, name: str) -> Apply:
    def apply(entries: Sequence[Entry]) -> None:
        if ignored := tables.apply(name, entries):
            metrics.IGNORED_ENTRIES.labels(name).inc(ignored)

    return apply


def _stream(config: Config, name: str, outbox: Outbox, keys: Keys) -> tuple[Workload, Sink]:
    stream, sink = config.streams[name], make_sink(config, name)
    desk = DeadLetterDesk(name, outbox, Sealer(keys))
    where = compile_where(config, stream)
    project = make_project(config, stream)
    if isinstance(sink, S3Sink):
        assert stream.s3 is not None
        limits = s3_batcher.limits(stream.s3)
        if stream.s3.exactly_once:
            conditions = [one.model_dump(mode="json") for one in stream.where]
            chained = ChainedS3(name, sink, stream.s3, conditions, str(subject_of(config, stream).latest))
            forwarder = Forwarder(name, chained, limits, desk, where, chained, project)
            return Workload(name, stream.topics, forwarder.work, chained.starts, [f"{name}.dlq"]), sink
    elif isinstance(sink, KinesisSink):
        limits = kinesis_forwarder.LIMITS
    else:
        assert stream.http is not None
        limits = http_forwarder.limits(stream.http)
    forwarder = Forwarder(name, sink, limits, desk, where, project=project)
    return Workload(name, stream.topics, forwarder.work, outputs=[f"{name}.dlq"]), sink


def make_sink(config: Config, name: str) -> S3Sink | KinesisSink | HttpSink:
    """The sink of a stream, not yet connected."""
    stream = config.streams[name]
    if stream.s3 is not None:
        return S3Sink(stream.s3, name, subject_of(config, stream))
    if stream.kinesis is not None:
        return KinesisSink(stream.kinesis, name)
    assert stream.http is not None, "StreamConfig has exactly one destination"
    return HttpSink(stream.http, name)


def make_mask(pipeline: PipelineConfig) -> Mask:
    """Hides what the schema of a pipeline's records marks, and what the pipeline encrypts or redacts."""
    hidden = [*(rule.field for rule in pipeline.encrypt), *(rule.field for rule in pipeline.redact)]
    return Mask(load(pipeline.subject).fields, map(parse, hidden))


def make_project(config: Config, stream: StreamConfig) -> Project | None:
    """What makes of a record's value the form that the stream delivers; None if it delivers it as it is."""
    return json_2019(subject_of(config, stream)) if stream.json_style == 2019 else None


def subject_of(config: Config, stream: StreamConfig) -> Subject:
    """The schema subject of a stream's records: that of the pipeline that writes them."""
    return load(config.pipelines[config.routed_topics()[stream.topics[0]]].subject)


def compile_where(config: Config, stream: StreamConfig) -> Where | None:
    """The stream's conditions as a function of a record's value; None without any. What cannot be read does not match."""
    if not stream.where:
        return None
    pipeline = config.pipelines[config.routed_topics()[stream.topics[0]]]
    codec = Codec(subject_of(config, stream), pipeline.extra_fields(), encrypted=pipeline.token_fields())
    wants: Callable[[msgspec.Struct], bool] = compile_conditions(stream.where, codec.type)

    def where(value: bytes) -> bool:
        try:
            record = codec.decode_fast(value)  # a router wrote it, so there is nothing to settle
        except UNTAKEN:
            try:
                record = codec.decode_slowly(value)
            except Refused:
                return False
        return wants(record)

    return where


def topic_specs(config: Config, names: Sequence[str] | None = None) -> list[TopicSpec]:
    """Every topic of the config, or those that these pipelines and streams need, raw topics first."""
    kafka = config.kafka
    wanted: dict[str, TopicSpec] = {}
    for name, pipeline in config.pipelines.items():
        if names is None or name in names:
            wanted[pipeline.source] = spec(kafka, pipeline.source)
            for topic in (*(f"{name}.{route}" for route in pipeline.route_names()), f"{name}.dlq"):
                wanted[topic] = spec(kafka, topic, follows=pipeline.source)
            for rule in pipeline.enrich:
                reference = config.reference[rule.source].topic
                wanted[reference] = spec(kafka, reference, compacted=True)
    routed = config.routed_topics()
    for name, stream in config.streams.items():
        if names is None or name in names:
            source = config.pipelines[routed[stream.topics[0]]].source
            for topic in (*stream.topics, f"{name}.dlq"):
                wanted.setdefault(topic, spec(kafka, topic, follows=source))
    if names is None:
        for one in config.reference.values():
            wanted.setdefault(one.topic, spec(kafka, one.topic, compacted=True))
    return list(wanted.values())


def needs(config: Config, names: Sequence[str]) -> list[Need]:
    """What a worker of these pipelines and streams has to be allowed on the cluster.

    A router reads what it has written when a partition has lost its offset, or was given another one.
    """
    read: dict[str, None] = {}
    write: dict[str, None] = {}
    routed = config.routed_topics()
    for name in names:
        if name in config.pipelines:
            pipeline = config.pipelines[name]
            read[pipeline.source] = None
            read |= dict.fromkeys(config.reference[rule.source].topic for rule in pipeline.enrich)
            written = [*(topic for topic, writer in routed.items() if writer == name), f"{name}.dlq"]
            read |= dict.fromkeys(written)
            write |= dict.fromkeys(written)
        else:
            read |= dict.fromkeys(config.streams[name].topics)
            write[f"{name}.dlq"] = None
    return [
        *(Need("topic", topic, Operation.READ) for topic in read),
        *(Need("topic", topic, Operation.WRITE) for topic in write),
        *(Need("topic", topic, Operation.DESCRIBE_CONFIGS) for topic in read | write),
        *(Need("group", GROUP_PREFIX + name, Operation.READ) for name in names),
    ]
