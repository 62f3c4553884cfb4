"""The HTTP sink: what is sent, in which order, and what each answer means for each record."""

import asyncio
import base64
import gzip
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sinks.contract import Delivery, Outgoing, Verdict
from sinks.http import HttpConfig, HttpSink
from sinks.http_answer import verdict, wait

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef01234567").decode()
Answer = Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]


class Receiver:
    """An endpoint on 127.0.0.1 that keeps every request and answers as `answer` says."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.connections: set[Any] = set()
        self.answer: Answer | int = 200
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests.append(({name.lower(): value for name, value in request.headers.items()}, body))
        self.connections.add(request.transport)
        if isinstance(self.answer, int):
            return web.Response(status=self.answer)
        return await self.answer(request, body)

    def ids(self) -> list[list[str]]:
        """The origins in each request."""
        bodies = [json.loads(body) for _, body in self.requests]
        return [[record["sluice_id"] for record in (body if isinstance(body, list) else [body])] for body in bodies]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application(client_max_size=2**26)
    app.router.add_route("*", "/{path:.*}", receiver.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield receiver
    await runner.cleanup()


def config(url: str, **more: Any) -> HttpConfig:
    return HttpConfig.model_validate({"url": url, "allow_http": True, "allow_private": ["127.0.0.0/8"], **more})


def delivery(count: int, pad: int = 0) -> Delivery:
    records = [
        Outgoing(i, 1_700_000_000_000 + i, f"raw.usage/3/{i}", b'{"id":%d,"pad":"%b"}' % (i, b"x" * pad))
        for i in range(count)
    ]
    return Delivery("usage.success", 3, 0, count, records)


async def write(url: str, what: Delivery, **more: Any) -> list[Verdict]:
    sink = HttpSink(config(url, **more), "http-usage")
    try:
        return list(await sink.write(what))
    finally:
        await sink.close()


def outcomes(verdicts: list[Verdict]) -> list[str]:
    return [verdict.outcome for verdict in verdicts]


async def test_bulk_is_an_array_of_at_most_size_with_the_origin_first(receiver: Receiver) -> None:
    verdicts = await write(receiver.url, delivery(7), size=3)
    assert outcomes(verdicts) == ["delivered"] * 7
    assert [len(json.loads(body)) for _, body in receiver.requests] == [3, 3, 1]
    assert receiver.requests[0][1].startswith(b'[{"sluice_id":"raw.usage/3/0","id":0,')


async def test_rest_is_one_object_a_request_in_order_over_one_connection(receiver: Receiver) -> None:
    verdicts = await write(receiver.url, delivery(20), mode="rest", id_field="event_id", method="PUT")
    assert outcomes(verdicts) == ["delivered"] * 20
    assert [json.loads(body)["id"] for _, body in receiver.requests] == list(range(20))
    assert receiver.requests[5][1].startswith(b'{"event_id":"raw.usage/3/5","id":5,')
    assert len(receiver.connections) == 1


async def test_id_field_null_sends_the_record_as_it_is(receiver: Receiver) -> None:
    what = delivery(1)
    await write(receiver.url, what, mode="rest", id_field=None)
    assert receiver.requests[0][1] == what.records[0].value


async def test_a_body_of_megabytes_arrives_whole(receiver: Receiver) -> None:
    verdicts = await write(receiver.url, delivery(30, pad=100_000))
    assert outcomes(verdicts) == ["delivered"] * 30
    assert sum(len(record["pad"]) for record in json.loads(receiver.requests[0][1])) == 3_000_000


async def test_the_signature_verifies_as_standard_webhooks_say(receiver: Receiver) -> None:
    await write(receiver.url, delivery(3), secret=SECRET, headers={"X-Api-Key": "s3cr3t-value"})
    headers, body = receiver.requests[0]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(b"0123456789abcdef01234567", signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 5
    assert "." not in headers["webhook-id"]
    assert headers["content-type"] == "application/json"
    assert headers["x-api-key"] == "s3cr3t-value"


async def test_webhook_id_is_stable_over_retries_and_differs_between_requests(receiver: Receiver) -> None:
    for _ in range(2):
        await write(receiver.url, delivery(4), size=2)
    ids = [headers["webhook-id"] for headers, _ in receiver.requests]
    assert ids[:2] == ids[2:]
    assert ids[0] != ids[1]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, ("delivered", "")),
        (202, ("delivered", "")),
        (204, ("delivered", "")),
        (302, ("again", "http-302")),
        (307, ("again", "http-307")),
        (400, ("refused", "rejected")),
        (401, ("again", "http-401")),
        (403, ("again", "http-403")),
        (404, ("again", "http-404")),
        (408, ("again", "http-408")),
        (409, ("refused", "rejected")),
        (410, ("refused", "rejected")),
        (413, ("refused", "too-large")),
        (422, ("refused", "rejected")),
        (425, ("again", "http-425")),
        (429, ("again", "http-429")),
        (500, ("again", "http-500")),
        (501, ("refused", "rejected")),
        (502, ("again", "http-502")),
        (503, ("again", "http-503")),
        (505, ("refused", "rejected")),
        (599, ("again", "http-599")),
    ],
)
@pytest.mark.parametrize(("mode", "count"), [("rest", 1), ("bulk", 1), ("bulk", 4)])
async def test_fault_table(receiver: Receiver, status: int, expected: tuple[str, str], mode: str, count: int) -> None:
    receiver.answer = status
    verdicts = await write(receiver.url, delivery(count), mode=mode)
    assert {(verdict.outcome, verdict.reason) for verdict in verdicts} == {expected}
    assert len(verdicts) == count


async def test_redirects_are_not_followed(receiver: Receiver) -> None:
    async def away(request: web.Request, _: bytes) -> web.Response:
        return web.Response(status=307, headers={"location": receiver.url + "/elsewhere"})

    receiver.answer = away
    assert outcomes(await write(receiver.url, delivery(1))) == ["again"]
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("bad", [{0}, {9}, {3, 4}, {0, 5, 9}, set(range(10))])
async def test_a_refused_bulk_is_halved_until_the_bad_records_stand_alone(receiver: Receiver, bad: set[int]) -> None:
    accepted: list[int] = []

    async def judge(_: web.Request, body: bytes) -> web.Response:
        ids = [record["id"] for record in json.loads(body)]
        if bad & set(ids):
            return web.Response(status=422)
        accepted.extend(ids)
        return web.Response()

    receiver.answer = judge
    verdicts = await write(receiver.url, delivery(10))
    assert outcomes(verdicts) == ["refused" if i in bad else "delivered" for i in range(10)]
    assert accepted == [i for i in range(10) if i not in bad]


async def test_what_fails_for_now_ends_the_write_so_that_nothing_overtakes(receiver: Receiver) -> None:
    async def third_fails(_: web.Request, body: bytes) -> web.Response:
        return web.Response(status=503 if json.loads(body)["id"] == 2 else 200, headers={"retry-after": "7"})

    receiver.answer = third_fails
    verdicts = await write(receiver.url, delivery(5), mode="rest")
    assert [(v.outcome, v.reason, v.after) for v in verdicts] == [
        ("delivered", "", None),
        ("delivered", "", None),
        ("again", "http-503", 7.0),
        ("again", "behind", 7.0),
        ("again", "behind", 7.0),
    ]
    assert len(receiver.requests) == 3


async def test_a_slow_receiver_cannot_hold_a_write_for_ever(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sinks.http.WRITE_SECONDS", -1)
    verdicts = await write(receiver.url, delivery(5), mode="rest")
    assert outcomes(verdicts) == ["delivered", "again", "again", "again", "again"]


async def test_no_answer_in_time_comes_again(receiver: Receiver) -> None:
    release = asyncio.Event()

    async def hang(_: web.Request, __: bytes) -> web.Response:
        await release.wait()
        return web.Response()

    receiver.answer = hang
    verdicts = await write(receiver.url, delivery(2), timeout_seconds=0.2)
    assert {(v.outcome, v.reason) for v in verdicts} == {("again", "timeout")}
    release.set()


async def test_a_connection_lost_after_the_request_comes_again(receiver: Receiver) -> None:
    async def lost(request: web.Request, _: bytes) -> web.Response:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    receiver.answer = lost
    assert await write(receiver.url, delivery(1)) == [Verdict("again", "connection-lost")]


async def test_nobody_there_comes_again() -> None:
    assert await write("http://127.0.0.1:1/x", delivery(1)) == [Verdict("again", "unreachable")]


async def test_an_accepted_bulk_is_delivered_however_its_answer_goes_on(receiver: Receiver) -> None:
    async def bomb(request: web.Request, _: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-encoding": "gzip"})
        await response.prepare(request)
        packed = gzip.compress(b"x" * 50_000_000)
        with_garbage = packed + b"no gzip" * 100_000
        for at in range(0, len(with_garbage), 65536):
            try:
                await response.write(with_garbage[at : at + 65536])
            except ConnectionError:
                break
        assert request.transport is not None
        request.transport.abort()
        return response

    receiver.answer = bomb
    assert outcomes(await write(receiver.url, delivery(2))) == ["delivered"] * 2


async def test_proxies_of_the_environment_are_ignored(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    assert outcomes(await write(receiver.url, delivery(1))) == ["delivered"]


NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("120", 120.0),
        (" 0 ", 0.0),
        ("99999999999999999999", 3600.0),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(days=3), usegmt=True), 0.0),
        (format_datetime(NOW + timedelta(days=30), usegmt=True), 3600.0),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
    ],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert wait(header, NOW) == seconds


@given(st.integers(100, 999), st.text())
def test_every_answer_has_a_verdict(status: int, header: str) -> None:
    found = verdict(status, header, NOW)
    assert (found.outcome == "delivered") == (200 <= status < 300)
    assert found.after is None or 0 <= found.after <= 3600


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        ({"url": "http://example.com/x"}, "allow_http"),
        ({"url": "ftp://example.com/x"}, "https://HOST"),
        ({"url": "example.com"}, "https://HOST"),
        ({"url": "https://user:hunter2@example.com/"}, "Authorization"),
        ({"url": "https://example.com:99999/"}, "https://HOST"),
        ({"url": "https://example.com:8443/", "allow_ports": [443]}, "allow_ports"),
        ({"url": "https://10.0.0.1/"}, "allow_private"),
        ({"url": "https://[::1]/"}, "allow_private"),
        ({"url": "https://[::ffff:10.0.0.1]/"}, "allow_private"),
        ({"url": "https://2130706433/"}, "allow_private"),
        ({"url": "https://0x7f.1/"}, "allow_private"),
        ({"size": 0}, "greater than or equal to 1"),
        ({"size": 10_001}, "less than or equal to 10000"),
        ({"headers": {"webhook-id": "hunter2"}}, "leave it out"),
        ({"headers": {"Authorization: hunter2": "x"}}, "begins with 'Authorization'"),
        ({"headers": {"X": "hunter2\r\nHost: y"}}, "one line"),
        ({"secret": "whsec_hunter2!!"}, "copy it again"),
        ({"secret": "hunter2"}, "24 or more"),
        ({"sise": 3}, "Extra inputs"),
    ],
)
def test_a_wrong_config_says_what_to_do_and_tells_no_secret(wrong: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ValidationError) as caught:
        HttpConfig.model_validate({"url": "https://example.com/hook", **wrong})
    assert remedy in str(caught.value)
    assert "hunter2" not in str(caught.value)
