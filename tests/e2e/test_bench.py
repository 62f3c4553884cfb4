"""The benchmark measures real work on a real broker, and says so when a candidate gives no figures."""

from pathlib import Path

import pytest

from sluice import bench
from sluice.bench import BenchFailed, Candidate


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


def test_a_candidate_without_figures_is_named(kafka: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KAFKA_BROKERS", kafka)
    monkeypatch.setattr(bench, "CANDIDATES", {"broken": Candidate("sluice.bench.none_such")})
    with pytest.raises(BenchFailed, match=r"(?s)broken ended with 1 .* No module named sluice\.bench\.none_such"):
        bench.run(["broken"], 10, rounds=1)


def test_an_unknown_candidate_is_refused_before_anything_starts() -> None:
    with pytest.raises(ValueError, match="no candidate is called vector: there are router, stock-faust, aiokafka"):
        bench.run(["vector"], 10)
