"""The stand-in for S3 and Kinesis, moto's server: `python -m sluice.demo.aws [HOST:PORT]`, or in a thread of a test.

Needs nothing of Sluice, so that moto's own image can run this file.
"""

import io
import logging
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server


class _Handler(WSGIRequestHandler):
    """Keeps connections open, as AWS does, and logs no requests."""

    protocol_version = "HTTP/1.1"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """A line a request would cost more than moto's own work."""


def _one_at_a_time(application: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """moto itself is not thread-safe: of two simultaneous PutRecords it loses some records and acknowledges all, and a
    conditional PutObject looks first and writes later. Threads are still needed, one for each open connection, and a request is
    there as a whole before its turn comes: who sends slowly holds nobody up.
    """
    lock = threading.Lock()

    def serve(environment: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        body, terminated = environment["wsgi.input"], environment.get("wsgi.input_terminated")
        environment["wsgi.input"] = io.BytesIO(
            body.read() if terminated else body.read(int(environment.get("CONTENT_LENGTH") or 0))
        )
        with lock:
            return application(environment, start_response)

    return serve


def server(host: str = "127.0.0.1", port: int = 0) -> BaseWSGIServer:
    """All of AWS that moto knows, at this address (port 0: a free one). Bound, and not yet serving: the caller calls
    `serve_forever`. What is stored belongs to the process: a second server in it shows the same.
    """
    application = _one_at_a_time(DomainDispatcherApplication(create_backend_app))
    return make_server(host, port, application, threaded=True, request_handler=_Handler)


def main() -> None:
    """Serve until SIGTERM, on a free port of 127.0.0.1 unless told otherwise."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    host, _, port = (sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:0").rpartition(":")
    stand_in = server(host, int(port))
    sys.stderr.write(f"S3 and Kinesis on http://{host}:{stand_in.server_port}\n")
    sys.stderr.flush()
    stand_in.serve_forever()


if __name__ == "__main__":
    main()
