"""What all fault tests share: a seed, a length, a broker, and the table of what was seen.

FAULTS=short makes every test as short as it can be and still see its fault. SEED=N repeats a run's choices.
A full run writes docs/reliability.md.
"""

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sluice.local_kafka import LocalKafka
from sluice.local_kafka import kafka as local_or_named
from tests.faults.ledger import Judgement
from tests.faults.table import Row, write

SHORT = os.environ.get("FAULTS", "full") == "short"
SEED = int(os.environ.get("SEED") or random.SystemRandom().randrange(1, 1_000_000))
PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
_rows: list[Row] = []
_begun = time.time()


def pytest_report_header() -> str:
    return f"fault tests: {'short' if SHORT else 'full'}, SEED={SEED} repeats these choices"


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if not _rows:
        return
    for row in _rows:
        print(f"\n{row.line()}", end="")
    print(f"\nseed {SEED}")
    everything = not session.config.option.keyword and [Path(one).name for one in session.config.args] == ["faults"]
    if not SHORT and exitstatus == 0 and everything:
        write(PAGE, _rows, SEED, time.time() - _begun)


@pytest.fixture
def seconds() -> Callable[[float, float], float]:
    """`seconds(short, full)`: the one that this run is for."""
    return lambda short, full: short if SHORT else full


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """The choices of one test: the same for the same SEED, whichever tests run beside it."""
    return random.Random(f"{SEED}/{request.node.name}")


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap servers of one broker that tests share which do it no harm."""
    with local_or_named(tmp_path_factory.mktemp("kafka")) as bootstrap:
        yield bootstrap


@pytest.fixture
def three_brokers(tmp_path: Path) -> Iterator[LocalKafka]:
    """A cluster of three, to be killed."""
    with LocalKafka(tmp_path / "kafka", brokers=3) as cluster:
        yield cluster


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A pipeline's name that no other test has."""
    return f"events-{os.getpid()}-{abs(hash(request.node.nodeid)) % 1_000_000}"


@pytest.fixture
def seen() -> Callable[..., None]:
    """`seen("F-02", "fault in a few words", judgement, pause=…, evidence="25 kills")` enters the table of reliability."""

    def enter(fault: str, what: str, found: Judgement, evidence: str, pause: float | None = None) -> None:
        _rows.append(Row(fault, what, evidence, found.records, found.dead_letters, found.repeats, pause))

    return enter
