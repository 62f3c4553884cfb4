"""How long to wait before a destination is tried again, and how often to say so."""

import random
import time

FIRST_SECONDS = 0.2
LONGEST_SECONDS = 30.0
SAY_SECONDS = 60.0


class Pauses:
    """The pauses of one delivery: doubled each time up to 30 s, with jitter, so that partitions do not come back at once."""

    def __init__(self) -> None:
        self._attempt = 0
        self._said = float("-inf")

    def next(self, at_least: float = 0.0) -> float:
        """Seconds to wait before the next attempt; not less than the destination asked for."""
        longest = min(LONGEST_SECONDS, FIRST_SECONDS * float(2**self._attempt))
        pause = longest * random.uniform(0.5, 1)  # noqa: S311  # jitter
        self._attempt = min(self._attempt + 1, 20)
        return max(at_least, pause)

    def worth_saying(self) -> bool:
        """Whether a failure is worth a line in the log: the first one, then one a minute."""
        now = time.monotonic()
        if now - self._said < SAY_SECONDS:
            return False
        self._said = now
        return True
