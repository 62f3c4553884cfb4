"""A real router one of whose stages raises, by chance: on a record, or around a call, before it or after it was done.

    python -m tests.faults.failing_router STAGE SEED FILE NAME

STAGE is one of STAGES. Says `raised in STAGE` on stderr when it raised; what happens then is the worker's affair.
"""

import functools
import random
import sys
from collections.abc import Callable
from typing import Any

from agents.dead_letters import DeadLetterDesk
from pipeline.dead_letters import Sealer
from pipeline.encryption import Encryption
from pipeline.pipeline import Pipeline
from sluice import cli
from stream.assignment import Partition
from stream.commits import Commits
from stream.fetches import Fetches
from stream.outbox import Outbox

RECORDS, BATCHES, FEW = 1000, 20, 3
"""A stage raises about every so many calls: what is called for each record, for each batch, or once in a while."""


class Injected(Exception):
    """The fault that a test asked for."""


class Fault:
    """Decides when one stage raises: by chance, in one of about `calls` calls."""

    def __init__(self, stage: str, seed: int, calls: int) -> None:
        self._stage, self._calls = stage, calls
        self._chance = random.Random(f"{seed}/{stage}")

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, raising before or after it was done."""

        def calling(*arguments: Any, **named: Any) -> Any:
            now = self._now()
            if now == "before":
                self._raise()
            result = call(*arguments, **named)
            if now == "after":
                self._raise()
            return result

        return calling

    def around_waiting(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same for a coroutine function."""

        async def calling(*arguments: Any, **named: Any) -> Any:
            now = self._now()
            if now == "before":
                self._raise()
            result = await call(*arguments, **named)
            if now == "after":
                self._raise()
            return result

        return calling

    def _now(self) -> str:
        if self._chance.random() * self._calls >= 1:
            return "no"
        return self._chance.choice(["before", "after"])

    def _raise(self) -> None:
        sys.stderr.write(f"raised in {self._stage}\n")
        sys.stderr.flush()
        raise Injected


Patch = Callable[[Fault], None]


def _compiled(name: str) -> Patch:
    """A function that a pipeline holds, by its attribute: `_drop_fields`, or `_codec.encode`."""
    *above, last = name.split(".")

    def patch(fault: Fault) -> None:
        pipelines: Any = Pipeline
        made = pipelines.__init__

        def making(self: Any, *arguments: Any) -> None:
            made(self, *arguments)
            owner = functools.reduce(getattr, above, self)
            setattr(owner, last, fault.around(getattr(owner, last)))

        pipelines.__init__ = making

    return patch


def _method(owner: type, name: str) -> Patch:
    return lambda fault: setattr(owner, name, fault.around(getattr(owner, name)))


def _waiting(owner: type, name: str) -> Patch:
    return lambda fault: setattr(owner, name, fault.around_waiting(getattr(owner, name)))


STAGES: dict[str, tuple[Patch, int]] = {
    "fetch": (_method(Fetches, "take"), BATCHES),
    "decode": (_compiled("_codec.decode_fast"), RECORDS),
    "enrich": (_method(Pipeline, "_enrich"), BATCHES),
    "drop": (_compiled("_drop_fields"), BATCHES),
    "route": (_compiled("_choose_routes"), BATCHES),
    "encrypt": (_method(Encryption, "__call__"), BATCHES),
    "encode": (_compiled("_codec.encode"), RECORDS),
    "pack": (_method(Outbox, "pack"), BATCHES),
    "seal": (_method(Sealer, "seal"), FEW),
    "dead-letters": (_waiting(DeadLetterDesk, "send"), BATCHES),
    "outbox": (_waiting(Outbox, "send"), BATCHES),
    "settle": (_method(Partition, "settle"), BATCHES),
    "commit": (_waiting(Commits, "commit"), FEW),
}


if __name__ == "__main__":
    stage, seed, *arguments = sys.argv[1:]
    patch, calls = STAGES[stage]
    patch(Fault(stage, int(seed), calls))
    sys.argv[1:] = ["worker", *arguments]
    cli.main()
