"""`sluice start` of an S3 stream begins new chains: objects of their own, and nobody starts at an offset that is on none."""

import itertools
import re
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest
import yaml
from aiokafka import TopicPartition

from sinks.s3 import S3Sink
from sluice.config import load
from sluice.keys import loaded
from sluice.start import parsed_place, set_offsets
from sluice.wiring import make_sink, topic_specs, wire
from stream.notes import parsed
from stream.outbox import Outbox
from stream.starting import NeedsStart
from stream.topics import Topics
from tests.e2e.processes import children, committed, forget_offsets, produce, until_committed

KEY = re.compile(r"(\w+/(?:replay-(\d+)/)?)(.*)/(\d{5})/(\d{20})-(\d{20})\.json")


async def test_a_new_epoch_has_objects_of_its_own_and_is_found_again_without_offsets(
    kafka: str, moto: str, topic_name: Callable[[str], str], tmp_path: Path
) -> None:
    pipeline, name, bucket = topic_name("usage"), topic_name("stream"), topic_name("bucket")
    topic, group = f"{pipeline}.success", f"sluice.{name}"
    place = {"endpoint_url": moto, "access_key_id": "test", "secret_access_key": "test", "region": "us-east-1"}
    file = tmp_path / "config.yaml"
    settings = {
        "kafka": {"brokers": [kafka], "partitions": 2, "replication": 1, "session_seconds": 3},
        "metrics": {"listen": "127.0.0.1:0"},
        "pipelines": {pipeline: {"from": topic_name("raw"), "schema": "usage"}},
        "streams": {
            name: {"from": [topic], "s3": {"bucket": bucket, "prefix": "fin/", "rotate": {"seconds": 0.2}} | place}
        },
    }
    file.write_text(yaml.safe_dump(settings))
    config = load(file)
    client = boto3.client("s3", endpoint_url=moto, aws_access_key_id="test", aws_secret_access_key="test")
    client.create_bucket(Bucket=bucket)
    tps = [TopicPartition(topic, number) for number in range(2)]

    def spans() -> dict[tuple[int, int], list[tuple[int, int]]]:
        """Epoch and partition → the offsets of its objects, in order."""
        found: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for one in client.list_objects_v2(Bucket=bucket).get("Contents", []):
            if "_sluice/" not in one["Key"]:
                match = KEY.fullmatch(one["Key"])
                assert match is not None, one["Key"]
                found.setdefault((int(match[2] or 0), int(match[4])), []).append((int(match[5]), int(match[6])))
        return {which: sorted(some) for which, some in found.items()}

    async with Topics(config.kafka) as topics, children(tmp_path) as start:
        await topics.create(topic_specs(config))
        await produce(kafka, topic, {p: [b'{"id":%d}' % n for n in range(30)] for p in (0, 1)})
        sink = make_sink(config, name)
        assert isinstance(sink, S3Sink)
        _, first = await set_offsets(config, name, parsed_place("beginning"))
        _, after = await set_offsets(config, name, parsed_place("beginning"))
        epochs = [parsed(some[tps[0]].note).epoch for some in (first, after)]
        assert epochs[0] is not None
        assert epochs[1] == await sink.epochs().newest() > epochs[0], "two starts in one second, one epoch"
        epoch = epochs[1]
        worker = await start("first", "-m", "sluice.cli", "worker", str(file), name)
        await until_committed(kafka, group, dict.fromkeys(tps, 30))
        assert await worker.stop() == 0
        assert all(parsed(note).epoch == epoch for _, note in (await committed(kafka, group)).values())
        assert _contiguous(spans()) == {(epoch, 0): (0, 30), (epoch, 1): (0, 30)}
        await forget_offsets(kafka, group)
        await produce(kafka, topic, {p: [b'{"id":%d}' % n for n in range(30, 40)] for p in (0, 1)})
        worker = await start("second", "-m", "sluice.cli", "worker", str(file), name)
        await until_committed(kafka, group, dict.fromkeys(tps, 40))
        assert await worker.stop() == 0
        assert all(parsed(note).epoch == epoch for _, note in (await committed(kafka, group)).values())
        assert _contiguous(spans()) == {(epoch, 0): (0, 40), (epoch, 1): (0, 40)}
        await sink.close()

        # Without links of the epoch it is its beginning that counts; an offset on no chain is refused.
        await set_offsets(config, name, parsed_place("end"))
        outbox = Outbox(config.kafka, "test")
        wired = wire(config, [name], outbox, loaded(config))
        starts = wired.workloads[0].starts
        found = await starts(dict.fromkeys(tps, 0), {})
        assert {tp: (at.offset, (parsed(at.note).epoch or 0) > epoch) for tp, at in found.items()} == dict.fromkeys(
            tps, (40, True)
        )
        with pytest.raises(NeedsStart, match="lie on no chain"):
            await starts({}, {tps[0]: 7})
        await wired.sinks[name].close()


def _contiguous(spans: dict[tuple[int, int], list[tuple[int, int]]]) -> dict[tuple[int, int], tuple[int, int]]:
    """First and last offset of each chain of objects; fails for a gap or an overlap."""
    for which, some in spans.items():
        assert all(one[1] == next_one[0] for one, next_one in itertools.pairwise(some)), (which, some)
    return {which: (some[0][0], some[-1][1]) for which, some in spans.items()}
