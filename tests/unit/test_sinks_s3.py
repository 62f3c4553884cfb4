"""The S3 sink and its chain of intents: one object a cut, written once, under any failure and by any number of workers."""

import asyncio
import csv
import gzip
import io
import itertools
import json
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import boto3
import fastavro
import pyarrow.parquet as pq
import pytest
from aiohttp import web
from pydantic import ValidationError

from schemas.projection import csv_header
from schemas.subjects import load
from sinks.aws import Unavailable
from sinks.contract import Conflict, Delivery, Outgoing, Verdict
from sinks.s3 import S3Config, S3Sink
from sinks.s3_chain import Intent, IntentChain
from sinks.s3_object import Layout, zstd

EVENT = load("event")
numbers = itertools.count()


class Store:
    """A bucket of moto behind a front that fails on demand."""

    def __init__(self, upstream: str) -> None:
        self.bucket = f"bucket-{next(numbers)}"
        self.upstream = upstream
        self.url = ""
        self.client: Any = boto3.client(
            "s3", endpoint_url=upstream, aws_access_key_id="t", aws_secret_access_key="t", region_name="us-east-1"
        )
        self.client.create_bucket(Bucket=self.bucket)
        self.requests: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.fault: Callable[[str, str], tuple[int, str] | str | None] = lambda method, path: None
        """By method and path: a status and a code to answer, `lost` to do it and lose the answer, or None to do it."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests.append((request.method, request.path))
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        fault = self.fault(request.method, request.path)
        if isinstance(fault, tuple):
            status, code = fault
            return web.Response(status=status, text=f"<Error><Code>{code}</Code></Error>", content_type="text/xml")
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(
                request.method, self.upstream + request.raw_path, data=body, headers=request.headers
            ) as answer,
        ):
            content = await answer.read()
            headers = {name: value for name, value in answer.headers.items() if name.lower() != "transfer-encoding"}
            if request.method != "HEAD":
                headers.pop("Content-Length", None)
            if fault == "lost":
                assert request.transport is not None
                request.transport.abort()
            return web.Response(status=answer.status, body=content or None, headers=headers)

    def names(self) -> list[str]:
        return [found["Key"] for found in self.client.list_objects_v2(Bucket=self.bucket).get("Contents", [])]

    def data_keys(self) -> list[str]:
        return [key for key in self.names() if "_sluice/" not in key]

    def read(self, key: str) -> bytes:
        body: bytes = self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        if key.endswith(".zst"):
            return zstd.decompress(body)
        return gzip.decompress(body) if key.endswith(".gz") else body

    def sink(self, **more: Any) -> S3Sink:
        settings = {
            "bucket": self.bucket,
            "prefix": "fin/",
            "endpoint_url": self.url,
            "access_key_id": "test",
            "secret_access_key": "test",
            **more,
        }
        return S3Sink(S3Config.model_validate(settings), "s3-fin", EVENT)


@pytest.fixture
async def store(moto: str) -> AsyncIterator[Store]:
    store = Store(moto)
    app = web.Application(client_max_size=2**26)
    app.router.add_route("*", "/{path:.*}", store.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    store.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield store
    await runner.cleanup()


def delivery(start: int, end: int, origin: str = "raw.events/4/{}", step: int = 1) -> Delivery:
    records = [
        Outgoing(i, 1_700_000_000_000, origin.format(i), b'{"id":%d,"description":"\xc3\xa9\\""}' % i)
        for i in range(start, end, step)
    ]
    return Delivery("events.success", 4, start, end, records)


def outcomes(verdicts: Any) -> set[tuple[str, str]]:
    return {(verdict.outcome, verdict.reason) for verdict in verdicts}


async def test_one_object_of_json_lines_under_a_key_of_its_offsets(store: Store) -> None:
    sink = store.sink()
    what = delivery(10, 40, step=2)
    assert outcomes(await sink.write(what)) == {("delivered", "")}
    await sink.close()
    key = "fin/events.success/00004/00000000000000000010-00000000000000000040.json"
    assert store.names() == [key]
    assert store.read(key) == b"".join(record.value + b"\n" for record in what.records)
    head = store.client.head_object(Bucket=store.bucket, Key=key)
    assert head["ContentType"] == "application/x-ndjson"
    assert {name: head["Metadata"][name] for name in ("start", "end", "count")} == {
        "start": "10",
        "end": "40",
        "count": "15",
    }
    assert len(head["Metadata"]["ids-sha256"]) == 64


async def test_csv_is_the_header_once_and_a_row_a_record(store: Store) -> None:
    sink = store.sink(format="csv", compression="gzip", prefix="")
    await sink.write(delivery(0, 2500))
    await sink.close()
    key = "events.success/00004/00000000000000000000-00000000000000002500.csv.gz"
    lines = store.read(key).splitlines(keepends=True)
    assert store.names() == [key]
    assert lines[0] == csv_header(EVENT)
    assert len(lines) == 2501
    assert lines[2500].startswith(b'"2499",')


PACKED: dict[tuple[str, str], tuple[str, str]] = {
    ("json", "zstd"): (".json.zst", "application/zstd"),
    ("csv", "zstd"): (".csv.zst", "application/zstd"),
    **{("avro", one): (".avro", "application/vnd.apache.avro+binary") for one in ("none", "gzip", "zstd")},
    **{("parquet", one): (".parquet", "application/vnd.apache.parquet") for one in ("none", "gzip", "zstd")},
}


@pytest.mark.parametrize(("form", "packing"), PACKED, ids="-".join)
async def test_every_format_and_packing_holds_the_same_records(store: Store, form: str, packing: str) -> None:
    ending, media_type = PACKED[form, packing]
    sink = store.sink(format=form, compression=packing)
    assert outcomes(await sink.write(delivery(0, 2500))) == {("delivered", "")}
    await sink.close()
    (key,) = store.names()
    assert key == f"fin/events.success/00004/00000000000000000000-00000000000000002500{ending}"
    assert store.client.head_object(Bucket=store.bucket, Key=key)["ContentType"] == media_type
    assert ids_in(form, store.read(key)) == list(range(2500))


def ids_in(form: str, content: bytes) -> list[int]:
    match form:
        case "json":
            return [json.loads(line)["id"] for line in content.splitlines()]
        case "csv":
            return [int(row["id"]) for row in csv.DictReader(io.StringIO(content.decode()))]
        case "avro":
            return [row["id"] for row in fastavro.reader(io.BytesIO(content))]  # type: ignore[index,misc,call-overload]
        case _:
            ids: list[int] = pq.read_table(io.BytesIO(content)).column("id").to_pylist()
            return ids


async def test_gzip_is_the_same_bytes_each_time_and_is_not_unpacked_on_the_way(store: Store) -> None:
    sink = store.sink(compression="gzip")
    other = store.sink(compression="gzip", prefix="again/")
    await sink.write(delivery(0, 3000))
    await other.write(delivery(0, 3000))
    await sink.close()
    await other.close()
    bodies = [store.client.get_object(Bucket=store.bucket, Key=key)["Body"].read() for key in store.names()]
    assert bodies[0] == bodies[1]
    assert bodies[0][4:8] == b"\0\0\0\0"  # no time of making
    head = store.client.head_object(Bucket=store.bucket, Key=store.names()[0])
    assert head["ContentType"] == "application/gzip"
    assert "ContentEncoding" not in head


async def test_every_object_is_put_on_condition(store: Store) -> None:
    for exactly_once in (True, False):
        sink = store.sink(exactly_once=exactly_once)
        await sink.write(delivery(0, 3))
        await sink.close()
    assert [headers.get("if-none-match") for headers in store.headers if "if-none-match" in headers] == ["*", "*"]


async def test_no_records_no_object(store: Store) -> None:
    sink = store.sink()
    assert await sink.write(Delivery("events.success", 0, 5, 9, [])) == []
    await sink.close()
    assert store.requests == []


async def test_written_again_is_delivered_and_left_alone(store: Store) -> None:
    sink = store.sink()
    for _ in range(2):
        assert outcomes(await sink.write(delivery(0, 9))) == {("delivered", "")}
    await sink.close()
    assert [method for method, _ in store.requests] == ["PUT", "PUT", "HEAD"]


async def test_a_lost_answer_is_found_to_be_our_own_object(store: Store) -> None:
    sink = store.sink()
    store.fault = lambda method, path: "lost"
    assert outcomes(await sink.write(delivery(0, 9))) == {("again", "unreachable")}
    assert len(store.names()) == 1  # it was done
    store.fault = lambda method, path: None
    assert outcomes(await sink.write(delivery(0, 9))) == {("delivered", "")}
    await sink.close()


@pytest.mark.parametrize("other", [delivery(0, 9, "raw.events/5/{}"), delivery(0, 9, step=2)])
async def test_another_object_under_the_key_halts_and_is_not_touched(store: Store, other: Delivery) -> None:
    sink = store.sink()
    await sink.write(other)
    before = store.read(store.names()[0])
    with pytest.raises(Conflict, match=r"s3://bucket-\d+/fin/events.success/00004/0+-0+9.json holds other records"):
        await sink.write(delivery(0, 9))
    await sink.close()
    assert store.read(store.names()[0]) == before


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (503, "SlowDown"),
        (500, "InternalError"),
        (403, "AccessDenied"),
        (403, "InvalidAccessKeyId"),
        (403, "RequestTimeTooSkewed"),
        (404, "NoSuchBucket"),
        (409, "ConditionalRequestConflict"),
        (400, "BadDigest"),
        (501, "NotImplemented"),
    ],
)
async def test_fault_table(store: Store, status: int, code: str) -> None:
    sink = store.sink()
    store.fault = lambda method, path: (status, code)
    assert outcomes(await sink.write(delivery(0, 3))) == {("again", code)}
    with pytest.raises(Unavailable, match=code):
        await sink.epochs().chain(0).claim(intent(0, 3))
    assert len(store.requests) == 2  # no attempt of its own: the runner tries again
    store.fault = lambda method, path: None
    assert outcomes(await sink.write(delivery(0, 3))) == {("delivered", "")}
    await sink.close()


async def test_with_the_right_to_put_alone_an_object_that_is_there_counts_as_ours(store: Store) -> None:
    put_only = store.sink(exactly_once=False)
    store.fault = lambda method, path: None if method == "PUT" else (403, "AccessDenied")
    for _ in range(2):
        assert outcomes(await put_only.write(delivery(0, 3))) == {("delivered", "")}
    exact = store.sink()
    assert outcomes(await exact.write(delivery(0, 3))) == {("again", "http-403")}
    await put_only.close()
    await exact.close()


async def test_no_answer_in_time_comes_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sinks.s3_bucket.PUT_SECONDS", 0.2)
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)  # accepts, and never answers
    monkeypatch.setattr("sinks.aws.READ_SECONDS", 1)
    sink = store.sink(endpoint_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert outcomes(await sink.write(delivery(0, 3))) == {("again", "timeout")}
    await sink.close()
    server.close()


# --- the chain ---


def intent(start: int, end: int, **more: Any) -> Intent:
    settings: dict[str, Any] = {
        "topic": "events.success", "partition": 4, "start": start, "end": end, "seen": {"1700000000.abc": start - 1},
        "format": "json", "compression": "none", "prefix": "fin/", "where": "none", "schema": "event/v4",
    }  # fmt: skip
    return Intent(**{**settings, **more})


async def test_the_first_claim_decides_and_everybody_follows(store: Store) -> None:
    chain = store.sink().epochs().chain(0)
    ours, theirs = intent(5, 50), intent(5, 77, compression="gzip", format="csv")
    assert await chain.find("events.success", 4, 5) is None
    assert await chain.claim(ours) == ours
    assert await chain.claim(theirs) == ours
    assert await chain.find("events.success", 4, 5) == ours
    assert store.names() == ["fin/_sluice/s3-fin/0/events.success/00004/00000000000000000005.json"]
    assert ours.layout == Layout("fin/", "json", "none")


async def test_claims_at_once_agree(store: Store) -> None:
    chains = [store.sink().epochs().chain(0) for _ in range(4)]
    decided = await asyncio.gather(*(chain.claim(intent(0, 10 + n)) for n, chain in enumerate(chains)))
    assert len({found.end for found in decided}) == 1


async def test_a_claim_whose_answer_was_lost_is_ours_when_repeated(store: Store) -> None:
    chain = store.sink().epochs().chain(0)
    store.fault = lambda method, path: "lost" if method == "PUT" else None
    with pytest.raises(Unavailable):
        await chain.claim(intent(0, 10))
    store.fault = lambda method, path: None
    assert await chain.claim(intent(0, 12)) == intent(0, 10)


async def test_the_last_link_is_that_of_the_partition_and_epoch(store: Store) -> None:
    chain, later = store.sink().epochs().chain(0), store.sink().epochs().chain(1_700_000_000)
    assert await chain.last("events.success", 4) is None
    for start in (0, 9, 100, 12_345):
        await chain.claim(intent(start, start + 1))
    await chain.claim(intent(99_999, 100_000, partition=5))
    await chain.claim(intent(88_888, 100_000, topic="events.success2"))
    await later.claim(intent(77_777, 77_778))
    found = await chain.last("events.success", 4)
    assert found is not None
    assert found.start == 12_345
    exactly = await chain.last("events.success", 4, after=12_345)
    assert exactly == found
    assert await chain.last("events.success", 4, after=12_346) is None


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"not json 4111111111111111", "cannot be read"),
        (b'{"topic":"events.success"}', "cannot be read"),
        (b"[]", "cannot be read"),
        ("newer", "newer Sluice"),
        ("other", "contradicts"),
    ],
)
async def test_a_link_that_cannot_be_followed_halts(store: Store, body: bytes | str, text: str) -> None:
    chain = store.sink().epochs().chain(0)
    await chain.claim(intent(7, 9, writer=99) if body == "newer" else intent(7, 9))
    key = store.names()[0]
    if body == "other":
        body = store.read(key)
        key = key.replace("007.json", "008.json")
    if isinstance(body, bytes):
        store.client.put_object(Bucket=store.bucket, Key=key, Body=body)
    with pytest.raises(Conflict, match=text) as caught:
        await chain.find("events.success", 4, int(key[-8:-5]))
    assert "4111" not in str(caught.value)
    assert key in str(caught.value)


async def test_a_cut_is_redone_as_it_was_decided_after_the_config_changed(store: Store) -> None:
    before = store.sink(compression="gzip")
    decided = await before.epochs().chain(0).claim(intent(0, 9, compression="gzip"))
    after = store.sink(format="csv")
    found = await after.epochs().chain(0).find("events.success", 4, 0)
    assert found == decided
    await after.write_as(delivery(0, 9), found.layout)
    await before.write(delivery(0, 9))
    assert store.data_keys() == ["fin/events.success/00004/00000000000000000000-00000000000000000009.json.gz"]


@pytest.mark.parametrize("seed", range(4))
async def test_exactly_once_whatever_dies_or_comes_back(store: Store, seed: int) -> None:
    """Three workers run the protocol on one partition without knowing of each other, die and lose answers at any step."""
    chance, total = random.Random(seed), 120
    committed = 0
    losses = 0

    def fault(method: str, path: str) -> tuple[int, str] | str | None:
        nonlocal losses
        drawn = chance.random()
        losses += drawn < 0.4
        return "lost" if drawn < 0.2 else (503, "SlowDown") if drawn < 0.4 else None

    async def worker(number: int) -> None:
        nonlocal committed
        sink = store.sink()
        chain: IntentChain = sink.epochs().chain(0)
        start = committed
        while committed < total:
            if chance.random() < 0.2:  # died, or was thought dead: begins at the bookmark, wherever others are
                start = committed
            try:
                link = await chain.find("events.success", 4, start)
                if link is None:
                    link = await chain.claim(intent(start, min(total, start + chance.randint(1, 15))))
            except Unavailable:
                continue
            if outcomes(await sink.write_as(delivery(link.start, link.end), link.layout)) == {("delivered", "")}:
                committed = max(committed, link.end)
                start = link.end if link.end < total else committed
        await sink.close()

    store.fault = fault
    await asyncio.gather(*(worker(number) for number in range(3)))
    held = [json.loads(line)["id"] for key in store.data_keys() for line in store.read(key).splitlines()]
    assert held == list(range(total))
    assert losses > 5  # else nothing was shown


# --- check and config ---


async def test_check_finds_the_bucket_writable_and_says_what_is_not_known(store: Store) -> None:
    sink = store.sink(prefix="fin")
    for _ in range(2):
        findings = await sink.check()
    await sink.close()
    assert findings[0].level == "ok"
    assert {finding.level for finding in findings[1:]} == {"warning"}
    assert any("public" in finding.text for finding in findings)
    assert any("encryption" in finding.text for finding in findings)
    assert any("does not end in /" in finding.text for finding in findings)
    assert store.names() == ["fin_sluice/check"]


async def test_check_is_content_with_a_bucket_that_is_locked_up(store: Store) -> None:
    blocked = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
    store.client.put_public_access_block(Bucket=store.bucket, PublicAccessBlockConfiguration=blocked)
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"}}
    store.client.put_bucket_encryption(Bucket=store.bucket, ServerSideEncryptionConfiguration={"Rules": [rule]})
    sink = store.sink()
    assert {finding.level for finding in await sink.check()} == {"ok"}
    store.client.put_public_access_block(
        Bucket=store.bucket, PublicAccessBlockConfiguration={**blocked, "BlockPublicPolicy": False}
    )
    assert [f.text for f in await sink.check() if f.level == "warning"] == [
        f"bucket {store.bucket}: does not block public access (BlockPublicPolicy)"
    ]
    await sink.close()


@pytest.mark.parametrize(
    ("fault", "level", "text"),
    [
        ((404, "NoSuchBucket"), "unavailable", "does not exist"),
        ((403, "AccessDenied"), "unavailable", "access denied"),
        ((403, "SignatureDoesNotMatch"), "error", "credentials"),
        ((501, "NotImplemented"), "error", "conditional"),
        ((503, "SlowDown"), "unavailable", "SlowDown"),
    ],
)
async def test_check_names_what_is_wrong(store: Store, fault: tuple[int, str], level: str, text: str) -> None:
    store.fault = lambda method, path: fault
    sink = store.sink()
    findings = await sink.check()
    await sink.close()
    assert [finding.level for finding in findings] == [level]
    assert text in findings[0].text
    assert findings[0].remedy


async def test_something_that_says_200_to_everything_is_not_taken_for_s3(store: Store) -> None:
    async def welcome(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(text="<html><body>Welcome</body></html>", content_type="text/html")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", welcome)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sink = store.sink(endpoint_url=f"http://127.0.0.1:{runner.addresses[0][1]}")
    assert outcomes(await sink.write(delivery(0, 3))) == {("again", "malformed-answer")}
    chain = sink.epochs().chain(0)
    for asked in (chain.find("events.success", 4, 0), chain.claim(intent(0, 3)), chain.last("events.success", 4)):
        with pytest.raises(Unavailable, match="malformed-answer"):
            await asked
    assert [finding.level for finding in await sink.check()] == ["unavailable"]
    await sink.close()
    await runner.cleanup()


@pytest.mark.parametrize(("exactly_once", "level"), [(True, "unavailable"), (False, "ok")])
async def test_check_needs_no_right_that_writing_does_not(store: Store, exactly_once: bool, level: str) -> None:
    store.fault = lambda method, path: None if method == "PUT" else (403, "AccessDenied")
    sink = store.sink(exactly_once=exactly_once)
    findings = await sink.check()
    await sink.close()
    assert findings[0].level == level
    assert not exactly_once or "exactly_once: false" in findings[0].remedy


async def test_a_store_that_ignores_conditions_is_refused(store: Store) -> None:
    async def take_all(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(text="<x/>", content_type="text/xml", headers={"etag": '"0"'})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", take_all)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sink = store.sink(endpoint_url=f"http://127.0.0.1:{runner.addresses[0][1]}")
    findings = await sink.check()
    await sink.close()
    await runner.cleanup()
    assert [(finding.level, "If-None-Match" in finding.text) for finding in findings] == [("error", True)]


async def test_a_role_is_assumed_with_its_external_id(store: Store, moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def sts(request: web.Request) -> web.Response:
        body = await request.read()
        asked.append(body.decode())
        async with aiohttp.ClientSession() as session, session.post(moto, data=body, headers=request.headers) as answer:
            return web.Response(body=await answer.read(), content_type="text/xml")

    app = web.Application()
    app.router.add_post("/", sts)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{runner.addresses[0][1]}")
    role = "arn:aws:iam::123456789012:role/datastreamer"
    sink = store.sink(role_arn=role, external_id="org-1825")
    assert outcomes(await sink.write(delivery(0, 3))) == {("delivered", "")}
    await sink.write(delivery(3, 5))
    await sink.close()
    await runner.cleanup()
    assert len(asked) == 1
    assert "ExternalId=org-1825" in asked[0]
    assert "RoleSessionName=sluice-s3-fin" in asked[0]
    assert "Credential=test/" not in store.headers[-1]["authorization"]


async def test_no_credentials_come_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    sink = store.sink(access_key_id=None, secret_access_key=None)
    assert await sink.write(delivery(0, 1)) == [Verdict("again", "credentials")]
    assert [finding.level for finding in await sink.check()] == ["error"]
    await sink.close()


def test_csv_of_a_subject_without_columns_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="columns"):
        S3Sink(S3Config(bucket="abc", format="csv"), "s", load("sim"))


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        ({"bucket": "s3://bucket/x"}, "without s3://"),
        ({"bucket": "Upper"}, "3-63"),
        ({"prefix": "a\nb"}, "printable"),
        ({"prefix": "x" * 513}, "512"),
        ({"format": "xml"}, "'json', 'csv', 'avro' or 'parquet'"),
        ({"compression": "brotli"}, "'none', 'gzip' or 'zstd'"),
        ({"rotate": {"seconds": 0}}, "greater than 0"),
        ({"rotate": {"records": 0}}, "greater than or equal to 1"),
        ({"rotate": {"megabytes": 5000}}, "less than or equal to 1024"),
        ({"rotate": {"minutes": 1}}, "Extra inputs"),
        ({"secret_access_key": "hunter2"}, "go together"),
    ],
)
def test_a_wrong_config_says_what_to_do_and_tells_no_secret(wrong: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ValidationError) as caught:
        S3Config.model_validate({"bucket": "bucket", **wrong})
    assert remedy in str(caught.value)
    assert "hunter2" not in str(caught.value)
