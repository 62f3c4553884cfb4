"""`sluice try`: a pipeline of a config over JSON lines, without Kafka, with the very code that a router runs."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import orjson

from pipeline.config import PipelineConfig
from pipeline.pipeline import Pipeline
from pipeline.references import Tables
from schemas.projection import CsvRow, csv_header
from schemas.refused import Refused
from schemas.subjects import Subject, load
from sluice.config import Config
from sluice.config_rules import meant
from sluice.exits import Exit, UserError
from sluice.keys import loaded
from stream.records import Headers

_BATCH_RECORDS = 1000
_BATCH_BYTES = 4 * 1024 * 1024


@dataclass(slots=True)
class Line:
    """One line of an input, as a record of the raw topic."""

    offset: int
    value: bytes | None
    too_large: bool = False
    key: bytes | None = None
    timestamp: int = 0
    headers: Headers = ()


class _Outcome(NamedTuple):
    route: str | None
    value: bytes
    refused: Refused | None


def run(
    config: Config, pipeline: str, source: BinaryIO, out: BinaryIO, as_csv: bool = False, references: Sequence[str] = ()
) -> None:
    """Write one JSON line to `out` for each line of `source`, in order: {"route", "topic", "value", "error"}.

    `route` is success, fail, unmatched, another label of the config, or dead-letter: then `value` is null and `error` is
    {"reason", "path"}, which never holds a value of the record. What sample or deduplicate leave out has the route null; with
    `match: all` there is a line for each route that a record takes. An empty line stands for a record without a value. What no
    Kafka topic of this config could hold is `too-large`. `as_csv`: the rows that S3 would hold instead, header first; dead
    letters have none, and are counted on stderr. `references` are NAME=FILE. Memory holds a few MB of lines, or one line.

    What was normalised or left out is counted on stderr, by kind. Blocks as `source` and `out` do. Raises OSError, and
    UserError for a pipeline, file or key that is not there.
    """
    process = prepared(config, pipeline, references)(pipeline_of(config, pipeline))
    records = lines(source, config.kafka.max_message_bytes)
    drift: Counter[str] = Counter()
    outcomes = (_outcomes(process, batch, drift) for batch in _batches(records))
    if as_csv:
        _write_csv(outcomes, load(config.pipelines[pipeline].subject), out)
    else:
        _write_json(outcomes, pipeline, out)
    if drift:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(drift.items()))
        sys.stderr.write(f"normalised or left out: {kinds}\n")


def pipeline_of(config: Config, name: str) -> PipelineConfig:
    """A pipeline of a config. Raises UserError, with the name that may have been meant."""
    if name not in config.pipelines:
        known = ", ".join(config.pipelines)
        raise UserError(f"there is no pipeline {name}{meant(name, config.pipelines)}; known: {known}", Exit.USAGE)
    return config.pipelines[name]


def prepared(config: Config, name: str, references: Sequence[str]) -> Callable[[PipelineConfig], Pipeline]:
    """Makes pipelines of the settings of one, or of a part of them, with its keys and these references (NAME=FILE).

    Raises UserError.
    """
    whole, keys, tables = pipeline_of(config, name), loaded(config, [name]), Tables()
    Pipeline(name, whole, keys, tables)  # its joins say what they need of an entry
    _fill_all(tables, config, references)
    return lambda settings: Pipeline(name, settings, keys, tables)


def lines(source: BinaryIO, largest: int) -> Iterator[Line]:
    """The lines of an input as records, of at most `largest` bytes; longer ones are marked so, and hold nothing."""
    offset = 0
    while line := source.readline(largest + 1):
        too_large = len(line) > largest and not line.endswith(b"\n")
        while too_large and line and not line.endswith(b"\n"):
            line = source.readline(largest)
        value = None if too_large else line.removesuffix(b"\n").removesuffix(b"\r") or None
        yield Line(offset, value, too_large)
        offset += 1


def _batches(records: Iterator[Line]) -> Iterator[list[Line]]:
    batch: list[Line] = []
    size = 0
    for line in records:
        batch.append(line)
        size += len(line.value or b"")
        if len(batch) == _BATCH_RECORDS or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _outcomes(pipeline: Pipeline, batch: list[Line], drift: Counter[str]) -> list[_Outcome]:
    """What became of each line, in order; what was put right is added to `drift`."""
    outcomes: dict[int, list[_Outcome]] = {
        line.offset: [_Outcome("dead-letter", b"null", Refused("too-large"))] for line in batch if line.too_large
    }
    records = [line for line in batch if not line.too_large]
    processed = pipeline.process(records)
    drift += processed.drift
    for at, route, value in zip(processed.positions, processed.routes, processed.values, strict=True):
        outcomes.setdefault(records[at].offset, []).append(_Outcome(route, value, None))
    for at, refused in processed.dead:
        outcomes[records[at].offset] = [_Outcome("dead-letter", b"null", refused)]
    left_out = [_Outcome(None, b"null", None)]
    return [outcome for line in batch for outcome in outcomes.get(line.offset, left_out)]


def _write_json(batches: Iterator[list[_Outcome]], pipeline: str, out: BinaryIO) -> None:
    for batch in batches:
        out.writelines(_as_json(outcome, pipeline) for outcome in batch)
        out.flush()


def _as_json(outcome: _Outcome, pipeline: str) -> bytes:
    refused = outcome.refused
    topic = None if outcome.route is None else f"{pipeline}.{outcome.route if refused is None else 'dlq'}"
    error = None if refused is None else {"reason": refused.reason, "path": refused.path}
    head = orjson.dumps({"route": outcome.route, "topic": topic})[:-1]
    return b'%b,"value":%b,"error":%b}\n' % (head, outcome.value, orjson.dumps(error))


def _write_csv(batches: Iterator[list[_Outcome]], subject: Subject, out: BinaryIO) -> None:
    try:
        out.write(csv_header(subject))
    except ValueError as error:
        raise UserError(str(error), Exit.USAGE) from None
    row = CsvRow(subject)
    dead = 0
    for batch in batches:
        out.writelines(row(outcome.value) for outcome in batch if outcome.route and outcome.refused is None)
        out.flush()
        dead += sum(outcome.refused is not None for outcome in batch)
    if dead:
        sys.stderr.write(f"{dead} lines are dead letters and have no row; leave out --csv to see which and why\n")


def _fill_all(tables: Tables, config: Config, references: Sequence[str]) -> None:
    for given in references:
        name, sign, file = given.partition("=")
        if not sign or not file:
            raise UserError(f"--reference {given} names no file; write --reference NAME=FILE", Exit.USAGE)
        if name not in config.reference:
            known = ", ".join(config.reference) or "none"
            raise UserError(f"there is no reference {name}{meant(name, config.reference)}; known: {known}", Exit.USAGE)
        try:
            _fill(tables, name, Path(file))
        except OSError as error:
            text = f"{file} cannot be read: {error.strerror}"
            raise UserError(f"{text}; give a file of JSON lines with an id each", Exit.USAGE) from None


def _fill(tables: Tables, name: str, file: Path) -> None:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                entry = None
            id_ = entry.get("id") if isinstance(entry, dict) else None
            if not isinstance(id_, int | str) or isinstance(id_, bool):
                text = f"{file}, line {number} is no JSON object with an id (a number or text)"
                raise UserError(f"{text}; correct or remove it", Exit.USAGE)
            if tables.apply(name, [Line(number, line.strip(), key=str(id_).encode())]):
                sys.stderr.write(
                    f"{file}, line {number} holds a field of the wrong type and is ignored, as by a worker\n"
                )
