"""What waits while keys may not be used: data keys whose limit is reached while AWS KMS gives no others."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from pipeline.keys import Keys

PATIENCE_SECONDS = 60.0
"""As for everything that is out of reach; less than the watchdog has."""
PAUSE_SECONDS = 0.5


class KeysAway(Exception):
    """Nothing may be encrypted, and that has not changed for 60 s."""


async def _pause(seconds: float) -> bool:
    await asyncio.sleep(seconds)
    return True


async def until_usable(keys: Keys, pause: Callable[[float], Awaitable[bool]] = _pause) -> bool:
    """Wait while nothing may be encrypted; True at once where it may. False as soon as `pause`, which waits, returns False.

    Raises KeysAway after 60 s: the process ends, and what is in work is done again.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while keys.paused:
        if time.monotonic() > deadline:
            raise KeysAway(f"gave up after {PATIENCE_SECONDS:.0f} s: {keys.paused}; see `sluice check FILE`")
        if not await pause(PAUSE_SECONDS):
            return False
    return True
