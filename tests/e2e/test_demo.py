"""`sluice demo` as a user runs it: its figures add up, killed workers lose nothing, and no process outlives it."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest

from sluice.demo.oracle import STREAMS

DEMO = [sys.executable, "-m", "sluice.cli", "demo"]
PIPELINE_KEYS = ["in", "success", "fail", "unmatched", "dead_letters"]
STREAM_KEYS = ["expected", "delivered", "missing", "duplicates", "clear_card_fields"]


def own_kafka() -> dict[str, str]:
    """The environment without KAFKA_BROKERS, so that the demo starts a Kafka of its own."""
    return {name: value for name, value in os.environ.items() if name != "KAFKA_BROKERS"}


def of_demo(root: Path) -> list[str]:
    """The processes on this machine that work for the demo in `root`: each has it among its arguments, or in its files."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            log = str((process / "fd" / "2").readlink())
        except OSError:
            continue  # it has ended meanwhile, or is not ours
        if log.startswith(f"{root}/") or (str(root) in command and "kafka.Kafka" in command):
            found.append(command)
    return found


def test_ten_thousand_records_all_arrive_while_workers_are_killed(tmp_path: Path) -> None:
    done = subprocess.run(
        [*DEMO, "--seconds", "10", "--rate", "1000", "--chaos", "--seed", "3", "--json", "--keep", tmp_path / "kept"],
        check=False,
        capture_output=True,
        timeout=150,
        env=own_kafka(),
    )
    assert done.returncode == 0, done.stderr.decode()
    ledger = orjson.loads(done.stdout)
    assert list(ledger) == ["ok", "seconds", "records_per_second", "pipelines", "streams", "kills"]
    assert ledger["ok"] is True
    assert ledger["kills"] > 0
    assert 9 < ledger["seconds"] < 15
    for counts in ledger["pipelines"].values():
        assert list(counts) == PIPELINE_KEYS
        assert counts["in"] == sum(list(counts.values())[1:])
    assert sum(counts["in"] for counts in ledger["pipelines"].values()) == 10_000
    assert all(ledger["pipelines"]["events"][key] for key in PIPELINE_KEYS)
    assert set(ledger["streams"]) == set(STREAMS)
    for stream, counts in ledger["streams"].items():
        assert list(counts) == STREAM_KEYS
        assert counts["delivered"] == counts["expected"] > 0
        assert counts["missing"] == counts["clear_card_fields"] == 0
        assert not stream.startswith("s3-") or counts["duplicates"] == 0
    assert orjson.loads((tmp_path / "kept" / "ledger.json").read_bytes()) == ledger
    assert not of_demo(tmp_path / "kept")


def start(root: Path) -> "subprocess.Popen[bytes]":
    """A demo whose devices send and whose workers run."""
    demo = subprocess.Popen(
        [*DEMO, "--seconds", "60", "--rate", "200", "--keep", root],
        stderr=subprocess.PIPE,
        env={**own_kafka(), "PYTHONFAULTHANDLER": "1"},
    )
    assert demo.stderr is not None
    for line in demo.stderr:
        if line.startswith(b"Devices send"):
            return demo
    raise AssertionError(f"the demo ended with {demo.wait()} before its devices sent")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_no_process_outlives_the_demo(tmp_path: Path, number: int) -> None:
    root = tmp_path / "kept"
    demo = await asyncio.to_thread(start, root)
    try:
        running = of_demo(root)
        assert sum("worker" in command for command in running) == 5
        assert any("kafka.Kafka" in command for command in running)
        targets = orjson.loads((root / "targets.json").read_bytes())
        assert len({target for one in targets for target in one["targets"]}) == 5
        demo.send_signal(number)
        try:
            code = await asyncio.to_thread(demo.wait, 30)
        except subprocess.TimeoutExpired:
            demo.send_signal(signal.SIGABRT)  # it says where it stands
            assert demo.stderr is not None
            pytest.fail((await asyncio.to_thread(demo.stderr.read)).decode())
    finally:
        demo.kill()
        demo.communicate()
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    deadline = time.monotonic() + 5
    while left := of_demo(root):
        assert time.monotonic() < deadline, left
        await asyncio.sleep(0.1)


def test_a_directory_with_something_else_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    done = subprocess.run(
        [*DEMO, "--keep", tmp_path], check=False, capture_output=True, timeout=30, env=own_kafka(), text=True
    )
    assert done.returncode == 64
    assert "precious.txt" in done.stderr
    assert done.stderr.count("\n") <= 2
    assert precious.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [precious]
