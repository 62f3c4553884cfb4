"""A record that crashes every worker that reads it: `sluice up` gives up, and says where it lies."""

from collections.abc import Callable
from pathlib import Path

from aiokafka import TopicPartition

from tests.e2e.processes import children, committed, produce, until_committed

UP = str(Path(__file__).with_name("poisoned_up.py"))
GOOD, AFTER = b'{"id":1,"transaction":{"result":true}}', b'{"id":2}'
BAD = b'{"id":3,"note":"poison 4111111111111111"}'


async def test_up_gives_up_on_a_poisonous_record_and_names_topic_partition_and_offset(
    kafka: str, topic_name: Callable[[str], str], tmp_path: Path
) -> None:
    name = topic_name("poisoned")
    raw = f"raw.{name}"
    config = tmp_path / "config.yaml"
    config.write_text(
        f"kafka: {{brokers: ['{kafka}'], partitions: 2, replication: 1, session_seconds: 3}}\n"
        f"keys: {{provider: file, path: keys.yaml}}\n"
        f"pipelines: {{{name}: {{from: {raw}, schema: event}}}}\n"
        f"metrics: {{listen: '127.0.0.1:0'}}\n"
    )
    async with children(tmp_path) as start:
        for command in (["keys", "new", str(config), "dead-letters"], ["topics", str(config)]):
            assert await (await start(command[0], "-m", "sluice.cli", *command)).ends(60) == 0
        await produce(kafka, raw, {0: [GOOD] * 20, 1: [GOOD] * 7})
        up = await start("up", UP, str(config), name)
        await until_committed(kafka, f"sluice.{name}", {TopicPartition(raw, 0): 20, TopicPartition(raw, 1): 7})
        await produce(kafka, raw, {1: [BAD, AFTER]})
        assert await up.ends(120) == 70
    given_up = next(line for line in up.output.splitlines() if "Giving up" in line)
    assert f"5 times with {raw}/1, offsets 7 to 8 in work, never getting past offset 7" in given_up
    assert '"A worker that crashes again and again"' in given_up
    assert "Burst" in up.output
    assert f"sluice: an internal fault at {raw}/1, offsets 7 to 8" in up.output
    assert "4111" not in up.output
    assert (await committed(kafka, f"sluice.{name}"))[TopicPartition(raw, 1)][0] == 7, "the poison was skipped"
