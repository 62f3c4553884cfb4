"""The benchmark measures real work on a real broker, and says so when a candidate gives no figures."""

import asyncio
import subprocess
import sys
from collections.abc import Callable

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from sluice import bench
from sluice.bench import CANDIDATES, BenchFailed, Candidate, workers
from sluice.bench.load import PARTITIONS, load
from sluice.bench.work import ROUTES


def test_the_baselines_are_measured_in_one_run(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BROKERS", kafka)
    steps: list[str] = []
    measured = bench.run(["aiokafka", "stock-faust"], 20_000, rounds=2, progress=steps.append)
    figures = bench.medians(measured)
    assert set(figures) == {"aiokafka", "stock-faust"}
    for figure in figures.values():
        assert figure.keys() == {"cpu_us_per_record", "records_per_second", "peak_mb"}
        assert figure["cpu_us_per_record"] > 1
        assert figure["records_per_second"] > 100
        assert figure["peak_mb"] > 20
    ratio = bench.ratios(measured)["stock-faust"]
    assert ratio.highest >= ratio.median >= ratio.lowest > 5
    turns = [
        "round 1 of 2: stock-faust",
        "round 1 of 2: aiokafka",
        "round 2 of 2: aiokafka",
        "round 2 of 2: stock-faust",
    ]
    assert steps == ["loading 20000 records (devices)", *turns]


def test_real_workers_are_measured_and_latency_at_half_load(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BROKERS", kafka)
    monkeypatch.setattr(workers, "WARM_SECONDS", 1.0)
    monkeypatch.setattr(workers, "FLOOD_SECONDS", 1.0)
    monkeypatch.setattr(workers, "MEASURED_SECONDS", 3.0)
    figures = bench.medians(bench.run(["workers-2", "latency"], 10_000))
    assert figures["workers-2"].keys() == {"cpu_us_per_record", "records_per_second", "peak_mb"}
    assert figures["workers-2"]["records_per_second"] > 100
    assert 0 <= figures["latency"]["p50_ms"] <= figures["latency"]["p99_ms"] < 60_000


def test_a_reference_is_as_large_as_ever_however_few_records_the_others_work_on(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench.ENTRIES == 1_000_000
    monkeypatch.setenv("KAFKA_BROKERS", kafka)
    monkeypatch.setattr(bench, "ENTRIES", 20_000)
    (figures,) = bench.run(["reference"], 1000)["reference"]
    assert figures["records"] == 20_000
    assert 0 < figures["seconds"] < 60
    assert figures["records_per_second"] == pytest.approx(20_000 / figures["seconds"], rel=0.2)
    assert 50 < figures["peak_mb"] < 300


def test_a_candidate_without_figures_is_named(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BROKERS", kafka)
    monkeypatch.setattr(bench, "CANDIDATES", {"router": Candidate("sluice.bench.none_such")})
    with pytest.raises(BenchFailed, match=r"(?s)router ended with 1 .* No module named sluice\.bench\.none_such"):
        bench.run(["router"], 10, rounds=1)


def test_an_unknown_candidate_is_refused_before_anything_starts() -> None:
    with pytest.raises(ValueError, match="nothing is called vector: there are router, stock-faust, aiokafka, "):
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


@pytest.mark.parametrize(
    "name", [name for name, one in CANDIDATES.items() if one.module.endswith((".codecs", ".stages"))]
)
def test_those_without_a_broker_report(name: str) -> None:
    candidate = CANDIDATES[name]
    command = [
        sys.executable,
        "-m",
        candidate.module,
        "--brokers",
        "",
        "--topic",
        "",
        "--count",
        "1000",
        *candidate.more,
    ]
    done = subprocess.run(command, capture_output=True, timeout=60, check=True)
    assert b"cpu_us_per_record" in done.stdout


@pytest.mark.parametrize("name", ["data-streamer", "aiokafka-joins"])
async def test_both_ways_join_all_there_is(kafka: str, topic_name: Callable[[str], str], name: str) -> None:
    await load(kafka, topic := topic_name("bench"), 3000, "platform")
    candidate = CANDIDATES[name]
    command = [sys.executable, "-m", candidate.module, "--brokers", kafka, "--topic", topic, "--count", "3000"]
    done = await asyncio.to_thread(
        subprocess.run, [*command, *candidate.more], capture_output=True, timeout=60, check=True
    )
    assert b"cpu_us_per_record" in done.stdout


@pytest.mark.parametrize("name", ["consume-only", "aiokafka-consume"])
async def test_readers_report_when_all_is_read(kafka: str, topic_name: Callable[[str], str], name: str) -> None:
    await load(kafka, topic := topic_name("bench"), 3000)
    command = [sys.executable, "-m", CANDIDATES[name].module, "--brokers", kafka, "--topic", topic, "--count", "3000"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=60, check=True)
    assert b"cpu_us_per_record" in done.stdout
