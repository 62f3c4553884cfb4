"""What brokers answer, put together once.

asyncio's reader copies all that comes into one growing buffer, and out of that again what is asked for. An answer to a fetch is
megabytes long: that was a quarter of what reading costs.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka import conn


class Pieces(asyncio.StreamReader):
    """Keeps what comes as it comes, and joins it when it is all there. Of a reader's ways to read it has `readexactly` alone."""

    _eof: bool
    _exception: BaseException | None
    _limit: int
    _paused: bool
    _transport: Any
    _wakeup_waiter: Callable[[], None]
    _wait_for_data: Callable[[str], Awaitable[None]]
    # So far asyncio's own.
    _pieces: deque[bytes | memoryview]
    _held: int
    """Bytes in the pieces."""
    _wanted: int
    """Bytes that somebody waits for: it is not woken before, and the transport is not paused."""

    @classmethod
    def instead_of(cls, reader: asyncio.StreamReader) -> None:
        """Make one of a reader that nothing has come for yet."""
        reader.__class__ = cls
        assert isinstance(reader, Pieces)
        reader._pieces, reader._held, reader._wanted = deque(), 0, 0

    def feed_data(self, data: Any) -> None:
        """Take `data`, bytes; typeshed lets it be any numbers."""
        self._pieces.append(data)
        self._held += len(data)
        if self._held < self._wanted:
            return
        self._wakeup_waiter()
        if self._transport is not None and not self._paused and self._held > 2 * self._limit:
            self._transport.pause_reading()
            self._paused = True

    def at_eof(self) -> bool:
        return self._eof and not self._held

    async def readexactly(self, n: int) -> bytes:
        """The next `n` bytes. Raises IncompleteReadError with what there is when the connection ends before, and ValueError for a
        negative number, which brokers do not send."""
        if n < 0:
            raise ValueError("readexactly size can not be less than zero")
        try:
            await self._until_there(n)
        finally:
            self._wanted = 0
        taken, missing = [], n
        while missing:
            piece = self._pieces.popleft()
            if len(piece) > missing:
                self._pieces.appendleft(memoryview(piece)[missing:])
                piece = memoryview(piece)[:missing]
            taken.append(piece)
            missing -= len(piece)
        self._held -= n
        self._maybe_resume_transport()
        return b"".join(taken)

    async def _until_there(self, n: int) -> None:
        self._wanted = n
        while self._held < n and self._exception is None:
            if self._eof:
                partial = b"".join(self._pieces)
                self._pieces.clear()
                self._held = 0
                raise asyncio.IncompleteReadError(partial, n)
            await self._wait_for_data("readexactly")
        if self._exception is not None:
            raise self._exception

    def _maybe_resume_transport(self) -> None:
        if self._paused and self._held <= self._limit:
            self._paused = False
            self._transport.resume_reading()


class _Protocol(conn.AIOKafkaProtocol):  # type: ignore[misc]  # aiokafka has no types: its class is Any
    def __init__(self, closed: Any, reader: asyncio.StreamReader, **more: Any) -> None:
        Pieces.instead_of(reader)
        super().__init__(closed, reader, **more)


def join_answers_once() -> None:
    """Let every connection to a broker that this process makes from now on read so. Harmless to call again."""
    conn.AIOKafkaProtocol = _Protocol
