"""A URL cannot lead a delivery into our own network, whatever it or its name server says."""

import asyncio
import ipaddress
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinks.contract import Delivery, Outgoing
from sinks.http import HttpConfig, HttpSink
from sinks.http_guard import Blocked, literal, may_reach, resolve

ONE = Delivery("usage.success", 0, 0, 1, [Outgoing(0, 0, "raw.usage/0/0", b'{"id":1}')])


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.1.1",
        "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254",
        "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1", "2002:7f00:1::",
        "::7f00:1", "2001:db8::1", "2001::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    assert not may_reach(ipaddress.ip_address(address), [])


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.216.34", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_addresses_are_reached(address: str) -> None:
    assert may_reach(ipaddress.ip_address(address), [])


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_alike_in_every_form(address: ipaddress.IPv4Address) -> None:
    forms = [
        ipaddress.ip_address(f"::ffff:{address}"),
        ipaddress.IPv6Address(int(ipaddress.IPv6Address("64:ff9b::")) | int(address)),
        ipaddress.IPv6Address((0x2002 << 112) | (int(address) << 80)),
    ]
    assert {may_reach(form, []) for form in forms} == {may_reach(address, [])}


def test_allowed_networks_are_reached_and_no_more() -> None:
    allowed = [ipaddress.ip_network("10.1.0.0/16")]
    assert may_reach(ipaddress.ip_address("10.1.9.9"), allowed)
    assert may_reach(ipaddress.ip_address("::ffff:10.1.9.9"), allowed)
    assert not may_reach(ipaddress.ip_address("10.2.0.1"), allowed)


@pytest.mark.parametrize("text", ["127.1", "0x7f000001", "2130706433", "0177.0.0.1", "[::1]", "::1"])
def test_every_way_to_write_an_address_is_known_as_one(text: str) -> None:
    found = literal(text)
    assert found is not None
    assert found.is_loopback
    assert literal("example.com") is None


def names(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Have every name resolve to the first of `answers`, then to the next, as a rebinding name server does."""
    asked: list[str] = []
    waiting = list(answers)

    async def getaddrinfo(_: Any, host: str, port: int, **__: Any) -> list[tuple[Any, ...]]:
        asked.append(host)
        found = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return asked


async def test_one_bad_address_among_good_ones_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, ["93.184.216.34", "127.0.0.1"])
    with pytest.raises(Blocked):
        await resolve("sneaky.example", 443, [])


async def test_the_sink_connects_to_nothing_that_the_guard_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    connected: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.append(await reader.readline())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    asked = names(monkeypatch, ["127.0.0.1"])
    for host in ("sneaky.example", "localhost", "metadata.google.internal"):
        sink = HttpSink(HttpConfig(url=f"http://{host}:{port}/x", allow_http=True), "s")
        verdicts = await sink.write(ONE)
        findings = await sink.check()
        await sink.close()
        assert [(v.outcome, v.reason) for v in verdicts] == [("again", "blocked-address")]
        assert [f.level for f in findings] == ["error"]
        assert "allow_private" in findings[0].remedy
    server.close()
    assert connected == []
    assert asked  # the guard did the looking up


async def test_a_name_that_rebinds_is_judged_by_the_address_that_is_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reached: list[Any] = []

    async def sock_connect(_: Any, __: Any, address: Any) -> None:
        reached.append(address)
        raise OSError("no network in tests")

    monkeypatch.setattr(asyncio.selector_events.BaseSelectorEventLoop, "sock_connect", sock_connect)
    names(monkeypatch, ["93.184.216.34"], ["127.0.0.1"])
    sink = HttpSink(HttpConfig(url="https://rebinding.example/x"), "s")
    first = await sink.write(ONE)
    second = await sink.write(ONE)
    await sink.close()
    assert first[0].reason == "unreachable"
    assert second[0].outcome == "again"
    assert {address[0] for address in reached} == {"93.184.216.34"}


async def test_a_name_server_that_hangs_ends_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr("sinks.http_guard.RESOLVE_SECONDS", 0.05)
    with pytest.raises(OSError, match="not resolved"):
        await resolve("slow.example", 443, [])
