"""`sluice dlq`: letters are counted once, whatever lies there twice; what goes wrong is said with its remedy."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import pytest
import yaml
from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dead_letters import Letter, letter_headers, mark, opened
from schemas.refused import Refused
from sluice import cli
from sluice.config import load
from sluice.dlq.letters import Choice, DeadLetter, Found, choice
from sluice.dlq.listing import Groups, as_object, one_line, ranges, table
from sluice.dlq.retrying import to_its_end
from sluice.dlq.ways import Again, Destination
from sluice.exits import UserError
from stream.records import Headers

HOUR = 3_600_000


class Stored(NamedTuple):
    offset: int
    headers: Headers
    timestamp: int = 0
    key: bytes | None = None
    value: bytes | None = b"sealed"


def lying(number: int, reason: str = "not-json", *, marked: bool = False, at: int = 0, **fields: Any) -> DeadLetter:
    """The letter of raw.events/1/`number`, or its mark, at an offset of the dead-letter topic."""
    raw = Stored(number, fields.pop("headers", ()))
    headers = letter_headers("raw.events", 1, raw, Refused(reason), "pipeline")  # type: ignore[arg-type]  # of the list
    headers = mark(headers, "2026-11-26T10:00:00+00:00") if marked else headers
    envelope = opened(headers)
    assert envelope is not None
    return DeadLetter(TopicPartition("events.dlq", 1), Stored(at, headers, **fields), envelope)


STEPS = st.lists(st.tuples(st.integers(0, 4), st.booleans()))


@given(STEPS)
def test_letters_and_marks_in_any_order_and_number_are_counted_once(steps: list[tuple[int, bool]]) -> None:
    groups, found, letters, marks = Groups(), Found(), set(), set()
    for at, (number, marked) in enumerate(steps):
        reason = "not-json" if number < 2 else "wrong-type"
        first = not marked and number not in letters
        (marks if marked else letters).add(number)
        one = lying(number, reason, marked=marked, at=at)
        groups.take(one)
        assert found.take(one) == first
    assert (len(found.ids), found.again) == (len(letters), len(letters & marks))
    expected = Counter("not-json" if number < 2 else "wrong-type" for number in letters)
    assert {group.reason: group.letters for group in groups} == expected
    assert sum(group.retried for group in groups) == len(letters & marks)
    places = [at for at, (_, marked) in enumerate(steps) if not marked]
    assert list(found.windows.values()) == ([(places[0], places[-1] + 1)] if places else [])


def test_the_list_says_what_how_many_since_when_and_where() -> None:
    groups = Groups()
    for number in range(3):
        groups.take(lying(number, timestamp=number * HOUR))
    groups.take(lying(9, "too-large", timestamp=-1, value=None))
    groups.take(lying(1, marked=True))
    assert list(table("events", list(groups))) == [
        "reason     letters  retried  sealed  first                 last                  partitions",
        "not-json         3        1       3  1970-01-01T00:00:00Z  1970-01-01T02:00:00Z  1",
        "too-large        1        0       0  1969-12-31T23:59:59Z  1969-12-31T23:59:59Z  1",
        "4 dead letters of events, 1 retried",
    ]
    assert as_object(next(iter(groups)))["letters"] == 3
    assert list(table("events", [])) == ["no dead letters of events"]


def test_one_letter_in_one_line() -> None:
    retried = [("sluice-retry", b"raw.events/1/2"), ("sluice-retries", b"2")]
    assert one_line(lying(7)) == "raw.events/1/7  1970-01-01T00:00:00Z  not-json  sealed, 6 bytes"
    assert one_line(lying(7, value=None, headers=retried, timestamp=2**62)) == (
        f"raw.events/1/7  {2**62} ms  not-json  origin only  retried 2 before"
    )


def test_partitions_are_said_in_runs() -> None:
    assert ranges({7, 0, 1, 2, 3, 9, 10}) == "0-3, 7, 9-10"
    assert ranges(set()) == ""


def test_a_choice_takes_what_all_of_it_says() -> None:
    letter = lying(7, timestamp=1000)
    takes: Callable[[Choice], bool] = lambda one: one.takes(letter.envelope, 1000)  # noqa: E731
    assert takes(choice())
    assert takes(choice(["raw.events/1/7", "raw.events/1/8"], "not-json", "1970-01-01T00:00:01Z"))
    assert not takes(choice(["raw.events/0/7"]))
    assert not takes(choice((), "too-large"))
    assert not takes(choice((), None, "1970-01-01T00:00:01.001Z"))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ((["17"],), "17 is no sluice-id; write TOPIC/PARTITION/OFFSET"),
        (([], "not_json"), "no reason is called not_json (did you mean not-json?)"),
        (([], None, "yesterday"), "--since yesterday is no time; give one such as 2026-11-22T10:00:00Z"),
        (([], None, "2026-11-22T10:00:00"), "write 2026-11-22T10:00:00Z for UTC"),
    ],
)
def test_what_is_asked_for_wrongly_is_said(asked: tuple[Any, ...], said: str) -> None:
    with pytest.raises(UserError) as caught:
        choice(*asked)
    assert said in str(caught.value)
    assert caught.value.code == 64


async def test_ctrl_c_ends_a_round_after_its_marks() -> None:
    steps = []

    async def work() -> None:
        steps.append("sent")
        await asyncio.sleep(0.01)
        steps.append("marked")

    task = asyncio.ensure_future(to_its_end(work()))
    while not steps:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["sent", "marked"]


CONFIG = {
    "kafka": {"brokers": ["127.0.0.1:1"]},
    "pipelines": {"events": {"from": "raw.events", "schema": "event"}},
    "streams": {
        "bucket": {"from": ["events.success"], "s3": {"bucket": "a-bucket", "prefix": "p/", "region": "eu-central-1"}},
        "old": {"from": ["events.success"], "json_style": 2019, "http": {"url": "https://example.com/"}},
    },
}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["retry", "events"], 64, "give sluice-ids, or --all, or --reason or --since"),
        (["retry", "events", "--all", "--reason", "not-json"], 64, "give sluice-ids, or --all"),
        (["retry", "events", "raw.events/0/1", "--all"], 64, "give sluice-ids, or --all"),
        (["retry", "bucket", "--all"], 64, "`sluice start FILE bucket --from TIME`"),
        (["retry", "event", "--all", "--yes"], 64, "no pipeline or stream is named event (did you mean events?)"),
        (["show", "events"], 64, "give sluice-ids, or --reason or --since"),
        (["show", "events", "raw.events/0/1", "--since", "2026-01-01"], 64, "give sluice-ids"),
        (["show", "events", "4"], 64, "4 is no sluice-id"),
        (["list", "old", "--reason", "no"], 64, "no reason is called no"),
        (["list", "events"], 69, "127.0.0.1:1: nothing listens there"),
        (["retry", "old", "--all", "--yes"], 69, "127.0.0.1:1: nothing listens there"),
    ],
)
def test_every_wrong_use_ends_with_a_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(CONFIG))
    command = ["dlq", arguments[0], str(file), *arguments[1:]]
    assert cli.run_to_end(lambda: cli.sluice.main(command, prog_name="sluice", standalone_mode=False)) == code
    out, err = capfd.readouterr()
    assert said in err
    assert "Traceback" not in out + err


class Receiver(ThreadingHTTPServer):
    """Answers with `answers`, one after the other, then 200; keeps what it was sent."""

    def __init__(self, *answers: int) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.answers = list(answers)
        self.bodies: list[Any] = []

    def __enter__(self) -> "Receiver":
        Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Answer(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.answers.pop(0) if self.server.answers else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def again(number: int) -> Again:
    """A record of a stream's letter: routed, with the origin that a router gave it."""
    headers = letter_headers("events.success", 1, Stored(number, ()), Refused("rejected-by-sink"), "old")
    envelope = opened(headers)
    assert envelope is not None
    value = b'{"id":%d,"timestamp":"2026-11-26T10:00:00Z"}' % number
    return Again(
        envelope, 0, Letter(None, value, [("sluice-id", b"raw.events/1/%d" % (number * 10)), ("sluice-plan", b"1.a")])
    )


def retried(receiver: Receiver, folder: Path, *records: Again) -> tuple[list[str], str]:
    """What became of records that are sent to the destination of the stream, and why no more go."""
    http = {"url": f"http://127.0.0.1:{receiver.server_port}/", "allow_http": True, "allow_private": ["127.0.0.0/8"]}
    streams = {"old": {**CONFIG["streams"]["old"], "http": {**http, "mode": "rest"}}}  # type: ignore[index]
    (folder / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "streams": streams}))

    async def take() -> tuple[list[str], str]:
        way = Destination(load(folder / "config.yaml"), "old")
        try:
            return list(await way.take(records)), way.away
        finally:
            await way.close()

    return asyncio.run(take())


def test_a_stream_s_record_goes_to_its_destination_in_its_form_with_the_id_that_it_had(tmp_path: Path) -> None:
    with Receiver(503) as receiver:
        assert retried(receiver, tmp_path, again(1), again(2)) == (["", ""], "")
    ids = [body["sluice_id"] for body in receiver.bodies]
    assert ids == ["raw.events/1/10", "raw.events/1/10", "raw.events/1/20"], "tried again, and then in order"
    assert receiver.bodies[-1]["timestamp"] == "2026-11-26 10:00:00"


def test_what_the_destination_refuses_again_stays_and_the_others_go(tmp_path: Path) -> None:
    with Receiver(200, 400, 413) as receiver:
        outcomes, away = retried(receiver, tmp_path, *map(again, range(4)))
    assert [outcome.partition("(")[2] for outcome in outcomes] == ["", "rejected)", "too-large)", ""]
    assert away == ""


def test_a_destination_that_takes_nothing_ends_it_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sluice.dlq.ways.PATIENCE_SECONDS", 0.0)
    with Receiver(200, 503) as receiver:
        outcomes, away = retried(receiver, tmp_path, *map(again, range(3)))
    assert outcomes == ["", *["the destination does not take it at present"] * 2], "what went is known"
    assert "takes nothing at present (http-503); see `sluice check FILE`" in away
