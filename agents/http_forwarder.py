"""The HTTP forwarder: a POST for each record (`rest`) or for an array of them (`bulk`), at least once."""

from agents.collector import Limits
from sinks.http import HttpConfig

REST_SECONDS = 0.2
"""How long a record waits for company before its partition's records go out one by one."""
BULK_BYTES = 8_000_000


def limits(config: HttpConfig) -> Limits:
    """In `bulk` what the receiver was promised; in `rest` a delivery is only what is written, and retried, together."""
    if config.mode == "bulk":
        return Limits(config.size, BULK_BYTES, config.seconds)
    return Limits(500, BULK_BYTES, REST_SECONDS)
