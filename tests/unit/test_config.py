"""A config is refused for everything that is wrong with it at once, and no secret of it is ever shown."""

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sluice import reference_page, schemas_page, yaml_file
from sluice.config import Config, ConfigError, load
from sluice.wiring import topic_specs

ROOT = Path(__file__).resolve().parents[2]
SMALL = """
kafka: {brokers: [localhost:9092]}
pipelines: {events: {from: raw.events, schema: event}}
"""


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def read(text: str) -> Config:
        file = tmp_path / "config.yaml"
        file.write_text(text)
        return load(file)

    return read


@pytest.fixture
def problems(read: Any) -> Any:
    """The problems of a text, by path."""

    def problems(text: str) -> dict[str, str]:
        with pytest.raises(ConfigError) as error:
            read(text)
        found = {one.path: one.reason for one in error.value.problems}
        assert all(path in str(error.value) and reason in str(error.value) for path, reason in found.items())
        return found

    return problems


def in_kubernetes() -> str:
    documents = yaml.safe_load_all((ROOT / "deploy/kubernetes/sluice.yaml").read_text())
    text: str = next(one["data"]["config.yaml"] for one in documents if one["kind"] == "ConfigMap")
    return text


@pytest.mark.parametrize(
    "file", ["deploy/compose/config.yaml", "examples/workshop.yaml", "examples/data-streamer.yaml"]
)
def test_the_configs_that_come_with_sluice_are_valid(file: str) -> None:
    config = load(ROOT / file)
    assert config.streams
    assert all(spec.partitions == 4 for spec in topic_specs(config))


def test_the_config_in_the_kubernetes_example_is_valid(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", "swordfish")
    config = read(in_kubernetes())
    assert config.kafka.security.password.get_secret_value() == "swordfish"
    assert "swordfish" not in repr(config)
    assert "swordfish" not in config.model_dump_json()


def test_the_config_in_the_readme_is_valid(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", "x" * 32)
    blocks = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert [len(read(block).streams) for block in blocks] == [3]


def test_what_the_seed_asks_for_is_what_the_workshop_example_does() -> None:
    config = load(ROOT / "examples/workshop.yaml")
    events = config.pipelines["events"]
    assert events.drop == [".buffer"]
    assert events.route_names() == ("success", "fail", "unmatched")
    assert [rule.field.rpartition(".")[2] for rule in events.encrypt] == [
        "cc_number",
        "cc_exp",
        "cc_cvv",
        "cc_zip",
        "cc_name",
    ]
    assert all(rule.algorithm == "AES-256-CFB" and rule.iv_field == f"{rule.field}_iv" for rule in events.encrypt)
    assert len({rule.key for rule in events.encrypt}) == 5
    buckets = {one.s3.bucket: one.topics for one in config.streams.values() if one.s3}
    assert buckets == {
        "mezmo-pipeline-financial-transactions": ["events.success", "events.fail"],
        "mezmo-pipeline-financial-all": ["events.success", "events.fail", "events.unmatched"],
    }


def test_every_problem_is_named_in_one_go(problems: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLUICE_TEST_UNSET", raising=False)
    found = problems("""
kafka:
  brokers: [localhost]
  partitons: 3
  replication: 0
  security: {protocol: SASL_SSL, mechanism: SCRAM-SHA-512, username: sluice, password: ${SLUICE_TEST_UNSET}}
keys: {provider: vault}
reference: {endpoints: {topic: ref endpoints}}
pipelines:
  events:
    from: raw.events
    schema: event
    dorp: [.buffer]
    drop: [.bufer]
    enrich: [{by: .endpoint.id, from: endpoint, into: .endpoint}]
    routes:
      success: [{field: .transaction.reslt, op: equals, value: true}]
    encrypt:
      - {field: .transaction.cc.cc_number, key: card-number, algorithm: AES-256-CFB}
      - {field: .transaction.cc.cc_zip_code, key: card-zip}
  usage: {from: raw.events, schema: usge}
streams:
  events: {from: [events.unmatchd], s3: {bucket: UPPER}}
  kinesis: {from: [events.success], kinesis: {steam: x}}
  http: {from: [events.success], http: {url: "http://example.com/x", seconds: -1}}
  two: {from: [events.success], s3: {bucket: abc}, kinesis: {stream: x}}
  where: {from: [events.success], where: [{field: .organisation.nme, op: exists}], s3: {bucket: abc}}
""")
    expected = {
        "kafka.partitons": "did you mean partitions?",
        "kafka.replication": "must be at least 1, is 0",
        "kafka.security.password": "set the environment variable SLUICE_TEST_UNSET",
        "keys.provider": "must be one of file, env, aws-kms",
        "reference.endpoints.topic": "is no topic name",
        "pipelines.events.dorp": "did you mean drop?",
        "pipelines.events.drop[0]": "did you mean .buffer?",
        "pipelines.events.enrich[0].from": "did you mean endpoints?",
        "pipelines.events.routes.success[0].field": "did you mean .transaction.result?",
        "pipelines.events.routes.success[0].op": "did you mean equal?",
        "pipelines.events.encrypt[0].iv_field": "for example iv_field: .transaction.cc.cc_number_iv",
        "pipelines.events.encrypt[1].field": "did you mean .transaction.cc.cc_zip?",
        "pipelines.usage.from": "raw.events is read by pipeline events already",
        "pipelines.usage.schema": "Did you mean usage?",
        "streams.events": "is the name of a pipeline too",
        "streams.events.from[0]": "did you mean events.unmatched?",
        "streams.events.s3.bucket": "is no bucket name",
        "streams.kinesis.kinesis.steam": "did you mean stream?",
        "streams.kinesis.kinesis.stream": "missing; add it: The name of the stream.",
        "streams.http.http": "url is http://",
        "streams.http.http.seconds": "must be above 0, is -1",
        "streams.two": "needs exactly one destination of s3, kinesis and http, and has s3 and kinesis",
        "streams.two.s3.prefix": "",
        "streams.where.where[0].field": "names no field of the schema",
    }
    expected.pop("streams.two.s3.prefix")
    assert {path: reason for path, reason in expected.items() if reason not in found.get(path, "")} == {}
    followed = found.keys() - expected.keys() - {"kafka.brokers[0]", "streams.where.s3.prefix"}
    assert followed == set(), "a problem that is there only because of another one"


@pytest.mark.parametrize(
    ("text", "path", "reason"),
    [
        ("", "", "holds no mapping"),
        ("- a", "", "holds no mapping"),
        ("a: [", "", "is not YAML"),
        ("a: !!int 4111x", "", "is not YAML: a value is not what its tag (!!) says at line 1, column 4"),
        ("a: 1\na: 2", "", "the key a stands twice at line 2"),
        ("url: {{ host }}", "", "put {{ }} and other templates in quotes"),
        ("a: &x [*x]", "", "contains itself"),
        ("a: " + "[" * 3000 + "]" * 3000, "", "nested too deeply"),
        ("a: *secret", "", "in quotes"),
        ("a: !secret b", "", "in quotes"),
        ("{}", "kafka", "missing; add it: The cluster"),
        ("kafka: null\npipelines: 5", "kafka", "must be a mapping"),
        ("kafka: {brokers: []}\n1: 2", "1", "unknown"),
        (
            "kafka: {brokers: []}\npipelines: {a: {from: r, schema: event, routes: {yes: [{field: .id, op: exists}]}}}",
            "pipelines.a.routes.True",
            "put it in quotes",
        ),
        (
            SMALL + "streams: {s: {from: [events.success, events.success], s3: {bucket: abc}}}",
            "streams.s.from[1]",
            "twice",
        ),
        (SMALL + "streams: {s: {topics: [events.success], s3: {bucket: abc}}}", "streams.s.topics", "unknown"),
        (SMALL.replace("raw.events", "events.success"), "pipelines.events.from", "written by pipeline events already"),
        (
            SMALL + "tests: [{pipeline: events, input: {}, route: success, encrypted: [cc number]}]",
            "tests[0].encrypted",
            "no path",
        ),
        (SMALL.replace("raw.events", "events.dlq"), "pipelines.events.from", "dead letters of events"),
    ],
)
def test_what_is_wrong_is_said(problems: Any, text: str, path: str, reason: str) -> None:
    found = problems(text)
    assert reason in found[path], found


@pytest.mark.parametrize(
    ("stages", "path"),
    [
        ("routes: {a: [{not: {field: .id, op: equals, value: 1}}]}", "routes.a[0].not.op"),
        ("routes: {a: [{any: [{not: {field: .id, op: equals, value: 1}}]}]}", "routes.a[0].any[0].not.op"),
        ("sample: {one_in: 2, always: [{not: {field: .id, op: equals}}]}", "sample.always[0].not.op"),
        ("routes: {a: {field: .id, op: equals, value: 1}}", "routes.a.op"),
        ("routes: {a: {field: .idd, op: exists}}", "routes.a.field"),
        ("routes: {a: {not: [{field: .id, op: exists}, {field: .event, op: exist}]}}", "routes.a.not[1].op"),
        (
            "routes: {a: [{any: [[{field: .event, op: exists}, {field: .idd, op: exists}]]}]}",
            "routes.a[0].any[0][1].field",
        ),
        ("encrypt: [{field: .event, key: k, algorithm: AES-512}]", "encrypt[0].algorithm"),
        ("set: {.id: text}", "set[.id]"),
        ("set: {.detail: {a: .nan}}", "set[.detail]"),
        ("set: {.detail: {a: -.inf}}", "set[.detail]"),
        ("set: {.detail: {a: 1.0e+400}}", "set[.detail]"),
        ('set: {.event: "\\ud800"}', "set[.event]"),
        ('set: {.detail: {a: "\\ud800"}}', "set[.detail].a"),
    ],
)
def test_one_mistake_is_one_problem(problems: Any, stages: str, path: str) -> None:
    found = problems(SMALL.replace("schema: event", f"schema: event, {stages}") + "keys: {provider: env}")
    assert list(found) == [f"pipelines.events.{path}"]


@pytest.mark.parametrize("key", ["pipelines.events.routes.a", "pipelines.events.sample.always", "streams.s.where"])
@pytest.mark.parametrize(
    ("conditions", "path", "reason"),
    [
        ("{field: .id, op: equal, value: text}", ".value", "a number"),
        ("{field: .idd, op: exists}", ".field", "did you mean .id?"),
        ("{feild: .id, op: exists}", ".feild", "did you mean field?"),
        ("[[{feild: .id, op: exists}]]", "[0][0].feild", "did you mean field?"),
        ("{not: [{field: .id, op: exists}, {field: .idd, op: exists}]}", ".not[1].field", "did you mean .id?"),
        ("[{any: [[{field: .idd, op: exists}]]}]", "[0].any[0][0].field", "did you mean .id?"),
        ("[[{field: .id, op: exists}], {field: .idd, op: exists}]", "[1].field", "did you mean .id?"),
        ("[[{field: .id, op: equal, value: text}]]", "[0][0].value", "a number"),
        ("{not: []}", ".not", "is empty"),
        ("{any: []}", ".any", "is empty"),
        ("{not: 0}", ".not", "must be a mapping"),
        ("{0: 1}", ".0", "unknown"),
        ("[" * 22 + "{field: .id, op: exists}" + "]" * 22, "[0]", "nested more than 20 deep"),
        ("5", "", "must be a list"),
    ],
)
def test_a_mistake_in_a_condition_is_told_once_where_it_stands(
    problems: Any, key: str, conditions: str, path: str, reason: str
) -> None:
    always = f"sample: {{one_in: 2, always: {conditions}}}" if "always" in key else ""
    routes = f"routes: {{a: {conditions}}}" if "routes" in key else "routes: {a: {field: .event, op: exists}}"
    text = SMALL.replace("schema: event", ", ".join(filter(None, ("schema: event", routes, always))))
    if "where" in key:
        text += f"streams: {{s: {{from: [events.a], where: {conditions}, http: {{url: 'https://a.example/'}}}}}}"
    found = problems(text)
    assert list(found) == [key + path]
    assert reason in found[key + path]


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("{any: [A, B]}", "[{any: [A, B]}]"),
        ("A", "[A]"),
        ("{not: [A, B]}", "[{not: {all: [A, B]}}]"),
        ("[{any: [[A, B], C]}, [A]]", "[{any: [{all: [A, B]}, C]}, {all: [A]}]"),
    ],
)
def test_a_list_of_conditions_is_all_and_one_alone_is_a_list_of_one(read: Any, short: str, long: str) -> None:
    found = []
    conditions = str.maketrans(
        {
            letter: f"{{field: {field}, op: exists}}"
            for letter, field in (("A", ".id"), ("B", ".event"), ("C", ".detail"))
        }
    )
    for text in (short.translate(conditions), long.translate(conditions)):
        stages = f"routes: {{success: {text}}}, sample: {{one_in: 2, always: {text}}}"
        stream = f"streams: {{s: {{from: [events.success], where: {text}, http: {{url: 'https://a.example/'}}}}}}"
        found.append(read(SMALL.replace("schema: event", f"schema: event, {stages}") + stream))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("section", "path", "reason"),
    [
        ("kafka: {brokers: [a:1], partitions: many}", "kafka.partitions", "must be a whole number"),
        ("kafka: {brokers: [a:1], partitions: 1.5}", "kafka.partitions", "must be a whole number"),
        ("pipelines: {a: {from: '', schema: event}}", "pipelines.a.from", "is empty"),
        ("reference: {x: {topic: ''}}", "reference.x.topic", "is empty"),
        ("streams: {not: {from: [events.success], json_style: x}}", "streams.not", "exactly one destination"),
        ("pipelines: {a: {from: r, schema: event, gate: on}}", "pipelines.a.gate", "choose one"),
        (
            "pipelines: {a: {from: r, schema: event, encrypt: [{field: .id, key: k, pre_authorisation: 3}]}}",
            "pipelines.a.encrypt[0].pre_authorisation",
            "must be true or false",
        ),
    ],
)
def test_a_wrong_form_is_said_in_words_of_ours(problems: Any, section: str, path: str, reason: str) -> None:
    assert reason in problems(section)[path]


@pytest.mark.parametrize(
    "condition",
    [
        "op: matches, value: '4111111111111111('",
        "op: in_cidr, value: 4111-1111-1111-1111",
        "op: in_cidr, value: '4111111111111111'",
    ],
)
def test_no_card_number_is_in_what_is_said_of_a_config(problems: Any, condition: str) -> None:
    routes = f"routes: {{a: [{{field: .event, {condition}}}]}}"
    found = problems(SMALL.replace("schema: event", f"schema: event, {routes}"))
    assert "<16 digits>" in str(found)
    assert "4111" not in str(found)


def test_other_numbers_are_shown_in_what_is_said_of_a_config(problems: Any) -> None:
    condition = "{field: .event, op: in_cidr, value: 192.168.100.100/24}"
    found = problems(SMALL.replace("schema: event", f"schema: event, routes: {{a: [{condition}]}}"))
    assert "192.168.100.100/24" in str(found)
    found = problems(SMALL.replace("schema: event", "schema: event, routes: {4111111111111111: [x]}"))
    assert "4111" not in str(found)


def test_two_streams_may_not_write_under_the_same_keys(problems: Any) -> None:
    stream = "{from: [events.success], s3: {bucket: abc, prefix: p/}}"
    found = problems(f"{SMALL}streams: {{one: {stream}, two: {stream}}}")
    assert found == {
        "streams.two.s3.prefix": "bucket, prefix and topic events.success are those of stream one; use another prefix"
    }


def test_text_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(b"kafka: \xff")
    with pytest.raises(ConfigError, match="save it as UTF-8"):
        load(tmp_path / "config.yaml")


@pytest.mark.parametrize("value", ["!!binary /w==", "!!set {a, b}", "!!timestamp 2020-01-01", "!!omap [a: 1]"])
def test_values_that_no_json_has_are_refused(value: str) -> None:
    with pytest.raises(yaml_file.Unreadable, match=r"a tag \(!\) that is not known"):
        yaml_file.read(f"set: {{.endpoint.tags: {value}}}".encode(), {})


def test_variables_stand_in_unquoted_text_and_in_parts_of_it(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_TEST_HOST", "kafka-1")
    monkeypatch.setenv("SLUICE_TEST_PARTITIONS", "7")
    monkeypatch.setenv("SLUICE_TEST_SECRET", "a: {b} # '\" and so on and so forth")
    config = read("""
kafka: {brokers: [${SLUICE_TEST_HOST}:9092, "${SLUICE_TEST_HOST}0:9092"], partitions: ${SLUICE_TEST_PARTITIONS}}
pipelines: {events: {from: raw.events, schema: event}}
streams: {h: {from: [events.success], http: {url: "https://example.com", secret: ${SLUICE_TEST_SECRET}}}}
""")
    assert config.kafka.brokers == ["kafka-1:9092", "kafka-10:9092"]
    assert config.kafka.partitions == 7
    assert config.streams["h"].http.secret.get_secret_value() == "a: {b} # '\" and so on and so forth"


SECRET = "hunter2-hunter2"


@pytest.mark.parametrize(
    "text",
    [
        "kafka: {brokers: [a:1], security: {password:%s}}",
        "kafka: {brokers: [a:1], security: {password: *%s}}",
        "kafka: {brokers: [a:1], security: {password: !%s x}}",
        "kafka: {brokers: [a:1], security: {password: [%s]}}",
        "kafka: {brokers: ['%s'], security: {password: x}}".replace("%s", "${SLUICE_TEST_SECRET}"),
        "kafka: {brokers: [a:1], security: {protocol: '%s'}}".replace("%s", "${SLUICE_TEST_SECRET}"),
        "kafka: {brokers: [a:1], security: {password: '%s\n",
        "kafka: {brokers: [a:1], security: {protocol: SASL_SSL, password: %s}}",
        "kafka: {brokers: [a:1]}\nstreams: {s: {from: [x], s3: {bucket: b, secret_access_key: %s}}}",
        "kafka: {brokers: [a:1]}\nstreams: {s: {from: [x], http: {url: 'https://u:%s@h/', secret: %s}}}",
        "kafka: {brokers: [a:1]}\nstreams: {s: {from: [x], http: {url: 'https://h', headers: {'X: %s': 1}}}}",
        "kafka: {brokers: [a:1]}\nstreams: {s: {from: [x], s3: {bucket: b, endpoint_url: 'http://u:%s@h'}}}",
    ],
)
def test_no_secret_is_in_what_is_said_of_a_config(problems: Any, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SLUICE_TEST_SECRET", SECRET)
    found = problems(text.replace("%s", SECRET))
    assert found
    assert SECRET not in str(found)


def test_paths_count_from_the_configs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "conf"
    folder.mkdir()
    (folder / "c.yaml").write_text(
        SMALL.replace("9092]", "9092], security: {protocol: SSL, ca: tls/ca.pem}") + "keys: {provider: file}\n"
    )
    monkeypatch.chdir(tmp_path)
    config = load(Path("conf/c.yaml"))
    assert config.keys is not None
    assert (config.keys.path, config.kafka.security.ca) == (folder / "keys.yaml", folder / "tls/ca.pem")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from(
    ["kafka", "pipelines", "streams", "reference", "keys", "from", "schema", "enrich", "s3", "events", "a"]
)


@given(st.recursive(JSON, lambda inner: st.dictionaries(KEYS, inner, max_size=4), max_leaves=20))
def test_any_data_is_a_config_or_a_list_of_problems(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(json.dumps(data))
    with pytest.raises(ConfigError):
        load(file)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(yaml_file.Unreadable):
        yaml_file.read(text.encode("utf-8", "surrogatepass"), {})


def test_the_reference_page_and_the_schema_are_fresh() -> None:
    assert (ROOT / "docs/schemas.md").read_text() == schemas_page.page(), "stale; run `make docs`"
    assert (ROOT / "docs/configuration.md").read_text() == reference_page.page(), "stale; run `make docs`"
    assert (ROOT / "docs/config.schema.json").read_text() == reference_page.schema(), "stale; run `make docs`"


def test_every_key_has_a_description() -> None:
    empty = re.findall(r"^\| `(\w+)` .*\|  \|$", reference_page.page(), re.MULTILINE)
    assert empty == []


@pytest.mark.parametrize("form", ["csv", "avro", "parquet"])
def test_a_format_without_a_place_for_the_vector_of_a_card_field_is_refused(
    problems: Any, read: Any, form: str
) -> None:
    config = """
kafka: {brokers: ["localhost:9092"]}
keys: {provider: file, path: keys.yaml}
pipelines:
  events:
    from: raw.events
    schema: event
    encrypt:
      - {field: .transaction.cc.cc_number, key: card-number, algorithm: AES-256-CFB, iv_field: .transaction.cc.FIELD}
streams:
  s3: {from: [events.success], s3: {bucket: abc, format: FORM}}
"""
    found = problems(config.replace("FORM", form).replace("FIELD", "number_vector"))
    assert list(found) == ["streams.s3.s3.format"]
    assert "name an iv_field that the schema has, such as .transaction.cc.cc_number_iv" in found["streams.s3.s3.format"]
    quoted = config.replace("FORM", form).replace(
        "field: .transaction.cc.cc_number", "field: '.transaction[\"cc\"].cc_number'"
    )
    assert list(problems(quoted.replace("FIELD", "number_vector"))) == ["streams.s3.s3.format"]
    for allowed in (("json", "number_vector"), (form, "cc_number_iv")):
        assert read(config.replace("FORM", allowed[0]).replace("FIELD", allowed[1])).streams


@pytest.mark.parametrize("form", ["csv", "avro", "parquet"])
@pytest.mark.parametrize("field", [".user", '["user"]'])
def test_a_format_without_a_place_for_a_token_is_refused_however_the_field_is_written(
    problems: Any, form: str, field: str
) -> None:
    found = problems(f"""
kafka: {{brokers: ["localhost:9092"]}}
keys: {{provider: file, path: keys.yaml}}
pipelines: {{events: {{from: raw.events, schema: event, encrypt: [{{field: '{field}', key: k}}]}}}}
streams: {{s3: {{from: [events.success], s3: {{bucket: abc, format: {form}}}}}}}
""")
    assert "has no place for the token in .user" in found["streams.s3.s3.format"]
