"""Promise: no card field is in clear anywhere behind the router: topics, objects, streams, bodies, logs, metrics, dead letters.

Cards of both makes of device go in, well-formed and in every wrong place that a producer has put one; then all that came out is
searched for them, with all logging on.
"""

import gzip
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import boto3
import orjson
import yaml
from aiohttp import web
from aiokafka import AIOKafkaProducer, TopicPartition

from sluice.config import load
from sluice.demo.configuration import CARD_FIELDS, key_name, write_keys
from sluice.wiring import topic_specs
from stream.topics import Topics
from tests.e2e.processes import Child, children, read, until_committed

NAMES = (f"Kanari Vogel{number:04}" for number in itertools.count())
ROUTES = ("success", "fail", "unmatched")
PLACE = {"region": "us-east-1", "access_key_id": "t", "secret_access_key": "t"}


def numbers() -> Any:
    """Card numbers that pass Luhn, no two alike."""
    for number in itertools.count(411111000000000):
        doubled = [int(digit) * (2 - place % 2) for place, digit in enumerate(str(number)[::-1])]
        yield f"{number}{-sum(one - 9 if one > 9 else one for one in doubled) % 10}"


class Cards:
    """Cards that were given out: what is searched for."""

    def __init__(self) -> None:
        self._numbers = numbers()
        self.given: list[bytes] = []

    def new(self) -> dict[str, str]:
        card = {"cc_number": next(self._numbers), "cc_name": next(NAMES)}
        self.given += [one.encode() for one in card.values()]
        return {**card, "cc_exp": "04/29", "cc_cvv": "123", "cc_zip": "90210"}

    def number(self) -> str:
        """A card's number alone."""
        self.given.append(next(self._numbers).encode())
        return self.given[-1].decode()

    def found(self, content: bytes) -> list[bytes]:
        """Which cards are in clear in it, whatever stands between their digits."""
        close = re.sub(rb"(?<=[0-9])[ -](?=[0-9])", b"", content)
        return [card for card in self.given if card in content or card in close]


def well_formed(cards: Cards) -> list[tuple[str, dict[str, Any]]]:
    """Records of both simulators, with the route that each has to take."""
    made: list[tuple[str, dict[str, Any]]] = []
    for result, total, route in (
        (True, 87.12, "success"), (False, 0, "fail"), ("success", 12, "success"), ("fail", 3.5, "fail"),
        (True, -1, "unmatched"), ("fail", -0.5, "unmatched"), (None, 5, "unmatched"),
    ):  # fmt: skip
        words = isinstance(result, str)
        paid = {
            "result": result,
            "total_price": total,
            "tax": 0.061 if words else 5.3,
            "quantity": 1,
            "cc": cards.new(),
        }
        device = {"id": "d", "location": ["48.1", "11.5"] if words else [48.1, 11.5], "name": "till"}
        time = "2026-03-30T16:24:37.393392" if words else "2026-03-30T16:24:37.393392918+00:00"
        made.append((route, {"datetime": time, "device": device, "event": "transaction", "transaction": paid}))
    made.append(("unmatched", {"event": "access", "access": {"name": "x", "action": "login"}}))
    return made


def misplaced(cards: Cards) -> list[dict[str, Any]]:
    """Cards where no rule looks for them. All of them are dead letters."""

    def sold(**more: Any) -> dict[str, Any]:
        return {"event": "transaction", "transaction": {"result": True, "total_price": 1, "cc": cards.new()}, **more}

    grouped = cards.number()
    as_number = sold()
    cards.given.remove(as_number["transaction"]["cc"]["cc_number"].encode())
    as_number["transaction"]["cc"]["cc_number"] = int(cards.number())
    without_name = sold()
    cards.given.remove(without_name["transaction"]["cc"].pop("cc_name").encode())
    swapped = sold()
    swapped["transaction"]["cc"]["cc_exp"] = [cards.number()]
    return [
        sold(description=f"paid with {cards.number()}"),
        sold(detail={"note": ["-".join(grouped[at : at + 4] for at in range(0, 16, 4))]}),
        sold(detail={cards.number(): 1}),
        sold(id=cards.number() + "x"),
        as_number, without_name, swapped,
        {"event": "access", "access": {"name": cards.number()}},
    ]  # fmt: skip


def dropped(cards: Cards) -> dict[str, Any]:
    """Cards in fields that no schema has: left out, the rest goes on."""
    cc = {**cards.new(), "cc_number2": cards.number(), "pan": cards.number()}
    return {
        "event": "transaction",
        "transaction": {"result": True, "total_price": 1, "cc": cc},
        "cardholder": next(NAMES),
    }


async def test_no_card_is_in_clear_anywhere(kafka: str, topic_name: Callable[[str], str], tmp_path: Path) -> None:
    name, cards = topic_name("cards"), Cards()
    raw = f"raw-{name}"
    bodies: list[bytes] = []

    async def take(request: web.Request) -> web.Response:
        bodies.append(await request.read())
        return web.Response()

    async with children(tmp_path) as start, _serving(take) as url:
        aws = await _moto(start)
        file = _config(tmp_path, kafka, name, aws, url)
        config = load(file)
        async with Topics(config.kafka) as topics:
            await topics.create(topic_specs(config))
        good, bad = well_formed(cards), misplaced(cards)
        records = [(one, None, []) for _, one in good] + [(one, None, []) for one in bad]
        records.append((dropped(cards), None, []))
        records.append((good[0][1], cards.number(), []))
        records.append((good[0][1], None, [("trace", cards.number().encode())]))
        values = [orjson.dumps(one) for one, _, _ in records]
        # What cannot be read is in the errors of parsers too.
        values += [values[0][:-1], values[0].replace(b"{", b"[", 1), b"\0\0\0\0\4" + values[0], b"\xff" + values[0]]
        producer = AIOKafkaProducer(bootstrap_servers=kafka, enable_idempotence=True)
        await producer.start()
        for number, value in enumerate(values):
            _, key, headers = records[number] if number < len(records) else (None, None, [])
            await producer.send_and_wait(raw, value, key=key and key.encode(), headers=headers, partition=0)
        await producer.stop()

        workers = [
            await start(one, "-m", "sluice.cli", "worker", "--verbose", str(file), one)
            for one in (name, *config.streams)
        ]
        await until_committed(kafka, f"sluice.{name}", {TopicPartition(raw, 0): len(values)})
        routed = {route: (await read(kafka, f"{name}.{route}")).get(0, []) for route in ROUTES}
        for stream in config.streams:
            ends = {TopicPartition(f"{name}.{route}", 0): len(some) for route, some in routed.items() if some}
            await until_committed(kafka, f"sluice.{stream}", ends)
        pages = [await _metrics(worker) for worker in workers]
        letters = (await read(kafka, f"{name}.dlq"))[0]
        for worker in workers:
            assert await worker.stop() == 0
        logs = [worker.log.read_bytes() for worker in workers]
        objects, kinesis = _objects(aws), _kinesis(aws, name)

    wanted = [route for route, _ in good] + ["success"]
    assert sorted(itertools.chain.from_iterable([route] * len(some) for route, some in routed.items())) == sorted(
        wanted
    )
    assert len(letters) == len(values) - len(wanted)
    reasons = {dict(one.headers)["sluice-reason"].decode() for one in letters}
    assert {"card-number-in-clear", "card-field-not-a-string", "card-field-missing", "not-json", "not-avro"} <= reasons
    everything = {
        "routed": [part for some in routed.values() for one in some for part in _parts(one)],
        "letters": [part for one in letters for part in _parts(one)],
        "objects": objects, "kinesis": kinesis, "http": bodies, "logs": logs, "metrics": pages,
    }  # fmt: skip
    assert [where for where, content in everything.items() if not any(content)] == [], "there is nothing to look at"
    assert all(b"DEBUG" in log for log in logs[:1])
    went_in = [
        *values,
        *(key.encode() for _, key, _ in records if key),
        *(one for _, _, headers in records for _, one in headers),
    ]
    assert cards.found(b"\n".join(went_in)) == cards.given, "the search does not find what went in"
    clear = {where: cards.found(b"\n".join(content)) for where, content in everything.items()}
    assert not any(clear.values()), clear


def _parts(record: Any) -> list[bytes]:
    return [record.value or b"-", record.key or b"-", *(value for _, value in record.headers)]


def _config(folder: Path, kafka: str, name: str, aws: str, url: str) -> Path:
    sold = {"field": ".transaction.total_price", "op": "greater_or_equal", "value": 0}
    routed = [f"{name}.{route}" for route in ROUTES]
    s3 = {**PLACE, "endpoint_url": aws, "bucket": "cards", "rotate": {"seconds": 1}}
    settings = {
        "kafka": {"brokers": [kafka], "partitions": 1, "replication": 1},
        "keys": {"provider": "file", "path": "keys.yaml"},
        "pipelines": {
            name: {
                "from": f"raw-{name}",
                "schema": "event",
                "routes": {
                    label: [{"field": ".transaction.result", "op": "equal", "value": value}, dict(sold)]
                    for label, value in (("success", True), ("fail", False))
                },
                "encrypt": [
                    {"field": f".transaction.cc.{field}", "key": key_name(field), "algorithm": "AES-256-CFB",
                     "iv_field": f".transaction.cc.{field}_iv"}
                    for field in CARD_FIELDS
                ],
            }
        },
        "metrics": {"listen": "127.0.0.1:0"},
        "streams": {
            f"{name}-json": {"from": routed, "s3": {**s3, "prefix": "json/", "format": "json", "compression": "gzip"}},
            f"{name}-csv": {"from": routed, "s3": {**s3, "prefix": "csv/", "format": "csv"}},
            f"{name}-kinesis": {"from": routed, "kinesis": {**PLACE, "endpoint_url": aws, "stream": name}},
            f"{name}-http": {
                "from": routed,
                "http": {"url": url, "mode": "bulk", "seconds": 1, "allow_http": True, "allow_private": ["127.0.0.0/8"]},
            },
        },
    }  # fmt: skip
    write_keys(folder / "keys.yaml")
    (folder / "config.yaml").write_text(json.dumps(settings))  # YAML, without anchors
    assert yaml.safe_load((folder / "config.yaml").read_text()) == settings
    client("s3", aws).create_bucket(Bucket="cards")
    client("kinesis", aws).create_stream(StreamName=name, ShardCount=1)
    return folder / "config.yaml"


def client(service: Any, aws: str) -> Any:
    keys = {"aws_access_key_id": "t", "aws_secret_access_key": "t"}
    return boto3.client(service, region_name="us-east-1", endpoint_url=aws, **keys)


class _serving:  # used as a function
    """The customer's HTTP server."""

    def __init__(self, take: Callable[[web.Request], Any]) -> None:
        application = web.Application()
        application.router.add_post("/", take)
        self._runner = web.AppRunner(application)

    async def __aenter__(self) -> str:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/"

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()


async def _moto(start: Any) -> str:
    child = await start("aws", "-m", "sluice.demo.aws")
    await child.says("S3 and Kinesis on ")
    found = re.search(r"S3 and Kinesis on (\S+)", child.output)
    assert found is not None
    return found[1]


async def _metrics(worker: Child) -> bytes:
    found = re.search(r"/ready on http://127\.0\.0\.1:(\d+)", worker.output)
    assert found is not None, worker.tail()
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{found[1]}/metrics") as answer:
        return await answer.read()


def _objects(aws: str) -> list[bytes]:
    s3 = client("s3", aws)
    found = []
    for entry in s3.list_objects_v2(Bucket="cards")["Contents"]:
        content = s3.get_object(Bucket="cards", Key=entry["Key"])
        data = content["Body"].read()
        found.append(gzip.decompress(data) if entry["Key"].endswith(".gz") else data)
        found.append(entry["Key"].encode() + json.dumps(content["Metadata"]).encode())
    return found


def _kinesis(aws: str, stream: str) -> list[bytes]:
    kinesis = client("kinesis", aws)
    shard = kinesis.list_shards(StreamName=stream)["Shards"][0]["ShardId"]
    place = kinesis.get_shard_iterator(StreamName=stream, ShardId=shard, ShardIteratorType="TRIM_HORIZON")
    records = kinesis.get_records(ShardIterator=place["ShardIterator"], Limit=10_000)["Records"]
    return [one["Data"] + one["PartitionKey"].encode() for one in records]
