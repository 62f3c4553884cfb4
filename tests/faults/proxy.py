"""The network between a worker and a broker, as a TCP proxy that can be cut, frozen, or made to lose the answers."""

import asyncio
import contextlib
from typing import Literal

Mode = Literal["pass", "blackhole", "swallow"]
"""blackhole: nothing gets through, connections stay open. swallow: requests arrive, their answers are lost."""


class Proxy:
    """Listens on `port` of 127.0.0.1 and passes everything on to `upstream` there. An async context manager."""

    def __init__(self, port: int, upstream: int) -> None:
        self.port, self._upstream = port, upstream
        self._mode: Mode = "pass"
        self._changed = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.held = 0
        """How many pieces of traffic were held up: a blackhole that held none has shown nothing."""
        self.swallowed = 0
        """How many bytes of answers were lost."""

    def set(self, mode: Mode) -> None:
        """From now on. Connections whose answers were swallowed are cut when it ends: their streams have holes."""
        if self._mode == "swallow" and mode != "swallow":
            self.cut()
        self._mode = mode
        self._changed.set()
        self._changed = asyncio.Event()

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
        for task in (
            asyncio.create_task(self._pump(reader, up_writer, answers=False)),
            asyncio.create_task(self._pump(up_reader, writer, answers=True)),
        ):
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if self._mode == "blackhole":
                    self.held += 1
                    while self._mode == "blackhole":
                        await self._changed.wait()
                if self._mode == "swallow" and answers:
                    self.swallowed += len(data)
                    continue
                writer.write(data)
                await writer.drain()
        self._open.discard(writer)
        writer.close()
