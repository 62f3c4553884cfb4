"""The benchmark measures real work on a real broker, and says so when a candidate gives no figures."""

import asyncio
import subprocess
import sys
from collections.abc import Callable

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from sluice import bench
from sluice.bench import CANDIDATES, BenchFailed, Candidate
from sluice.bench.load import PARTITIONS, load
from sluice.bench.work import ROUTES


def test_the_baselines_are_measured_in_one_run(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BROKERS", kafka)
    steps: list[str] = []
    figures = bench.run(["aiokafka", "stock-faust"], 20_000, rounds=1, progress=steps.append)
    assert list(figures) == ["aiokafka", "stock-faust"]
    for figure in figures.values():
        assert figure.keys() == {"cpu_us_per_record", "records_per_second", "peak_mb"}
        assert figure["cpu_us_per_record"] > 1
        assert figure["records_per_second"] > 100
        assert figure["peak_mb"] > 20
    assert figures["stock-faust"]["cpu_us_per_record"] > 5 * figures["aiokafka"]["cpu_us_per_record"]
    assert steps == ["loading 20000 records", "round 1 of 1: aiokafka", "round 1 of 1: stock-faust"]


def test_a_candidate_without_figures_is_named(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BROKERS", kafka)
    monkeypatch.setattr(bench, "CANDIDATES", {"broken": Candidate("sluice.bench.none_such")})
    with pytest.raises(BenchFailed, match=r"(?s)broken ended with 1 .* No module named sluice\.bench\.none_such"):
        bench.run(["broken"], 10, rounds=1)


def test_an_unknown_candidate_is_refused_before_anything_starts() -> None:
    with pytest.raises(ValueError, match="no candidate is called vector: there are router, stock-faust, aiokafka"):
        bench.run(["vector"], 10)


async def _ends(brokers: str, topic: str) -> list[int]:
    consumer = AIOKafkaConsumer(bootstrap_servers=brokers)
    await consumer.start()
    ends = await consumer.end_offsets([TopicPartition(topic, number) for number in range(PARTITIONS)])
    await consumer.stop()
    return [ends[partition] for partition in sorted(ends)]


@pytest.mark.parametrize("name", ["aiokafka", "stock-faust"])
async def test_every_record_is_delivered_by_the_time_it_is_reported(
    kafka: str, topic_name: Callable[[str], str], name: str
) -> None:
    await load(kafka, topic := topic_name("bench"), 6000)
    command = [sys.executable, "-m", CANDIDATES[name].module, "--brokers", kafka, "--topic", topic, "--count", "6000"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=60, check=True)
    assert b"cpu_us_per_record" in done.stdout
    outputs = [await _ends(kafka, f"{topic}.{name}.{route}") for route in ROUTES]
    assert [sum(partition) for partition in zip(*outputs, strict=True)] == await _ends(kafka, topic)
    assert all(sum(ends) > 100 for ends in outputs)
