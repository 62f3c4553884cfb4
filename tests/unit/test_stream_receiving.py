"""Promise: however an answer is cut on its way, it comes out whole, in order, and nothing waits for what is there."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest
from aiokafka import conn
from aiokafka.errors import KafkaConnectionError
from hypothesis import given
from hypothesis import strategies as st

from stream.receiving import Pieces, join_answers_once

LIMIT = 8


class Transport:
    """Counts how often reading is paused and goes on."""

    def __init__(self) -> None:
        self.paused = False
        self.pauses = 0

    def pause_reading(self) -> None:
        assert not self.paused
        self.paused, self.pauses = True, self.pauses + 1

    def resume_reading(self) -> None:
        assert self.paused
        self.paused = False


def reader() -> tuple[Pieces, Transport]:
    made, transport = asyncio.StreamReader(limit=LIMIT), Transport()
    made.set_transport(cast(asyncio.Transport, transport))
    Pieces.instead_of(made)
    return cast(Pieces, made), transport


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=12), st.lists(st.integers(0, 50), max_size=12), st.data())
def test_what_is_read_is_what_came(pieces: Sequence[bytes], sizes: Sequence[int], data: st.DataObject) -> None:
    async def run() -> None:
        made, transport = reader()
        rest, waiting = b"".join(pieces), list(pieces)
        for size in sizes:
            reading = asyncio.ensure_future(made.readexactly(size))
            await asyncio.sleep(0)
            while waiting and (not reading.done() or data.draw(st.booleans())):
                if transport.paused:
                    assert made._held > LIMIT
                    assert reading.done(), "paused while somebody waits for more"
                    break
                made.feed_data(waiting.pop(0))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            if len(rest) < size:
                made.feed_eof()
                with pytest.raises(asyncio.IncompleteReadError) as error:
                    await reading
                assert error.value.partial == rest
                assert made.at_eof()
                return
            read = await asyncio.wait_for(reading, 1)
            assert type(read) is bytes
            assert read == rest[:size]
            rest = rest[size:]

    asyncio.run(run())


async def test_who_waits_is_woken_once_all_is_there_and_reading_is_not_paused_before() -> None:
    made, transport = reader()
    reading = asyncio.create_task(made.readexactly(100))
    await asyncio.sleep(0)
    for _ in range(9):
        made.feed_data(b"x" * 10)
        assert made._waiter is not None
        assert not made._waiter.done()
    assert transport.pauses == 0
    made.feed_data(b"x" * 200)
    assert transport.paused
    assert await reading == b"x" * 100
    assert transport.paused, "there is more than the limit"
    assert await made.readexactly(185) == b"x" * 185
    assert not transport.paused


async def test_a_negative_size_is_an_error_as_with_asyncio_and_no_endless_loop() -> None:
    """What another protocol answers is read as a size: aiokafka closes the connection."""
    made, _ = reader()
    made.feed_data(b"x" * 10)
    with pytest.raises(ValueError, match="less than zero"):
        await made.readexactly(-1)
    assert await made.readexactly(10) == b"x" * 10


async def test_who_gives_up_waiting_leaves_nothing_behind() -> None:
    made, transport = reader()
    reading = asyncio.create_task(made.readexactly(1000))
    await asyncio.sleep(0)
    made.feed_data(b"x" * 10)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    made.feed_data(b"y" * 10)
    assert transport.paused, "nobody waits for a thousand bytes any more"
    assert await made.readexactly(20) == b"x" * 10 + b"y" * 10


async def test_connections_of_aiokafka_read_so(unused_tcp_port: int) -> None:
    """A peer that answers what is no answer: the connection is given up at once."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\xff\xfe no broker")
        await writer.drain()

    join_answers_once()
    join_answers_once()
    server = await asyncio.start_server(answer, "127.0.0.1", unused_tcp_port)
    made = conn.AIOKafkaConnection("127.0.0.1", unused_tcp_port, request_timeout_ms=5000)
    async with server, asyncio.timeout(5):
        with pytest.raises(KafkaConnectionError):
            await made.connect()
    made.close()


async def test_the_end_of_a_connection_ends_the_wait() -> None:
    made, _ = reader()
    reading = asyncio.create_task(made.readexactly(2))
    await asyncio.sleep(0)
    made.set_exception(ConnectionResetError())
    with pytest.raises(ConnectionResetError):
        await reading
    with pytest.raises(ConnectionResetError):
        await made.readexactly(1)

    made, _ = reader()
    made.feed_data(b"ab")
    made.feed_eof()
    assert not made.at_eof()
    assert await made.readexactly(2) == b"ab"
    assert cast(Any, made).at_eof()
