"""A customer's HTTP endpoint, as a process of its own: `python -m sluice.demo.receiver FILE SECRET_FILE`.

It takes `POST /usage`, verifies the signature as Standard Webhooks has it, and keeps each body as one line of FILE.
"""

import asyncio
import base64
import hmac
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import orjson
from aiohttp import web

TOLERANCE_SECONDS = 300
LARGEST_BODY = 64 * 1024 * 1024


def is_signed(headers: Mapping[str, str], body: bytes, secret: str, now: float) -> bool:
    """Whether one of the signatures is that of `body` under `secret` (`whsec_` and base64), at most 5 minutes from `now`."""
    try:
        message, stamp, signatures = (headers[f"webhook-{name}"] for name in ("id", "timestamp", "signature"))
        recent = abs(now - int(stamp)) <= TOLERANCE_SECONDS
    except (KeyError, ValueError):
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    right = base64.b64encode(hmac.digest(key, f"{message}.{stamp}.".encode() + body, "sha256")).decode()
    return recent and any(hmac.compare_digest(one.encode(), f"v1,{right}".encode()) for one in signatures.split(" "))


class Receiver:
    """What is accepted goes to `kept` before it is answered; what is not signed, or no JSON array, is refused."""

    def __init__(self, kept: BinaryIO, secret: str) -> None:
        self._kept, self._secret = kept, secret
        self._counts = {"requests": 0, "records": 0, "refused": 0}

    def application(self) -> web.Application:
        application = web.Application(client_max_size=LARGEST_BODY)
        application.router.add_post("/usage", self._take)
        application.router.add_get("/counts", self._tell)
        return application

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self._counts["requests"] += 1
        if not is_signed(request.headers, body, self._secret, time.time()):
            self._counts["refused"] += 1
            return web.Response(status=401, text="not signed by the secret that we share\n")
        try:
            records = orjson.loads(body)
        except orjson.JSONDecodeError:
            records = None
        if not isinstance(records, list):
            self._counts["refused"] += 1
            return web.Response(status=400, text="no JSON array\n")
        # Line feeds in JSON stand between values only: without them a body is one line.
        self._kept.write(body.replace(b"\n", b" ") + b"\n")
        self._kept.flush()
        self._counts["records"] += len(records)
        return web.Response(status=204)

    async def _tell(self, _: web.Request) -> web.Response:
        return web.json_response(self._counts)


async def serve(kept: Path, secret: str) -> None:
    """Serve on a free port of 127.0.0.1 until SIGTERM."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    with kept.open("ab") as file:
        runner = web.AppRunner(Receiver(file, secret).application(), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        sys.stderr.write(f"Receiver on http://127.0.0.1:{runner.addresses[0][1]}\n")
        sys.stderr.flush()
        await stopped.wait()
        await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), Path(sys.argv[2]).read_text().strip()))
