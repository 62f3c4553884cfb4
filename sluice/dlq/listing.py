"""`sluice dlq list`: what lies there and why, by reason or one by one. Looks at headers alone, and needs no keys."""

import asyncio
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from sluice import logs, moments
from sluice.config import Config
from sluice.dlq.letters import Choice, DeadLetter, Found, Letters, length, opened, progress

HEAD = ("reason", "letters", "retried", "sealed", "first", "last", "partitions")
COUNTS = (1, 2, 3)


@dataclass
class Group:
    """Letters of one reason at one place. Times are the timestamps of their records, in milliseconds."""

    reason: str
    path: str
    letters: int = 0
    retried: int = 0
    sealed: int = 0
    first: int = 2**63 - 1
    last: int = -(2**63)
    partitions: set[int] = field(default_factory=set)

    def take(self, letter: DeadLetter, *, retried: bool) -> None:
        self.letters += 1
        self.retried += retried
        self.sealed += letter.record.value is not None
        self.first = min(self.first, letter.record.timestamp)
        self.last = max(self.last, letter.record.timestamp)
        self.partitions.add(letter.at.partition)


class Groups:
    """All groups of what was read, in little memory: a number for each group, and an `IdSet` of the letters."""

    def __init__(self) -> None:
        self._found = Found()
        self._groups: dict[tuple[str, str], Group] = {}

    def take(self, letter: DeadLetter) -> None:
        """Count a letter or a mark; a letter that lies there twice counts once."""
        envelope, before = letter.envelope, self._found.again
        group = self._groups.setdefault((envelope.reason, envelope.path), Group(envelope.reason, envelope.path))
        if self._found.take(letter):
            group.take(letter, retried=self._found.again > before)
        elif self._found.again > before:
            group.retried += 1

    def __iter__(self) -> Iterator[Group]:
        """Those that hold letters, the most first."""
        groups = [group for group in self._groups.values() if group.letters]
        return iter(sorted(groups, key=lambda group: (-group.letters, group.reason, group.path)))


def run(config: Config, name: str, choice: Choice, each: bool, as_json: bool) -> None:
    """Print a line for each group of letters, or for `each` letter: one JSON object a line with `as_json`.

    Reads the topic from its beginning to the end that it has now, with progress on a terminal. Blocks. Raises UserError.
    """
    logs.silence()
    asyncio.run(_run(config, name, choice, each, as_json))


async def _run(config: Config, name: str, choice: Choice, each: bool, as_json: bool) -> None:
    async with opened(config, name, choice) as letters:
        if each:
            await _print_each(letters, as_json)
            return
        groups = Groups()
        with progress(f"reading {letters.topic}", length(letters.windows)) as advance:
            async for letter in letters.read(letters.windows, advance):
                groups.take(letter)
    if as_json:
        sys.stdout.writelines(json.dumps(as_object(group)) + "\n" for group in groups)
    else:
        sys.stdout.writelines(line + "\n" for line in table(name, list(groups)))


async def _print_each(letters: Letters, as_json: bool) -> None:
    found = Found()
    async for letter in letters.read(letters.windows):
        if found.take(letter):
            sys.stdout.write((json.dumps(one_as_object(letter)) if as_json else one_line(letter)) + "\n")


def table(name: str, groups: Sequence[Group]) -> Iterator[str]:
    """The groups as lines of text, under a head, and their sum."""
    if not groups:
        yield f"no dead letters of {name}"
        return
    rows = [HEAD, *map(_row, groups)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD) - 1)]
    for row in rows:
        cells = zip(range(len(widths)), row[:-1], widths, strict=True)
        aligned = [cell.rjust(width) if column in COUNTS else cell.ljust(width) for column, cell, width in cells]
        yield "  ".join([*aligned, row[-1]])
    total, retried = sum(group.letters for group in groups), sum(group.retried for group in groups)
    yield f"{total:,} dead letter{'' if total == 1 else 's'} of {name}, {retried:,} retried"


def _row(group: Group) -> tuple[str, ...]:
    return (
        why(group.reason, group.path),
        f"{group.letters:,}",
        f"{group.retried:,}",
        f"{group.sealed:,}",
        moments.shown(group.first),
        moments.shown(group.last),
        ranges(group.partitions),
    )


def as_object(group: Group) -> dict[str, object]:
    """A group for machines."""
    return {
        "reason": group.reason,
        "path": group.path,
        "letters": group.letters,
        "retried": group.retried,
        "sealed": group.sealed,
        "first": moments.shown(group.first),
        "last": moments.shown(group.last),
        "partitions": sorted(group.partitions),
    }


def one_as_object(letter: DeadLetter) -> dict[str, object]:
    """A letter for machines."""
    record, envelope = letter.record, letter.envelope
    return {
        "sluice_id": str(envelope.origin),
        "reason": envelope.reason,
        "path": envelope.path,
        "time": moments.shown(record.timestamp),
        "sealed": record.value is not None,
        "bytes": len(record.value or b""),
        "retries": envelope.retries,
    }


def one_line(letter: DeadLetter) -> str:
    """A letter in one line."""
    record, envelope = letter.record, letter.envelope
    body = "origin only" if record.value is None else f"sealed, {len(record.value):,} bytes"
    times = f"  retried {envelope.retries} before" if envelope.retries else ""
    return f"{envelope.origin}  {moments.shown(record.timestamp)}  {why(envelope.reason, envelope.path)}  {body}{times}"


def why(reason: str, path: str) -> str:
    """`wrong-type at .id`."""
    return f"{reason} at {path}" if path else reason


def ranges(numbers: set[int]) -> str:
    """`0-3, 7`."""
    runs = [list(run) for _, run in groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{run[0][1]}-{run[-1][1]}" if len(run) > 1 else str(run[0][1]) for run in runs)
