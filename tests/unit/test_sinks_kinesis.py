"""The Kinesis sink: the service's limits, partial failures by index, and the order of records of one key."""

import asyncio
import base64
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sinks.contract import Delivery, Outgoing, Verdict
from sinks.kinesis import (
    CALL_BYTES,
    CALL_RECORDS,
    RECORD_BYTES,
    KinesisConfig,
    KinesisSink,
    _calls,
    _Entry,
    _partition_key,
)

THROTTLED = "ProvisionedThroughputExceededException"


class FakeKinesis:
    """PutRecords on 127.0.0.1, strict about the service's limits (moto is not), failing as `fail` says."""

    def __init__(self) -> None:
        self.calls: list[list[tuple[str, bytes]]] = []
        self.taken: list[tuple[str, bytes]] = []
        self.fail: Callable[[int, str, bytes], str] = lambda call, key, data: ""
        self.whole: Callable[[int], tuple[int, str] | None] = lambda call: None
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        asked = json.loads(await request.read())
        if request.headers["x-amz-target"].endswith("DescribeStreamSummary"):
            return web.json_response({"__type": "ResourceNotFoundException"}, status=400)
        records = [(record["PartitionKey"], base64.b64decode(record["Data"])) for record in asked["Records"]]
        number = len(self.calls)
        self.calls.append(records)
        sizes = [len(data) + len(key.encode()) for key, data in records]
        keys_fit = all(1 <= len(key) <= 256 for key, _ in records)
        if not (1 <= len(records) <= 500 and max(sizes) <= 1048576 and sum(sizes) <= 5242880 and keys_fit):
            return web.json_response({"__type": "ValidationException", "message": "limits"}, status=400)
        if fault := self.whole(number):
            return web.json_response({"__type": fault[1]}, status=fault[0])
        results: list[dict[str, str]] = []
        for key, data in records:
            if error := self.fail(number, key, data):
                results.append({"ErrorCode": error, "ErrorMessage": "no"})
            else:
                results.append({"SequenceNumber": str(len(self.taken)), "ShardId": "shardId-0"})
                self.taken.append((key, data))
        failed = sum("ErrorCode" in result for result in results)
        return web.json_response({"FailedRecordCount": failed, "Records": results})

    def taken_ids(self) -> list[str]:
        return [json.loads(data)["sluice_id"] for _, data in self.taken]


@asynccontextmanager
async def serving() -> AsyncIterator[FakeKinesis]:
    fake = FakeKinesis()
    app = web.Application(client_max_size=2**26)
    app.router.add_post("/", fake.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield fake
    await runner.cleanup()


@pytest.fixture
async def kinesis() -> AsyncIterator[FakeKinesis]:
    async with serving() as fake:
        yield fake


def sink_at(url: str, **more: Any) -> KinesisSink:
    settings = {"stream": "events", "endpoint_url": url, "access_key_id": "test", "secret_access_key": "test", **more}
    return KinesisSink(KinesisConfig.model_validate(settings), "kinesis-events")


def delivery(values: list[bytes]) -> Delivery:
    records = [Outgoing(i, 0, f"raw.events/2/{i}", value) for i, value in enumerate(values)]
    return Delivery("events.success", 2, 0, len(values), records)


def of_keys(*keys: object) -> Delivery:
    return delivery([json.dumps({"endpoint": {"id": key}, "n": n}).encode() for n, key in enumerate(keys)])


async def write(kinesis: FakeKinesis, what: Delivery, **more: Any) -> list[Verdict]:
    sink = sink_at(kinesis.url, **more)
    try:
        return list(await sink.write(what))
    finally:
        await sink.close()


async def test_the_body_begins_with_the_origin_and_is_else_untouched(kinesis: FakeKinesis) -> None:
    await write(kinesis, delivery([b'{"id":1, "x" : [1.50]}', b"{}"]))
    await write(kinesis, delivery([b'{"id":1}']), id_field=None)
    assert [data for _, data in kinesis.taken] == [
        b'{"sluice_id":"raw.events/2/0","id":1, "x" : [1.50]}',
        b'{"sluice_id":"raw.events/2/1"}',
        b'{"id":1}',
    ]


async def test_calls_hold_500_records(kinesis: FakeKinesis) -> None:
    verdicts = await write(kinesis, delivery([b'{"id":%d}' % i for i in range(1201)]))
    assert {verdict.outcome for verdict in verdicts} == {"delivered"}
    assert [len(call) for call in kinesis.calls] == [500, 500, 201]
    assert kinesis.taken_ids() == [f"raw.events/2/{i}" for i in range(1201)]


async def test_calls_hold_five_mebibytes_with_their_keys(kinesis: FakeKinesis) -> None:
    verdicts = await write(kinesis, delivery([b'{"pad":"%b"}' % (b"x" * 600_000)] * 20))
    assert {verdict.outcome for verdict in verdicts} == {"delivered"}
    assert [len(call) for call in kinesis.calls] == [8, 8, 4]


@pytest.mark.parametrize(("more", "outcome"), [(-1, "delivered"), (0, "delivered"), (1, "refused")])
async def test_a_record_at_the_limit_with_its_key(kinesis: FakeKinesis, more: int, outcome: str) -> None:
    frame = len(b'{"sluice_id":"raw.events/2/1","pad":""}') + len("raw.events/2/1")
    values = [b"{}", b'{"pad":"%b"}' % (b"x" * (RECORD_BYTES - frame + more)), b"{}"]
    verdicts = await write(kinesis, delivery(values))
    assert [verdict.outcome for verdict in verdicts] == ["delivered", outcome, "delivered"]
    if outcome == "refused":
        assert verdicts[1].reason == "too-large"


@pytest.mark.parametrize("code", [THROTTLED, "InternalFailure", "KMSThrottlingException", "SomethingNew"])
async def test_partial_failures_are_matched_by_index(kinesis: FakeKinesis, code: str) -> None:
    kinesis.fail = lambda call, key, data: code if key in ("e2", "e5") else ""
    verdicts = await write(kinesis, of_keys(*(f"e{i}" for i in range(7))), partition_key=".endpoint.id")
    assert [(v.outcome, v.reason) for v in verdicts] == [
        ("again", code) if i in (2, 5) else ("delivered", "") for i in range(7)
    ]


async def test_nothing_of_a_key_follows_a_failed_record_in_a_later_call(kinesis: FakeKinesis) -> None:
    kinesis.fail = lambda call, key, data: THROTTLED if call == 0 and key == "hot" else ""
    keys = ["hot"] + [f"e{i}" for i in range(499)] + ["hot", "cold", "hot"]
    verdicts = await write(kinesis, of_keys(*keys), partition_key=".endpoint.id")
    assert [(i, v.reason) for i, v in enumerate(verdicts) if v.outcome != "delivered"] == [
        (0, THROTTLED),
        (500, "behind"),
        (502, "behind"),
    ]
    assert len(kinesis.taken) == 500


@given(
    keys=st.lists(st.sampled_from("abc"), max_size=40),
    faults=st.sets(st.tuples(st.integers(0, 60), st.sampled_from("abc"))),
)
@settings(max_examples=15)
def test_ordered_keeps_the_order_of_every_key_under_any_failures(keys: list[str], faults: set[tuple[int, str]]) -> None:
    async def run() -> None:
        async with serving() as kinesis:
            kinesis.fail = lambda call, key, data: THROTTLED if (call, key) in faults else ""
            sink = sink_at(kinesis.url, partition_key=".endpoint.id", ordered=True)
            waiting = of_keys(*keys)
            while waiting.records:
                verdicts = await sink.write(waiting)
                again = [r for r, v in zip(waiting.records, verdicts, strict=True) if v.outcome == "again"]
                waiting = Delivery("events.success", 2, 0, len(keys), again)
            await sink.close()
            taken: dict[str, list[int]] = defaultdict(list)
            for key, data in kinesis.taken:
                taken[key].append(json.loads(data)["n"])
            expected: dict[str, list[int]] = defaultdict(list)
            for n, key in enumerate(keys):
                expected[key].append(n)
            assert taken == expected

    asyncio.run(run())


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, THROTTLED),
        (400, "ResourceNotFoundException"),
        (400, "AccessDeniedException"),
        (400, "ExpiredTokenException"),
        (400, "KMSThrottlingException"),
        (400, "ValidationException"),
        (500, "InternalFailure"),
        (503, "ServiceUnavailable"),
    ],
)
async def test_a_call_that_fails_as_a_whole_ends_the_write(kinesis: FakeKinesis, status: int, code: str) -> None:
    kinesis.whole = lambda call: (status, code) if call == 1 else None
    verdicts = await write(kinesis, delivery([b"{}"] * 1600))
    assert [(v.outcome, v.reason) for v in verdicts] == (
        [("delivered", "")] * 500 + [("again", code)] * 500 + [("again", "behind")] * 600
    )
    assert len(kinesis.calls) == 2


async def test_nobody_there_comes_again() -> None:
    sink = sink_at("http://127.0.0.1:1")
    assert await sink.write(delivery([b"{}"])) == [Verdict("again", "unreachable")]
    assert [finding.level for finding in await sink.check()] == ["unavailable"]
    await sink.close()


async def test_no_answer_in_time_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sinks.aws.READ_SECONDS", 0.2)
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)  # accepts, and never answers
    sink = sink_at(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert await sink.write(delivery([b"{}"])) == [Verdict("again", "timeout")]
    await sink.close()
    server.close()


async def test_no_records_no_call(kinesis: FakeKinesis) -> None:
    assert await write(kinesis, delivery([])) == []
    assert kinesis.calls == []


async def test_a_missing_stream_is_found_by_check(kinesis: FakeKinesis) -> None:
    sink = sink_at(kinesis.url)
    findings = await sink.check()
    await sink.close()
    assert [(f.level, "does not exist" in f.text, bool(f.remedy)) for f in findings] == [("unavailable", True, True)]


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (b'{"endpoint":{"id":17,"name":"x"},"z":1}', "17"),
        (b'{"endpoint":{"id":"seventeen"}}', "seventeen"),
        (b'{"endpoint":{"id":null}}', "raw/0/1"),
        (b'{"endpoint":{"id":""}}', "raw/0/1"),
        (b'{"endpoint":{"id":{"a":1}}}', "raw/0/1"),
        (b'{"endpoint":{}}', "raw/0/1"),
        (b'{"endpoint":null}', "raw/0/1"),
        (b'{"endpoint":"text"}', "raw/0/1"),
        (b"{}", "raw/0/1"),
        (b'{"endpoint":{"id":"%b"}}' % (b"x" * 256), "x" * 256),
    ],
)
def test_partition_keys(value: bytes, key: str) -> None:
    assert _partition_key(".endpoint.id")(Outgoing(1, 0, "raw/0/1", value)) == key
    assert _partition_key(None)(Outgoing(1, 0, "raw/0/1", value)) == "raw/0/1"


def test_a_partition_key_that_is_too_long_becomes_its_hash() -> None:
    keys = {_partition_key(".class")(Outgoing(1, 0, "r/0/1", b'{"class":"%b"}' % (b"x" * n))) for n in (257, 300)}
    assert {len(key) for key in keys} == {64}
    assert len(keys) == 2


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, RECORD_BYTES)), max_size=60), st.booleans())
def test_calls_never_pass_a_limit_nor_lose_or_reorder(parts: list[tuple[str, int]], one_per_key: bool) -> None:
    entries = [_Entry(n, key, b"", size) for n, (key, size) in enumerate(parts)]
    calls = list(_calls(entries, one_per_key))
    for call in calls:
        assert 1 <= len(call) <= CALL_RECORDS
        assert sum(entry.size for entry in call) <= CALL_BYTES
        assert not one_per_key or len({entry.key for entry in call}) == len(call)
    sent = [entry for call in calls for entry in call]
    assert sorted(sent) == entries
    for key in "abcdef":
        assert [e for e in sent if e.key == key] == [e for e in entries if e.key == key]


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        ({"stream": "arn:aws:kinesis:eu-west-1:1:stream/x"}, "not its ARN"),
        ({"partition_key": "endpoint.id"}, "write it as .endpoint.id"),
        ({"id_field": ""}, "null to leave it out"),
        ({"access_key_id": "AKIAhunter2"}, "go together"),
        ({"secret_access_key": "hunter2"}, "go together"),
        ({"external_id": "hunter2"}, "role_arn"),
        ({"endpoint_url": "https://me:hunter2@host"}, "without credentials"),
        ({"stream_name": "hunter2"}, "Extra inputs"),
    ],
)
def test_a_wrong_config_says_what_to_do_and_tells_no_secret(wrong: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ValidationError) as caught:
        KinesisConfig.model_validate({"stream": "events", **wrong})
    assert remedy in str(caught.value)
    assert "hunter2" not in str(caught.value)
