"""A record as the consumer gives it, for what is tested without one."""

from dataclasses import dataclass

from stream.records import Headers


@dataclass(repr=False)  # it may hold a card number
class Raw:
    """A record of a raw topic."""

    value: bytes | None = None
    offset: int = 0
    timestamp: int = 0
    key: bytes | None = None
    headers: Headers = ()
