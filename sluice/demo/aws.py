"""The stand-in for S3 and Kinesis, moto's server, as a process of its own: `python -m sluice.demo.aws`."""

import logging
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server


class _Handler(WSGIRequestHandler):
    """Keeps connections open, as AWS does, and logs no requests."""

    protocol_version = "HTTP/1.1"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """A line a request would cost more than moto's own work."""


def one_at_a_time(application: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """moto itself is not thread-safe: of two simultaneous PutRecords it loses some records and acknowledges all, and a
    conditional PutObject looks first and writes later. Threads are still needed, one for each open connection.
    """
    lock = threading.Lock()

    def serve(environment: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with lock:
            return application(environment, start_response)

    return serve


def main() -> None:
    """Serve on a free port of 127.0.0.1 until SIGTERM."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    application = one_at_a_time(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=_Handler)
    sys.stderr.write(f"S3 and Kinesis on http://127.0.0.1:{server.server_port}\n")
    sys.stderr.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
