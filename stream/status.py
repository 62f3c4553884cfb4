"""What a worker shows to machines over HTTP: /metrics for Prometheus, /live and /ready for probes."""

import logging
from collections.abc import Awaitable, Callable
from typing import Annotated

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from stream.metrics import REGISTRY

log = logging.getLogger(__name__)
PORTS_TRIED = 50


def _host_and_port(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"{text!r} is not host:port; write for example 127.0.0.1:9464")
    return text


class MetricsConfig(BaseModel):
    """The `metrics:` section. Port 0 takes any free port."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    listen: Annotated[str, AfterValidator(_host_and_port)] = Field(
        default="127.0.0.1:9464",
        description="HOST:PORT; a worker takes the next free port if this one is taken, and logs it.",
    )


class StatusServer:
    """Serves the three pages. `ready` and `live` are asked at each request; they must not block."""

    def __init__(
        self, listen: str, ready: Callable[[], bool], live: Callable[[], bool], refresh: Callable[[], None]
    ) -> None:
        """`refresh` is called before metrics are written, to set the gauges."""
        self._host, _, port = listen.rpartition(":")
        self._port = int(port)
        self._ready, self._live, self._refresh = ready, live, refresh
        self.address = ""

    async def start(self) -> None:
        """Listen on the configured port, or the next free one. Raises OSError when none of the next 50 is free."""
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/live", self._probe(self._live))
        app.router.add_get("/ready", self._probe(self._ready))
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        for port in [self._port] if self._port == 0 else range(self._port, min(65_536, self._port + PORTS_TRIED)):
            try:
                await web.TCPSite(self._runner, self._host, port).start()
            except OSError as error:
                problem = error
                continue
            bound = self._runner.addresses[0]
            self.address = f"{bound[0]}:{bound[1]}"
            log.info("Metrics, /live and /ready on http://%s.", self.address)
            return
        raise problem

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _metrics(self, _: web.Request) -> web.Response:
        self._refresh()
        return web.Response(body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})

    @staticmethod
    def _probe(holds: Callable[[], bool]) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def probe(_: web.Request) -> web.Response:
            return web.Response(text="yes\n") if holds() else web.Response(text="no\n", status=503)

        return probe
