"""SIGTERM ends a worker within 20 s and with exit code 0, whatever stands still around it; nothing is lost by that."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import boto3
from aiokafka import TopicPartition

from sluice.local_kafka import LocalKafka
from tests.e2e.processes import Child, children, committed, produce, total, until

SECONDS = 20
EVENT = b'{"id":1,"transaction":{"result":true}}'
Start = Callable[..., Awaitable[Child]]


class Front:
    """A TCP front before a server: passes on, until it falls silent. Then it still takes connections, and answers nothing."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._silent = asyncio.Event()
        self.unanswered = 0

    def fall_silent(self) -> None:
        self._silent.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, ahead = await asyncio.open_connection("127.0.0.1", self._to)
        await asyncio.gather(self._pass_on(reader, ahead), self._pass_on(behind, writer))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self._silent.is_set():
                    self.unanswered += 1
                    await asyncio.Event().wait()
                writer.write(data)
            writer.close()


@asynccontextmanager
async def front(port: int) -> AsyncIterator[tuple[Front, int]]:
    """A front before that port, and its own port."""
    one = Front(port)
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    try:
        yield one, server.sockets[0].getsockname()[1]
    finally:
        server.close()


def configured(folder: Path, brokers: str, name: str, streams: str = "", session: int = 10) -> str:
    file = folder / f"{name}.yaml"
    file.write_text(
        f"kafka: {{brokers: ['{brokers}'], partitions: 2, replication: 1, session_seconds: {session}}}\n"
        f"keys: {{provider: file, path: keys.yaml}}\n"
        f"pipelines: {{{name}: {{from: raw.{name}, schema: event}}}}\n"
        f"metrics: {{listen: '127.0.0.1:0'}}\n" + streams
    )
    return str(file)


async def prepared(start: Start, config: str) -> None:
    for command in (["keys", "new", config, "dead-letters"], ["topics", config]):
        assert await (await start(Path(config).stem, "-m", "sluice.cli", *command)).ends(60) in (0, 78)


async def working(start: Start, config: str, name: str, log: str = "") -> Child:
    worker = await start(log or name, "-m", "sluice.cli", "worker", config, name)
    await worker.says("Assigned in generation", 60)
    return worker


async def ends_in_time(worker: Child) -> float:
    began = time.monotonic()
    assert await worker.stop(SECONDS) == 0, worker.tail()
    return time.monotonic() - began


async def test_with_a_destination_that_does_not_answer(kafka: str, name: str, tmp_path: Path, moto: str) -> None:
    aws = int(moto.rpartition(":")[2])
    async with children(tmp_path) as start, front(aws) as (bucket, port), front(aws) as (receiver, other):
        boto3.client("s3", endpoint_url=moto, region_name="us-east-1", aws_access_key_id="x",
                     aws_secret_access_key="y").create_bucket(Bucket="bucket")  # fmt: skip
        sink = f"endpoint_url: 'http://127.0.0.1:{port}', access_key_id: x, secret_access_key: y"
        streams = (
            f"streams:\n  s3-{name}: {{from: [{name}.success], "
            f"s3: {{bucket: bucket, format: json, {sink}, rotate: {{seconds: 1}}}}}}\n"
        )
        for stream in (f"http-{name}", f"hurried-{name}"):
            streams += (
                f"  {stream}: {{from: [{name}.success], http: {{url: 'http://127.0.0.1:{other}/', allow_http: true, "
                f"allow_private: [127.0.0.0/8], seconds: 0.2}}}}\n"
            )
        config = configured(tmp_path, kafka, name, streams)
        await prepared(start, config)
        await produce(kafka, f"{name}.success", {0: [EVENT] * 10})
        ones = [await working(start, config, f"s3-{name}"), await working(start, config, f"http-{name}")]
        # And one for which the last resort comes before the bounds of all parts.
        hurry = f"import sluice.worker as w, sys; w.END_SECONDS = 1.0; sys.argv = ['', 'worker', {config!r}, 'hurried-{name}']"
        hurried = await start("hurried", "-c", hurry + "; from sluice import cli; cli.main()")
        await hurried.says("Assigned in generation", 60)
        bucket.fall_silent()
        receiver.fall_silent()
        await produce(kafka, f"{name}.success", {1: [EVENT] * 10})
        await until(lambda: bool(bucket.unanswered and receiver.unanswered >= 2), 60)
        await asyncio.gather(*map(ends_in_time, (*ones, hurried)))
        assert "Not closed in order within 1 s" in hurried.output
        undelivered = TopicPartition(f"{name}.success", 1)
        for stream in (f"s3-{name}", f"http-{name}", f"hurried-{name}"):
            at, _ = (await committed(kafka, f"sluice.{stream}")).get(undelivered, (0, ""))
            assert at == 0, f"{stream} has committed what it had not delivered"


async def test_in_the_midst_of_a_rebalance(kafka: str, name: str, tmp_path: Path) -> None:
    async with children(tmp_path) as start:
        config = configured(tmp_path, kafka, name, session=60)
        await prepared(start, config)
        one = await working(start, config, name, "one")
        frozen = await working(start, config, name, "frozen")
        await one.says("Assigned in generation", times=2)
        await produce(kafka, f"raw.{name}", {0: [EVENT] * 10, 1: [EVENT] * 10})
        frozen.freeze()
        await start("third", "-m", "sluice.cli", "worker", config, name)  # the group waits for the frozen one
        await one.says("rebalancing", times=2)
        await asyncio.sleep(2)
        assert one.output.count("Assigned in generation") == 2, "the rebalance was over: nothing was shown"
        await ends_in_time(one)


async def test_with_brokers_that_do_not_answer(tmp_path: Path) -> None:
    with LocalKafka(tmp_path / "kafka") as cluster:
        async with children(tmp_path) as start:
            config = configured(tmp_path, cluster.bootstrap, "events")
            await prepared(start, config)
            await produce(cluster.bootstrap, "raw.events", {0: [EVENT] * 200_000, 1: [EVENT] * 200_000})
            worker = await working(start, config, "events")
            async with asyncio.timeout(30):
                while not await total(cluster.bootstrap, "events.success"):
                    await asyncio.sleep(0.01)
            cluster.pause(0)
            try:
                starting = await start("starting", "-m", "sluice.cli", "worker", config, "events")
                await starting.says("Metrics, /live")
                await asyncio.sleep(3)
                took = await asyncio.gather(*map(ends_in_time, (worker, starting)))
            finally:
                cluster.resume(0)
            assert "did not settle" in worker.output, "nothing was in work: nothing was shown"
            assert took[1] < 5, "it waited for a broker before it ended"
