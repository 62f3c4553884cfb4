"""Everything that is outside the product, on this machine: Kafka, the stand-ins for S3, Kinesis and a customer's endpoint."""

import asyncio
import base64
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from aiokafka.admin import AIOKafkaAdminClient
from botocore.config import Config as BotoConfig

from sluice.config import Config, load
from sluice.demo import configuration
from sluice.demo.processes import Process
from sluice.devices import Fleet
from sluice.exits import Exit, UserError
from sluice.generate import references_to_topics
from sluice.local_kafka import LocalKafka
from sluice.wiring import topic_specs
from stream.topics import Topics

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

_OWN = (
    "config.yaml",
    "keys.yaml",
    "targets.json",
    "ledger.json",
    "received.jsonl",
    "webhook-secret",
    "logs",
    "s3",
    "kafka",
)
"""What a demo leaves in its directory: removed by the next one there."""


@dataclass(frozen=True)
class Stage:
    """Where everything is, while it is there."""

    root: Path
    config: Config
    keys: dict[str, bytes]
    aws: str
    """`host:port` of the stand-in for S3 and Kinesis."""

    @property
    def config_file(self) -> Path:
        return self.root / "config.yaml"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def received(self) -> Path:
        """What the HTTP receiver accepted: a JSON array a line."""
        return self.root / "received.jsonl"

    @property
    def brokers(self) -> str:
        return self.config.kafka.bootstrap

    def s3(self) -> "S3Client":
        return _clients(self.aws)[0]

    def kinesis(self) -> "KinesisClient":
        return _clients(self.aws)[1]


@contextlib.asynccontextmanager
async def standing(root: Path, fleet: Fleet) -> AsyncIterator[Stage]:
    """Set everything up under `root`, with all topics, buckets and references; in the end nothing runs any more.

    Kafka is the one of KAFKA_BROKERS, where the demo's topics must not exist (they are deleted at the end), or a new one.
    Raises UserError, Missing (no Java, no Kafka), BrokerFailed, KafkaError and ProcessEnded.
    """
    _clear(root)
    logs = root / "logs"
    logs.mkdir()
    secret = "whsec_" + base64.b64encode(os.urandom(32)).decode()
    (root / "webhook-secret").write_text(secret)
    (root / "webhook-secret").chmod(0o600)
    keys = configuration.write_keys(root / "keys.yaml")
    processes = [
        Process("the stand-in for AWS", ["-m", "sluice.demo.aws"], logs / "aws.log"),
        Process(
            "the HTTP receiver",
            ["-m", "sluice.demo.receiver", str(root / "received.jsonl"), str(root / "webhook-secret")],
            logs / "receiver.log",
        ),
    ]
    try:
        async with _kafka(root / "kafka") as brokers:
            aws, receiver = [await process.wait_for_address() for process in processes]
            replication = await _replication(brokers)
            configuration.write_config(root / "config.yaml", brokers, replication, aws, receiver, secret)
            config = load(root / "config.yaml")
            await asyncio.to_thread(_make_places, aws)
            async with _topics(config):
                await references_to_topics(fleet.references(), configuration.REFERENCES, brokers)
                yield Stage(root, config, keys, aws)
    finally:
        for process in processes:
            process.kill()
        (root / "webhook-secret").unlink(missing_ok=True)


def _clear(root: Path) -> None:
    """Take away what an earlier demo left. Refuses a directory with anything else in it."""
    root.mkdir(parents=True, exist_ok=True)
    if strange := sorted({path.name for path in root.iterdir()} - set(_OWN)):
        raise UserError(
            f"{root} holds {strange[0]}, which no demo has left there: name a new or empty directory", Exit.USAGE
        )
    for name in _OWN:
        path = root / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def _kafka(root: Path) -> AsyncIterator[str]:
    """Bootstrap servers. Starting a broker blocks, so it happens in a thread."""
    if existing := os.environ.get("KAFKA_BROKERS"):
        yield existing
        return
    local = LocalKafka(root)
    await asyncio.to_thread(local.__enter__)
    try:
        yield local.bootstrap
    finally:
        local.__exit__(None, None, None)


async def _replication(brokers: str) -> int:
    admin = AIOKafkaAdminClient(bootstrap_servers=brokers)
    await admin.start()
    try:
        return min(3, len((await admin.describe_cluster())["brokers"]))
    finally:
        await admin.close()


@contextlib.asynccontextmanager
async def _topics(config: Config) -> AsyncIterator[None]:
    """Make all topics; delete them again where the cluster is not our own. Their offsets go with them."""
    specs = topic_specs(config)
    async with Topics(config.kafka) as topics:
        if there := [state.name for state in await topics.compare(specs) if state.state != "missing"]:
            raise UserError(
                f"the cluster has topics that the demo would make ({', '.join(there)}); delete them, or unset"
                " KAFKA_BROKERS to let the demo start a Kafka of its own",
                Exit.USAGE,
            )
        await topics.create(specs)
    try:
        yield
    finally:
        if os.environ.get("KAFKA_BROKERS"):
            admin = AIOKafkaAdminClient(bootstrap_servers=config.kafka.bootstrap)
            await admin.start()
            try:
                await admin.delete_topics([one.name for one in specs])
            finally:
                await admin.close()


def _clients(aws: str) -> "tuple[S3Client, KinesisClient]":
    session = boto3.Session(
        aws_access_key_id=configuration.AWS_CREDENTIALS["access_key_id"],
        aws_secret_access_key=configuration.AWS_CREDENTIALS["secret_access_key"],
        region_name=configuration.REGION,
    )
    options = BotoConfig(s3={"addressing_style": "path"}, retries={"total_max_attempts": 3})
    url = f"http://{aws}"
    return (
        session.client("s3", endpoint_url=url, config=options),
        session.client("kinesis", endpoint_url=url, config=options),
    )


def _make_places(aws: str) -> None:
    """Buckets and the Kinesis stream, as a customer would have set them up."""
    s3, kinesis = _clients(aws)
    for bucket in configuration.BUCKETS:
        s3.create_bucket(Bucket=bucket)
        s3.put_public_access_block(
            Bucket=bucket,
            PublicAccessBlockConfiguration={
                "BlockPublicAcls": True,
                "IgnorePublicAcls": True,
                "BlockPublicPolicy": True,
                "RestrictPublicBuckets": True,
            },
        )
    kinesis.create_stream(StreamName=configuration.KINESIS_STREAM, ShardCount=2)
    kinesis.get_waiter("stream_exists").wait(
        StreamName=configuration.KINESIS_STREAM, WaiterConfig={"Delay": 1, "MaxAttempts": 30}
    )
