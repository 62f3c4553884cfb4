"""The command line: what each command takes, and how it ends. The work is done elsewhere, and imported when it is asked for."""

import contextlib
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from sluice import __version__
from sluice.exits import Exit, UserError, ending

if TYPE_CHECKING:
    from sluice.config import Config

FILE = click.Path(path_type=Path)
"""Not looked at by click: its message would not say what to do."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="sluice")
def sluice() -> None:
    """Take events and usage records from Kafka, enrich, drop, route, encrypt, and deliver them to S3, Kinesis and HTTP.

    \b
    sluice demo                                                    see it work
    sluice try examples/workshop.yaml events examples/events.jsonl
    sluice check examples/workshop.yaml                            what is wrong, and what to do
    """


def read_config(file: Path) -> "Config":
    from sluice.config import ConfigError

    try:
        return opened(file)
    except ConfigError as error:
        raise UserError(str(error), Exit.CONFIG) from None


def opened(file: Path) -> "Config":
    """The config in a file. Raises ConfigError with all that is wrong with it."""
    from sluice.config import load

    try:
        return load(file)
    except OSError as error:
        what = f"{file} cannot be read: {error.strerror or error}"
        raise UserError(f"{what}; give the path of a config, such as examples/workshop.yaml", Exit.USAGE) from None


@sluice.command()
@click.option("--seconds", default=30, show_default=True, type=click.IntRange(1), help="How long the devices send.")
@click.option(
    "--rate", default=2000, show_default=True, type=click.IntRange(1), help="Records a second, all devices together."
)
@click.option("--devices", default=50, show_default=True, type=click.IntRange(1), help="How many devices.")
@click.option("--seed", default=1, show_default=True, help="Same seed, same records.")
@click.option("--chaos", is_flag=True, help="Kill a worker with -9 every few seconds.")
@click.option(
    "--keep", type=click.Path(file_okay=False, path_type=Path), help="Keep config, logs and objects in this directory."
)
@click.option("--json", "as_json", is_flag=True, help="Print the ledger as one JSON object.")
def demo(seconds: int, rate: int, devices: int, seed: int, chaos: bool, keep: Path | None, as_json: bool) -> None:
    """Show everything on this machine: a real Kafka, stand-ins for S3, Kinesis and HTTP, devices, workers, a ledger.

    Exit 1 if a record is missing somewhere, or a card field is anywhere in clear.
    """
    from sluice.demo.show import Settings, run

    ok = run(Settings(seconds, rate, devices, seed, chaos, keep, as_json))
    sys.exit(Exit.DONE if ok else Exit.FAILED)


@sluice.command()
@click.argument("file", type=FILE)
@click.option("--offline", is_flag=True, help="Look at the config alone, not at Kafka and the destinations.")
def check(file: Path, offline: bool) -> None:
    """Show all problems of a config at once: in itself, and with what it names.

    Exit 78 for a wrong config, 69 for something out of reach.
    """
    from sluice.checks import run, show_problems
    from sluice.config import ConfigError

    try:
        config = opened(file)
    except ConfigError as error:
        sys.exit(show_problems(error))
    sys.exit(run(config, offline))


@sluice.command()
@click.argument("file", type=FILE)
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--verbose", is_flag=True, help="Log what the libraries say too; never a record.")
def worker(file: Path, names: tuple[str, ...], verbose: bool) -> None:
    """Run one worker process of these pipelines and streams. SIGTERM drains and exits 0."""
    config = read_config(file)
    from sluice import logs
    from sluice.worker import run

    logs.configure("+".join(names), verbose)
    run(config, names)


@sluice.command()
@click.argument("file", type=FILE)
@click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(1, 64), help="Processes of each pipeline and stream."
)
def up(file: Path, workers: int) -> None:
    """Run every pipeline and stream of a config on this host, and start again what ends.

    Exit 0 after SIGTERM or Ctrl-C; otherwise the exit code of the worker that it gave up on.
    """
    config = read_config(file)
    from sluice import logs
    from sluice.supervisor import run

    logs.configure("up", verbose=False)
    sys.exit(run(file, config, workers))


@sluice.command()
@click.argument("file", type=FILE)
@click.argument("name")
@click.option(
    "--from", "where", required=True, metavar="beginning|end|TIME", help="TIME: ISO 8601, such as 2026-11-22T10:00:00Z."
)
def start(file: Path, name: str, where: str) -> None:
    """Say where a stopped pipeline or stream begins, in all its partitions; a pipeline begins a new plan there.

    A date alone is its midnight in UTC. Exit 1 while a worker of it is alive.
    """
    config = read_config(file)
    from sluice.start import run

    run(config, name, where)


@sluice.command()
@click.argument("file", type=FILE)
@click.option("--compare", is_flag=True, help="Only look; exit 1 if a topic is missing or differs.")
def topics(file: Path, compare: bool) -> None:
    """Make the topics that a config needs, or compare those that are there. Needs no keys."""
    config = read_config(file)
    from sluice.topics import run

    sys.exit(run(config, compare))


@sluice.command("try")
@click.argument("file", type=FILE)
@click.argument("pipeline")
@click.argument("source", metavar="[INPUT]", type=click.File("rb"), default="-")
@click.option("--csv", "as_csv", is_flag=True, help="Print what S3 would hold, header first.")
@click.option(
    "--reference", "references", multiple=True, metavar="NAME=FILE", help="JSON lines with an id, in place of a topic."
)
@click.option("--explain", is_flag=True, help="Show instead what each stage did to each record, masked.")
def try_(file: Path, pipeline: str, source: BinaryIO, as_csv: bool, references: tuple[str, ...], explain: bool) -> None:
    """Run a pipeline over JSON lines, without Kafka: one JSON line for each line of INPUT (or stdin), in order.

    An empty line stands for a record without a value, a Kafka tombstone, and is a dead letter.
    """
    config = read_config(file)
    if explain:
        if as_csv:
            raise click.UsageError("--explain and --csv do not go together; leave one out")
        from sluice.explain import run as explained

        explained(config, pipeline, source, references)
        return
    from sluice.terminal import stdout
    from sluice.trial import run

    run(config, pipeline, source, stdout(), as_csv, references)


@sluice.command()
@click.argument("file", type=FILE)
@click.argument("source", metavar="[INPUT]", type=click.File("rb"), default="-")
@click.option("--pipeline", help="Whose rules encrypted; needed where more than one pipeline encrypts.")
def decrypt(file: Path, source: BinaryIO, pipeline: str | None) -> None:
    """Put the encrypted fields of delivered records back into clear text: JSON lines from INPUT or stdin, packed or not.

    Needs the keys. What does not decrypt stays as it is, is named on stderr, and the exit code is 1.
    """
    config = read_config(file)
    from sluice.decrypt import run
    from sluice.terminal import stdout

    run(config, pipeline, source, stdout())


@sluice.command()
@click.argument("file", type=FILE)
@click.argument("pipeline")
@click.argument("source", metavar="[INPUT]", type=click.File("rb"), default="-")
def send(file: Path, pipeline: str, source: BinaryIO) -> None:
    """Send JSON lines or an Avro container to a pipeline's raw topic, from INPUT or stdin. Needs no keys.

    All records are checked first, by the pipeline itself, the card fields that it encrypts included; if it would refuse one,
    nothing is sent, and exit 1.
    """
    config = read_config(file)
    from sluice.send import run

    run(config, pipeline, source)


@sluice.command()
@click.option("--count", type=click.IntRange(0), help="How many records; without end if not given.")
@click.option(
    "--rate", type=click.FloatRange(0, min_open=True), help="Records a second; as fast as possible if not given."
)
@click.option("--seed", default=1, show_default=True, help="Same seed, same records.")
@click.option("--devices", default=3, show_default=True, type=click.IntRange(1))
@click.option(
    "--kind",
    type=click.Choice(["events", "usage", "both"]),
    default="events",
    show_default=True,
    help="both: by turns.",
)
@click.option(
    "--bad", default=0.0, type=click.FloatRange(0, 1), help="Share of events that no well-behaved device sends."
)
@click.option("--topic", help="Send to this topic instead of stdout.")
@click.option("--brokers", help="host:port,... of the cluster that has the topic.")
def generate(
    count: int | None,
    rate: float | None,
    seed: int,
    devices: int,
    kind: str,
    bad: float,
    topic: str | None,
    brokers: str | None,
) -> None:
    """Simulate devices: events, transactions and usage, to stdout or to a topic. Ctrl-C or SIGTERM ends it, with 0."""
    if (topic is None) != (brokers is None):
        raise click.UsageError("--topic and --brokers go together; give both or none")
    from sluice.simulation import run

    run(kind, count, rate, seed, devices, bad, (topic, brokers) if topic and brokers else None)


@sluice.group()
def schemas() -> None:
    """The contract: schemas that only grow."""


@schemas.command("check")
@click.argument("old", type=FILE, required=False)
@click.argument("new", type=FILE, required=False)
@click.option(
    "--against", multiple=True, metavar="REV", help="Check all subjects since this git revision; several: each."
)
@click.option("--json", "as_json", is_flag=True, help="Print the verdict and the findings as one JSON object.")
def schemas_check(old: Path | None, new: Path | None, against: tuple[str, ...], as_json: bool) -> None:
    """Whether a schema only adds to another one. Exit 2 if it breaks something, or if that cannot be told.

    \b
    sluice schemas check OLD NEW                    two .avsc files, or two columns.json
    sluice schemas check --against REV [FOLDER]     all subjects under FOLDER, `schemas` without it
    """
    from sluice.schema_check import run, run_against

    if against and new is None:
        sys.exit(run_against(against, old or Path("schemas"), as_json))
    if against or old is None or new is None:
        raise click.UsageError("give two files OLD and NEW, or --against REV and at most a folder")
    sys.exit(run(old, new, as_json))


@sluice.group()
def keys() -> None:
    """Encryption keys."""


@keys.command("new")
@click.argument("file", type=FILE)
@click.argument("name", required=False)
@click.option("--all", "every", is_flag=True, help="A key for every name that the config uses and the keys file lacks.")
@click.option(
    "--bytes", "size", type=click.Choice(["16", "24", "32"]), help="Its length; else what the rules that use it want."
)
def keys_new(file: Path, name: str | None, every: bool, size: str | None) -> None:
    """Add a new random key to the config's keys file, made if it is not there (0400).

    An active key of that name stays, for decryption only.
    """
    if (name is not None) == every:
        raise click.UsageError("give one key NAME, or --all")
    config = read_config(file)
    from sluice.key_commands import new

    new(config, name, size=int(size) if size else None)


@keys.command("rotate")
@click.argument("file", type=FILE)
@click.argument("name")
def keys_rotate(file: Path, name: str) -> None:
    """Replace the active version of a key in the config's keys file; the old one stays, for decryption only.

    Workers that read this file use the new version within seconds, without a restart.
    """
    config = read_config(file)
    from sluice.key_commands import rotate

    rotate(config, name)


@keys.command("list")
@click.argument("file", type=FILE)
def keys_list(file: Path) -> None:
    """Show names, ids, states and lengths of the config's keys, never the keys."""
    config = read_config(file)
    from sluice.key_commands import show

    show(config)


@sluice.group()
def dlq() -> None:
    """Dead letters of a pipeline or stream: list them, look at them, and retry them when their cause is mended."""


REASON = click.option("--reason", metavar="REASON", help="Only letters with this sluice-reason.")
SINCE = click.option(
    "--since", metavar="TIME", help="Only letters of records with a timestamp from then on (ISO 8601)."
)
IDS = click.argument("ids", nargs=-1, metavar="[SLUICE_ID]...")


@dlq.command("list")
@click.argument("file", type=FILE)
@click.argument("name")
@REASON
@SINCE
@click.option("--each", is_flag=True, help="A line for each letter, with its sluice-id.")
@click.option("--json", "as_json", is_flag=True, help="JSON objects, one a line.")
def dlq_list(file: Path, name: str, reason: str | None, since: str | None, each: bool, as_json: bool) -> None:
    """How many dead letters there are of pipeline or stream NAME, why, and since when. Needs no keys."""
    config = read_config(file)
    from sluice.dlq.letters import choice
    from sluice.dlq.listing import run

    run(config, name, choice((), reason, since), each, as_json)


@dlq.command("show")
@click.argument("file", type=FILE)
@click.argument("name")
@IDS
@REASON
@SINCE
def dlq_show(file: Path, name: str, ids: tuple[str, ...], reason: str | None, since: str | None) -> None:
    """Show dead letters opened with the `dead-letters` key, and masked: no sensitive field, no card number.

    Name them by their sluice-id, or choose them with --reason and --since.
    """
    if bool(ids) == bool(reason or since):
        raise click.UsageError("give sluice-ids, or --reason or --since; `sluice dlq list FILE NAME --each` prints ids")
    config = read_config(file)
    from sluice.dlq.letters import choice
    from sluice.dlq.showing import run

    run(config, name, choice(ids, reason, since))


@dlq.command("retry")
@click.argument("file", type=FILE)
@click.argument("name")
@IDS
@click.option("--all", "every", is_flag=True, help="All letters that were not retried yet.")
@REASON
@SINCE
@click.option("--again", is_flag=True, help="Those too that were retried before.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def dlq_retry(
    file: Path,
    name: str,
    ids: tuple[str, ...],
    every: bool,
    reason: str | None,
    since: str | None,
    again: bool,
    yes: bool,
) -> None:
    """Send the records of dead letters their way again: a pipeline's into its raw topic, a stream's to its destination.

    Mend the cause first. Name them by their sluice-id, choose them with --reason and --since, or take --all. Exit 1 if one could
    not be retried; it keeps its letter.
    """
    if bool(ids) + every + bool(reason or since) != 1:
        raise click.UsageError("give sluice-ids, or --all, or --reason or --since")
    config = read_config(file)
    from sluice.dlq.letters import choice
    from sluice.dlq.retrying import run

    sys.exit(run(config, name, choice(ids, reason, since), again, yes))


@sluice.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--records", default=300_000, show_default=True, type=click.IntRange(1000), help="Records in each run.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Runs of each; medians are shown.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object.")
def bench(names: tuple[str, ...], records: int, rounds: int, as_json: bool) -> None:
    """Measure CPU, throughput and latency on this machine against stock Faust and the bare client, in one run.

    Everything takes about five minutes; NAMEs are rows of the table, for a part of it.
    """
    from sluice.bench import NAMES
    from sluice.bench.report import show

    if unknown := [name for name in names if name not in NAMES]:
        raise click.UsageError(f"no row is called {', '.join(unknown)}; there are {', '.join(NAMES)}")
    show(names, records, rounds, as_json)


def main() -> None:
    """The `sluice` command: every way to end, with its exit code."""
    code = run_to_end(lambda: sluice.main(prog_name="sluice", standalone_mode=False))
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # whoever read it is gone
            stream.flush()
    os._exit(code)  # a thread that is stuck in a call to a destination must not hold up the end of a worker


def run_to_end(command: Callable[[], Any]) -> int:
    """The exit code of a command. What went wrong is on stderr by then; nothing is raised."""
    try:
        result = command()
        sys.stdout.flush()
    except BaseException as error:  # the last place that can say something useful
        return _code_of(error)
    return result if isinstance(result, int) else Exit.DONE


def _code_of(error: BaseException) -> int:
    match error:
        case SystemExit(code=code) if not isinstance(error.__context__, BrokenPipeError):  # click makes those 1
            return code if isinstance(code, int) else Exit.FAILED if code else Exit.DONE
        case SystemExit() | BrokenPipeError():
            _reader_is_gone()
            return Exit.DONE
        case click.exceptions.Abort() | KeyboardInterrupt():
            return 130
        case click.ClickException():
            error.show()
            return Exit.USAGE
    text, code = ending(error)
    sys.stderr.write(text + "\n")
    return code


def _reader_is_gone() -> None:
    """Whoever read our output has all it wants. Nothing is to be flushed into the broken pipe at exit either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)


if __name__ == "__main__":
    main()
