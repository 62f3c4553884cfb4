"""Every wrong use ends with one message, a remedy and the right exit code; never with a stack trace, never with a secret."""

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from aiokafka.errors import CorruptRecordException, KafkaConnectionError, KafkaError

from sinks.contract import Conflict
from sluice import cli, logs
from sluice.config import load
from sluice.exits import Exit, UserError, ending
from sluice.key_file import new_keys_file
from sluice.worker import _for_the_user
from stream.assignment import InWork, WorkFailed

ROOT = Path(__file__).resolve().parents[2]
SLUICE = Path(sys.executable).with_name("sluice")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run("check", "x.yaml")` is the exit code, stdout and stderr. In a folder with the examples and their keys."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("keys.yaml"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.run_to_end(lambda: cli.sluice.main(list(arguments), prog_name="sluice", standalone_mode=False))
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    assert run("keys", "new", "examples/workshop.yaml", "--all")[0] == 0
    return run


@pytest.fixture
def closed_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def config(port: int, **parts: str) -> str:
    parts = {"pipelines": "{events: {from: raw.events, schema: event}}"} | parts
    lines = [
        f"kafka: {{brokers: ['127.0.0.1:{port}'], replication: 1}}",
        *(f"{name}: {text}" for name, text in parts.items()),
    ]
    Path("config.yaml").write_text("\n".join(lines))
    return "config.yaml"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["chek", "x"], 64, "No such command 'chek'"),
        (["check"], 64, "Missing argument 'FILE'"),
        (
            ["check", "nowhere.yaml"],
            64,
            "nowhere.yaml cannot be read: No such file or directory; give the path of a config",
        ),
        (["check", "examples"], 64, "examples cannot be read: Is a directory; give the path of a config"),
        (["topics", "examples/events.jsonl"], 78, "is not YAML"),
        (["worker", "examples/workshop.yaml", "event"], 64, "no pipeline or stream is named event"),
        (["try", "examples/workshop.yaml", "event", "examples/events.jsonl"], 64, "did you mean events?"),
        (["try", "examples/workshop.yaml", "events", "nowhere.jsonl"], 64, "No such file or directory"),
        (["try", "examples/data-streamer.yaml", "events", "--reference", "sims"], 64, "write --reference NAME=FILE"),
        (["try", "examples/data-streamer.yaml", "events", "--reference", "sim=x"], 64, "did you mean sims?"),
        (["try", "examples/data-streamer.yaml", "events", "--reference", "sims=nowhere"], 64, "nowhere cannot be read"),
        (["generate", "--topic", "raw.events"], 64, "--topic and --brokers go together"),
        (["generate", "--count", "-1"], 64, "-1 is not in the range"),
        (["keys", "new", "examples/workshop.yaml"], 64, "give one key NAME, or --all"),
        (["keys", "new", "examples/workshop.yaml", "a b"], 64, "use letters, digits"),
        (["keys", "new", "examples/workshop.yaml", "a", "--bytes", "20"], 64, "'20' is not one of '16', '24', '32'"),
        (
            ["keys", "rotate", "examples/workshop.yaml", "card"],
            64,
            "there is no key 'card' to rotate, known are: card-",
        ),
        (["keys", "rotate", "examples/workshop.yaml"], 64, "Missing argument 'NAME'"),
        (["schemas", "check", "nowhere.avsc", "nowhere.avsc"], 2, "nowhere.avsc cannot be read"),
        (["up", "examples/workshop.yaml", "--workers", "0"], 64, "0 is not in the range"),
        (["demo", "--rate", "fast"], 64, "'fast' is not a valid integer"),
    ],
)
def test_wrong_uses(run: Run, arguments: list[str], code: int, said: str) -> None:
    ended, out, err = run(*arguments)
    assert (ended, out) == (code, "")
    assert said in err


def test_a_config_without_its_keys_says_how_to_make_them(run: Run) -> None:
    Path("examples/keys.yaml").unlink()
    for arguments in (
        ["try", "examples/workshop.yaml", "events", "examples/events.jsonl"],
        ["keys", "list", "examples/workshop.yaml"],
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (78, "")
        assert "keys.yaml is not there; make it with `sluice keys new FILE --all`" in err
    code, out, err = run("check", "--offline", "examples/workshop.yaml")
    assert code == 78
    assert "✗ keys:" in out


def test_keys_that_others_can_read_are_refused(run: Run) -> None:
    Path("examples/keys.yaml").chmod(0o444)
    code, _, err = run("try", "examples/workshop.yaml", "events", "examples/events.jsonl")
    assert code == 78
    assert "run `chmod 0400" in err


@pytest.mark.parametrize("command", [["topics"], ["topics", "--compare"]])
def test_a_broker_that_is_not_there(run: Run, closed_port: int, command: list[str]) -> None:
    code, out, err = run(command[0], config(closed_port), *command[1:])
    assert (code, out) == (69, "")
    why = "nothing listens there (connection refused); start it, or correct kafka.brokers"
    assert err == f"sluice: no Kafka broker can be used: 127.0.0.1:{closed_port}: {why}\n"


def test_generating_to_a_broker_that_is_not_there(run: Run, closed_port: int) -> None:
    code, out, err = run("generate", "--count", "1", "--topic", "t", "--brokers", f"127.0.0.1:{closed_port}")
    assert (code, out) == (69, "")
    assert "start it, or correct --brokers" in err


def test_certificates_that_are_not_there(run: Run) -> None:
    text = "kafka: {brokers: ['127.0.0.1:1'], security: {protocol: SSL, ca: no.pem}}\n"
    Path("config.yaml").write_text(text + "pipelines: {events: {from: raw.events, schema: event}}")
    code, _, err = run("topics", "config.yaml")
    assert code == 78
    assert "kafka.security.ca: " in err
    assert "no.pem cannot be read (No such file or directory); correct the path" in err


def test_check_names_all_that_is_out_of_reach_and_what_to_do(run: Run, closed_port: int) -> None:
    aws = f"endpoint_url: 'http://127.0.0.1:{closed_port}', region: us-east-1, access_key_id: a, secret_access_key: swordfish"
    http = f"url: 'http://127.0.0.1:{closed_port}/', allow_http: true, allow_private: [127.0.0.0/8], secret: {3 * 'swordfish'}"
    streams = f"""
  s3: {{from: [events.success], s3: {{bucket: abc, {aws}}}}}
  kinesis: {{from: [events.success], kinesis: {{stream: abc, {aws}}}}}
  http: {{from: [events.success], http: {{{http}}}}}
"""
    code, out, err = run("check", config(closed_port, streams=streams))
    assert (code, err) == (69, "")
    crosses = [line for line in out.splitlines() if line.startswith("✗")]
    assert [line.split(":")[0] for line in crosses] == [
        "✗ kafka",
        *(f"✗ stream {n}" for n in ("s3", "kinesis", "http")),
    ]
    assert all(";" in line for line in crosses), "a remedy"
    assert "swordfish" not in out


def test_check_of_a_bucket_and_a_stream_that_are_not_there(run: Run, closed_port: int, moto: str) -> None:
    aws = f"endpoint_url: '{moto}', region: us-east-1, access_key_id: a, secret_access_key: b"
    streams = f"""
  s3: {{from: [events.success], s3: {{bucket: not-there, {aws}}}}}
  kinesis: {{from: [events.success], kinesis: {{stream: not-there, {aws}}}}}
"""
    code, out, _ = run("check", config(closed_port, streams=streams))
    assert code == 69
    assert "✗ stream s3: bucket not-there: does not exist; create it" in out
    assert "✗ stream kinesis: " in out
    assert "not-there" in out.partition("stream kinesis")[2]


def test_check_offline_warns_of_what_would_be_forgotten(run: Run) -> None:
    code, out, _ = run("check", "--offline", config(1))
    assert code == 0
    warnings = [line for line in out.splitlines() if line.startswith("!")]
    assert any("no stream delivers events.success; name it in `from:`" in line for line in warnings)
    assert any("none is called dead-letters" in line for line in warnings)
    assert any(".transaction.cc.cc_number" in line and "in clear" in line for line in warnings)


def test_the_examples_pass_offline(run: Run) -> None:
    code, out, err = run("check", "--offline", "examples/data-streamer.yaml")
    assert (code, err) == (0, "")
    assert {line[0] for line in out.splitlines()} == {"✓"}
    code, out, err = run("check", "--offline", "examples/workshop.yaml")
    assert (code, err) == (0, "")
    warnings = [line for line in out.splitlines() if line[0] != "✓"]
    assert [line[0] for line in warnings] == ["!", "!", "!"]
    assert "nobody can tell whether .transaction.cc.cc_number" in warnings[0]
    assert "nobody can tell with which version of its key .transaction.cc.cc_number" in warnings[1]
    assert ".transaction.cc.cc_cvv may not be kept" in warnings[2]
    assert "PCI DSS 3.3.1" in warnings[2]


@pytest.mark.parametrize(
    ("rules", "warned"),
    [
        ("encrypt: [{field: .transaction.cc, key: card-number}]", True),
        ("encrypt: [{field: .transaction, key: card-number}]", True),
        ("encrypt: [{field: .transaction.cc, key: card-number}], drop: [.transaction.cc.cc_cvv]", False),
        ("redact: [{field: .transaction.cc.cc_cvv, with: hash, key: card-number}]", True),
        ("redact: [{field: .transaction.cc.cc_cvv, with: last4}]", True),
        ("redact: [{field: .transaction.cc.cc_cvv, with: mask}]", False),
        ("encrypt: [{field: .transaction.cc.cc_number, key: card-number}]", False),
    ],
)
def test_check_warns_of_a_security_code_that_is_kept_in_whatever_form(run: Run, rules: str, warned: bool) -> None:
    pipelines = f"{{events: {{from: raw.events, schema: event, {rules}}}}}"
    new_keys_file(Path("own-keys.yaml"), ["card-number", "dead-letters"])
    code, out, _ = run(
        "check", "--offline", config(1, pipelines=pipelines, keys="{provider: file, path: own-keys.yaml}")
    )
    assert code == 0, out
    assert (".transaction.cc.cc_cvv may not be kept" in out) is warned


@pytest.mark.parametrize("form", ["json", "csv", "avro", "parquet"])
def test_check_warns_of_what_a_format_leaves_out(run: Run, form: str) -> None:
    rules = (
        "{field: .transaction.cc.cc_number, key: cards, algorithm: AES-256-CFB, iv_field: .transaction.cc.cc_number_iv, "
        "key_id_field: '.transaction[\"cc\"].cc_number_key'}, "
        "{field: .user.username, key: users, search_field: .user.username_hash, search_key: users-search}"
    )
    pipelines = f"{{events: {{from: raw.events, schema: event, encrypt: [{rules}]}}}}"
    streams = f"{{lake: {{from: [events.success], s3: {{bucket: abc, region: eu-west-1, format: {form}}}}}}}"
    new_keys_file(Path("own-keys.yaml"), ["cards", "users", "users-search", "dead-letters"])
    given = config(1, pipelines=pipelines, streams=streams, keys="{provider: file, path: own-keys.yaml}")
    code, out, _ = run("check", "--offline", given)
    assert code == 0, out
    left_out = [line for line in out.splitlines() if "leaves it out" in line]
    paths = [] if form == "json" else ["cc_number_key", ".user.username_hash"]
    assert len(left_out) == len(paths)
    for line, path in zip(left_out, paths, strict=True):
        assert line.startswith(f"! stream lake: {form} has no place for ")
        assert path in line


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        (
            "{field: .transaction.result, op: is_string}",
            ".transaction.result holds true or false, so is_string is never",
        ),
        ("{not: {field: .id, op: is_empty}}", ".id holds a number, so is_empty is never true"),
        (
            "{field: .timestamp, op: equal, value: 2021-10-06 10:11:12}",
            "what .timestamp is compared with is delivered in",
        ),
        ("{field: .transaction.cc, op: is_object}", ""),
        ("{field: .description, op: is_empty}", ""),
        ("{field: .detail, op: is_string}", ""),
        ("{field: .transaction.total_price, op: equal, value: 1.5}", ""),
        ("{field: .timestamp, op: equal, value: 2021-10-06T10:11:12Z}", ""),
    ],
)
def test_check_warns_of_comparisons_that_are_never_true(run: Run, condition: str, said: str) -> None:
    pipelines = f"{{events: {{from: raw.events, schema: event, routes: {{some: [{condition}]}}}}}}"
    code, out, _ = run("check", "--offline", config(1, pipelines=pipelines))
    assert code == 0, out
    warned = [line for line in out.splitlines() if "route some: " in line]
    assert len(warned) == bool(said)
    assert said in "".join(warned)


@pytest.mark.parametrize(("gate", "said"), [("off", "nobody looks for"), ("count", "card numbers leave in clear")])
def test_check_warns_of_a_gate_that_lets_cards_through(run: Run, gate: str, said: str) -> None:
    code, out, _ = run(
        "check", "--offline", config(1, pipelines=f"{{events: {{from: raw.events, schema: event, gate: {gate}}}}}")
    )
    assert (code, f"! pipeline events: gate is {gate}, so {said}" in out) == (0, True), out


def test_check_names_each_key_that_is_missing(run: Run) -> None:
    text = Path("examples/workshop.yaml").read_text().replace("key: card-zip", "key: card-post")
    Path("examples/other.yaml").write_text(text)
    code, out, _ = run("check", "--offline", "examples/other.yaml")
    assert code == 78
    assert "✗ keys: pipelines.events.encrypt[3].key names card-post" in out
    assert "run `sluice keys new FILE card-post`" in out


def test_help_of_every_command() -> None:
    for name, command in cli.sluice.commands.items():
        assert command.help, name
        assert command.help.split("\n")[0].endswith((".", ":"))


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def test_an_internal_fault_shows_where_and_no_value() -> None:
    text, code = ending(ExceptionGroup("4111111111111111", [raised(ValueError("4111111111111111"))]))
    assert code == Exit.INTERNAL
    assert "4111" not in text
    assert "test_cli_ends.py" in text
    assert "ValueError" in text


def test_what_is_wrong_at_a_place_in_a_partition_is_no_outage() -> None:
    at = InWork("raw.events", 3, 100, 200)
    text, code = ending(WorkFailed(at, CorruptRecordException("the checksum of a batch of raw.events/3 is wrong")))
    assert code == Exit.INTERNAL
    assert "raw.events/3, offsets 100 to 199" in text
    assert "checksum" in text
    assert ending(WorkFailed(at, KafkaConnectionError("gone")))[1] == Exit.UNAVAILABLE


def test_a_fault_that_aiokafka_wraps_is_an_internal_one_and_shows_where() -> None:
    wrapped = KafkaError("Unexpected error during data retrieval")
    wrapped.__cause__ = raised(ValueError("4111111111111111"))
    text, code = ending(wrapped)
    assert code == Exit.INTERNAL
    assert "ValueError" in text
    assert "4111" not in text
    outage = KafkaError("Unexpected error during batch delivery")
    outage.__cause__ = OSError("gone")
    assert ending(outage)[1] == Exit.UNAVAILABLE


def test_what_the_libraries_log_of_a_crash_holds_no_value() -> None:
    error = UnicodeDecodeError("utf-8", b"4111111111111111", 0, 1, "invalid start byte")
    record = logging.LogRecord(
        "mode.services", logging.ERROR, "", 0, "Crashed reason=%r", (error,), (type(error), error, None)
    )
    assert logs._without_values(record)
    text = logging.Formatter("%(message)s").format(record)
    assert "4111" not in text
    assert "UnicodeDecodeError" in text


def test_a_users_mistake_inside_a_group_of_errors_is_a_sentence() -> None:
    group = ExceptionGroup("tasks", [ExceptionGroup("inner", [UserError("the remedy", Exit.CONFIG)])])
    assert ending(group) == ("sluice: the remedy", Exit.CONFIG)


def test_a_reader_that_has_enough_is_no_failure() -> None:
    generate = subprocess.Popen([SLUICE, "generate"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert generate.stdout
    assert generate.stderr
    assert generate.stdout.readline().startswith(b"{")
    generate.stdout.close()
    assert generate.stderr.read() == b""
    assert generate.wait(20) == 0


@pytest.mark.parametrize("kind", ["events", "usage", "both"])
def test_generate_writes_the_same_for_the_same_seed(kind: str) -> None:
    def written(seed: int) -> bytes:
        # A process each, as hashes and the time of day differ between two of them.
        command = [str(SLUICE), "generate", "--count", "200", "--kind", kind, "--bad", "0.1", "--seed", str(seed)]
        return subprocess.run(command, capture_output=True, check=True, timeout=30).stdout

    once = written(7)
    assert once.count(b"\n") == 200
    assert written(7) == once
    assert written(8) != once


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_generate_ends_with_a_whole_line_and_0_on_a_signal(number: signal.Signals) -> None:
    command = [str(SLUICE), "generate", "--rate", "200", "--kind", "both"]
    generate = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert generate.stdout
    first = generate.stdout.readline()
    generate.send_signal(number)
    rest, err = generate.communicate(timeout=20)
    assert (generate.returncode, err) == (0, b"")
    assert first.endswith(b"}\n")
    assert rest == b"" or rest.endswith(b"}\n")


def test_help_does_not_load_what_commands_need() -> None:
    heavy = "{'boto3', 'aiohttp', 'aiokafka', 'faust', 'pydantic', 'fastavro'}"
    script = f"import sys; import sluice.cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert done.stdout == "[]\n"


def test_check_shows_the_problems_of_a_config_among_its_lines(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("kafka: {brokers: [localhost, 'a:99999']}\npipelines: {events: {from: raw, schema: event}}\n")
    code, out, err = run("check", str(file), "--offline")
    assert (code, err) == (78, "")
    assert [line.partition(": ")[2] for line in out.splitlines()] == [
        "kafka.brokers[0]: 'localhost' is not host:port; write for example localhost:9092",
        "kafka.brokers[1]: 'a:99999' is not host:port; write for example localhost:9092",
    ]
    assert all(line.startswith("✗ config: ") for line in out.splitlines())


def test_what_a_command_writes_arrives_though_it_goes_through_a_buffer() -> None:
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-m", "sluice.cli", "check", "examples/events.jsonl"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, env=buffered, cwd=ROOT)
    assert done.returncode == 78
    assert "is not YAML" in done.stdout


def test_a_link_of_a_bucket_that_cannot_be_read_is_no_fault_of_ours() -> None:
    config = load(ROOT / "examples" / "data-streamer.yaml")
    said = _for_the_user(Conflict("s3://lake/_sluice/x.json cannot be read; restore it"), config, ["s3"])
    assert said is not None
    assert (said.code, str(said)) == (69, "s3 cannot go on: s3://lake/_sluice/x.json cannot be read; restore it")
