"""Reads back what stands at each destination, and enters it in the accounts."""

import csv
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from sluice.demo import configuration
from sluice.demo.configuration import CARD_FIELDS
from sluice.demo.ledger import Account, CardNumbers, Delivered

if TYPE_CHECKING:
    from sluice.demo.stage import Stage

_CSV_CARD = "transaction_cc_"


def read_all(stage: "Stage", accounts: dict[str, Account], numbers: CardNumbers, keep: Path | None) -> None:
    """Fill the accounts of all streams. Objects are kept under `keep`, if given. Blocks; raises botocore's errors, OSError."""
    for stream, account in accounts.items():
        for name, data in _contents(stage, stream, keep):
            account.clear += numbers.in_clear(data)
            for one in _rows(data) if name.endswith(".csv") else _objects(data):
                account.take(one)


def _contents(stage: "Stage", stream: str, keep: Path | None) -> Iterator[tuple[str, bytes]]:
    destination = stage.config.streams[stream]
    if destination.s3 is not None:
        return _bucket(stage, destination.s3.bucket, keep)
    return _kinesis(stage) if destination.kinesis is not None else _received(stage.received)


def _bucket(stage: "Stage", bucket: str, keep: Path | None) -> Iterator[tuple[str, bytes]]:
    """Key (without `.gz`) and unpacked content of each object, without those of the chain."""
    s3 = stage.s3()
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for entry in page.get("Contents", []):
            key = entry["Key"]
            if any(segment.startswith("_") for segment in key.split("/")):
                continue
            data = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
            if keep is not None:
                place = keep / bucket / key
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data)
            yield key.removesuffix(".gz"), zlib.decompress(data, zlib.MAX_WBITS | 16) if key.endswith(".gz") else data


def _kinesis(stage: "Stage") -> Iterator[tuple[str, bytes]]:
    """The records of each call, one a line."""
    kinesis = stage.kinesis()
    name = configuration.KINESIS_STREAM
    for shard in kinesis.list_shards(StreamName=name)["Shards"]:
        begin = kinesis.get_shard_iterator(StreamName=name, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON")
        place = begin["ShardIterator"]
        while place:
            answer = kinesis.get_records(ShardIterator=place, Limit=10_000)
            yield "records.json", b"\n".join(record["Data"] for record in answer["Records"])
            place = answer["NextShardIterator"] if answer["MillisBehindLatest"] else ""


def _received(file: Path) -> Iterator[tuple[str, bytes]]:
    """The bodies that the receiver accepted. None: no file."""
    if file.exists():
        with file.open("rb") as lines:
            for body in lines:
                yield "body.json", body


def _objects(data: bytes) -> Iterator[Delivered]:
    """Records of JSON lines, each an object or an array of them."""
    for line in data.splitlines():
        value = orjson.loads(line)
        for record in value if isinstance(value, list) else [value]:
            paid = record.get("transaction") or {}
            yield Delivered(record.get("id"), record.get("sluice_id"), paid.get("cc"), _texts(record) if paid else ())


def _texts(value: Any) -> Iterator[str]:
    """All texts in a JSON value. Numbers are none: a record's own number may well be somebody's postcode."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for below in value.values():
            yield from _texts(below)
    elif isinstance(value, list):
        for below in value:
            yield from _texts(below)


def _rows(data: bytes) -> Iterator[Delivered]:
    """Records of a CSV file with its header line."""
    rows = csv.reader(io.StringIO(data.decode(), newline=""))
    header = next(rows)
    number = header.index("id")
    places = {column: place for place, column in enumerate(header)}
    card = {
        name: places[_CSV_CARD + name]
        for field in CARD_FIELDS
        for name in (field, f"{field}_iv")
        if _CSV_CARD + name in places
    }
    for row in rows:
        found = {name: row[place] for name, place in card.items()}
        yield Delivered(int(row[number]), None, found, row[:number] + row[number + 1 :])
