"""The network between a worker and a broker, as a TCP proxy that can be cut, frozen, or made to lose the answers."""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Callable
from typing import Literal

Mode = Literal["pass", "blackhole", "swallow"]
"""blackhole: nothing gets through, connections stay open. swallow: requests arrive, their answers are lost."""

PRODUCE, OFFSET_COMMIT = 0, 8
"""Kafka's numbers for what changes something on the broker (kafka.apache.org/protocol#protocol_api_keys)."""


class Frames:
    """Follows one direction of a connection, and says of each request or answer what its first bytes are, behind its length."""

    def __init__(self, begins: Callable[[bytes], None]) -> None:
        self._begins = begins
        self._head = b""
        self._left = 0

    def pass_on(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
                continue
            step = min(6 - len(self._head), len(data) - at)
            self._head += data[at : at + step]
            at += step
            if len(self._head) == 6:
                self._left = int.from_bytes(self._head[:4], "big") - 2
                self._begins(self._head[4:])
                self._head = b""


class Proxy:
    """Listens on `port` of 127.0.0.1 and passes everything on to `upstream` there. An async context manager."""

    def __init__(self, port: int, upstream: int) -> None:
        self.port, self._upstream = port, upstream
        self._mode: Mode = "pass"
        self._waits_for: int | None = None
        self._changed = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.held = 0
        """How many pieces of traffic were held up: a blackhole that held none has shown nothing."""
        self.lost: Counter[int] = Counter()
        """How many answers were lost, by the kind of request that they answer: the broker had done what was asked."""

    def set(self, mode: Mode) -> None:
        """From now on. Connections whose answers were swallowed are cut when it ends: their streams have holes."""
        if self._mode == "swallow" and mode != "swallow":
            self.cut()
        self._mode = mode
        self._changed.set()
        self._changed = asyncio.Event()

    def swallow_from(self, kind: int) -> None:
        """Swallow from when the next request of this kind has come, so that its answer is lost."""
        self._waits_for = kind

    def cut(self) -> None:
        """Reset every connection."""
        for writer in list(self._open):
            writer.transport.abort()

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, up_writer}
        asked: deque[int] = deque()  # a broker answers the requests of a connection in their order

        def asks(head: bytes) -> None:
            asked.append(int.from_bytes(head, "big"))
            if asked[-1] == self._waits_for:
                self._waits_for = None
                self.set("swallow")

        requests = Frames(asks)
        answers = Frames(lambda _: self._answers(asked.popleft()))
        for task in (
            asyncio.create_task(self._pump(reader, up_writer, requests, answers=False)),
            asyncio.create_task(self._pump(up_reader, writer, answers, answers=True)),
        ):
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _answers(self, kind: int) -> None:
        if self._mode == "swallow":
            self.lost[kind] += 1

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, frames: Frames, *, answers: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if self._mode == "blackhole":
                    self.held += 1
                    while self._mode == "blackhole":
                        await self._changed.wait()
                frames.pass_on(data)
                if self._mode == "swallow" and answers:
                    continue
                writer.write(data)
                await writer.drain()
        self._open.discard(writer)
        writer.close()
