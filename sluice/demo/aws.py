"""The stand-in for S3 and Kinesis, moto's server, as a process of its own: `python -m sluice.demo.aws`."""

import logging
import sys

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server


class _Handler(WSGIRequestHandler):
    """Keeps connections open, as AWS does, and logs no requests."""

    protocol_version = "HTTP/1.1"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """A line a request would cost more than moto's own work."""


def main() -> None:
    """Serve on a free port of 127.0.0.1 until SIGTERM."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    application = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=_Handler)
    sys.stderr.write(f"S3 and Kinesis on http://127.0.0.1:{server.server_port}\n")
    sys.stderr.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
