"""What all tests share."""

import signal
import threading
from collections.abc import Iterator

import pytest

from sluice.demo.aws import server

# What a shell starts in the background ignores Ctrl-C, and so does all that it starts itself; tests end programs by that signal.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """The URL of S3, Kinesis and STS as `make demo` has them too. What is stored is there for all tests of the run."""
    stand_in = server()
    thread = threading.Thread(target=stand_in.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{stand_in.server_port}"
    stand_in.shutdown()
    thread.join()
