"""`sluice up` on a pipeline in which one record makes a stage raise: what it does again and again, without long waits in between.

python poisoned_up.py CONFIG NAME           supervises two workers
python poisoned_up.py CONFIG NAME worker    is one of them
"""

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

from pipeline.pipeline import Pipeline
from sluice import cli, logs
from sluice.supervisor import Patience, Supervisor

POISON = b"poison"


class Burst(Exception):
    """The test's own fault."""


def poisoned(records: Sequence[Any]) -> bool:
    return any(POISON in (record.value or b"") for record in records)


def main(config: str, name: str, *rest: str) -> None:
    if rest:
        process = Pipeline.process

        def bursts_on_poison(self: Pipeline, records: Any, *rest: Any) -> Any:
            if poisoned(records):
                raise Burst(str(records[0].value))  # as parsers do
            return process(self, records, *rest)

        Pipeline.process = bursts_on_poison  # type: ignore[method-assign]  # this is the fault
        sys.argv = ["sluice", "worker", config, name]
        cli.main()
    logs.configure("up", verbose=False)
    command = [sys.executable, __file__, config, name, "worker"]
    # No run is too short here to have got somewhere: only the offset tells.
    patience = Patience(first=0.1, longest=0.1, no_progress=0)
    sys.exit(asyncio.run(Supervisor([name, name], lambda _: command, patience).run()))


if __name__ == "__main__":
    main(*sys.argv[1:])
