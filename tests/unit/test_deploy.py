"""The operations files agree with each other and with the metrics that workers promise."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Counter, Gauge, Histogram

from stream import metrics

ROOT = Path(__file__).parents[2]
DASHBOARDS = sorted((ROOT / "deploy/grafana/dashboards").glob("*.json"))

# What is promised to operators; a worker may report more.
PROMISED = {
    "sluice_records_in_total": {"pipeline"},
    "sluice_records_out_total": {"pipeline", "route"},
    "sluice_dead_letters_total": {"source", "reason"},
    "sluice_delivered_records_total": {"stream"},
    "sluice_delivery_failures_total": {"stream", "reason"},
    "sluice_delivery_seconds": {"stream"},
    "sluice_end_to_end_seconds": {"name"},
    "sluice_lag_records": {"topic", "partition"},
    "sluice_key_uses_total": {"key", "id"},
    "sluice_oldest_unsettled_seconds": set[str](),
    "sluice_build_info": {"version"},
}
DECLARED = [value for value in vars(metrics).values() if isinstance(value, Counter | Gauge | Histogram)]
# The name in a scrape, its labels, and whether it is a histogram.
METRICS = {
    metric._name + ("_total" if isinstance(metric, Counter) else ""): (
        set(metric._labelnames),
        isinstance(metric, Histogram),
    )
    for metric in DECLARED
}
ADDED_BY_PROMETHEUS = {"job", "instance"}


def dashboard_queries() -> list[str]:
    return [
        target["expr"]
        for path in DASHBOARDS
        for panel in json.loads(path.read_text())["panels"]
        for target in panel["targets"]
    ]


def rules() -> list[dict[str, Any]]:
    files = (ROOT / "deploy/prometheus").glob("*.rules.yml")
    return [rule for file in files for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]


def series(expression: str) -> set[str]:
    return set(re.findall(r"\bsluice_\w+", expression))


def assert_series_exist(expression: str) -> None:
    """Each series is one that a worker emits (a histogram only by its parts), grouped by labels that it has."""
    labels = set(ADDED_BY_PROMETHEUS)
    for name in series(expression):
        family = re.sub(r"_(bucket|sum|count)$", "", name)
        assert family in METRICS, f"{name} in `{expression}` is no metric of Sluice"
        own, histogram = METRICS[family]
        assert histogram == (name != family), f"{name} in `{expression}`: a histogram has _bucket, _sum and _count only"
        labels |= own | ({"le"} if histogram else set())
    for by in re.findall(r"\bby \(([^)]*)\)", expression):
        wanted = {label.strip() for label in by.split(",")}
        assert wanted <= labels, f"`{expression}` groups by {sorted(wanted - labels)}, which its metrics do not have"


def containers() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The worker containers of the Kubernetes example, each with its pod's spec."""
    for document in yaml.safe_load_all((ROOT / "deploy/kubernetes/sluice.yaml").read_text()):
        if document["kind"] == "Deployment":
            pod = document["spec"]["template"]["spec"]
            yield from ((container, pod) for container in pod["containers"])


@pytest.mark.parametrize("query", dashboard_queries())
def test_a_dashboard_query_asks_for_what_workers_report(query: str) -> None:
    assert series(query)
    assert_series_exist(query)


def test_workers_report_what_is_promised() -> None:
    assert {name: METRICS[name][0] for name in PROMISED} == PROMISED


def test_every_metric_is_explained() -> None:
    page = (ROOT / "docs/operating.md").read_text()
    rows = re.findall(r"^\| `(sluice_\w+)` \| (\w+) \|([\w, ]*)\|", page, re.MULTILINE)
    explained = {name: set(labels.replace(" ", "").split(",")) - {""} for name, _, labels in rows}
    assert explained == {name: labels for name, (labels, _) in METRICS.items()}


def test_the_dashboard_shows_every_metric() -> None:
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for query in dashboard_queries() for name in series(query)}
    assert shown == set(METRICS)


def test_a_dashboard_query_can_be_asked_as_it_stands() -> None:
    assert not [query for query in dashboard_queries() if "$" in query]


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    for path in DASHBOARDS:
        panels = json.loads(path.read_text())["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)
        cells = [
            (x, y)
            for position in (panel["gridPos"] for panel in panels)
            for x in range(position["x"], position["x"] + position["w"])
            for y in range(position["y"], position["y"] + position["h"])
        ]
        assert len(set(cells)) == len(cells)
        assert max(x for x, _ in cells) < 24


def test_dashboards_name_the_data_source_that_is_provisioned() -> None:
    provisioned = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text())
    uids = {source["uid"] for source in provisioned["datasources"]}
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            assert {panel["datasource"]["uid"]} | {target["datasource"]["uid"] for target in panel["targets"]} <= uids


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_dashboard_queries_are_promql(tmp_path: Path) -> None:
    recorded = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(dashboard_queries())]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    checked = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_what_workers_report_and_says_what_to_do(rule: dict[str, Any]) -> None:
    assert_series_exist(rule["expr"])
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"]["summary"]
    assert len(rule["annotations"]["what_to_do"].split()) > 20


def test_every_alert_is_shown_to_fire() -> None:
    """That it fires and keeps silent as written is promtool's to say, in `make check`."""
    tests = yaml.safe_load((ROOT / "deploy/prometheus/sluice.rules.test.yml").read_text())["tests"]
    fires = {
        name
        for test in tests
        for asked in test["promql_expr_test"]
        if asked["exp_samples"]
        for name in re.findall(r'alertname="(\w+)"', asked["expr"])
    }
    assert fires == {rule["alert"] for rule in rules()}


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def compose_workers() -> dict[str, list[str]]:
    """Service name to the names that its worker runs."""
    commands = {name: service.get("command", []) for name, service in compose()["services"].items()}
    return {name: command[2:] for name, command in commands.items() if command[:1] == ["worker"]}


def test_compose_runs_every_pipeline_twice_and_every_stream() -> None:
    config = yaml.safe_load((ROOT / "deploy/compose/config.yaml").read_text())
    run = [name for names in compose_workers().values() for name in names]
    assert {name for name in config["pipelines"] if run.count(name) == 2} == set(config["pipelines"])
    assert set(run) == set(config["pipelines"]) | set(config["streams"])


def test_prometheus_scrapes_every_worker_of_compose_where_it_listens() -> None:
    listen = yaml.safe_load((ROOT / "deploy/compose/config.yaml").read_text())["metrics"]["listen"]
    host, port = listen.split(":")
    assert host == "0.0.0.0"  # Prometheus is another container
    jobs = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    targets = {target for job in jobs for group in job["static_configs"] for target in group["targets"]}
    assert targets == {f"{name}:{port}" for name in compose_workers()}
    assert f"EXPOSE {port}\n" in (ROOT / "Dockerfile").read_text()


def test_compose_publishes_ports_to_this_machine_only_and_none_of_a_worker() -> None:
    for name, service in compose()["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
    assert not [name for name in compose_workers() if compose()["services"][name].get("ports")]


def test_compose_needs_no_variable() -> None:
    for file in ("docker-compose.yml", "deploy/compose/config.yaml"):
        assert "${" not in (ROOT / file).read_text(), file


def test_images_have_versions() -> None:
    images = {name: service["image"] for name, service in compose()["services"].items()}
    loose = {
        name: image for name, image in images.items() if image != "sluice" and not re.search(r":v?\d[\w.]+$", image)
    }
    assert not loose


def test_the_aws_stand_in_is_the_one_of_the_tests() -> None:
    pinned = re.search(r"^moto==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    service = compose()["services"]["aws"]
    assert service["image"] == f"motoserver/moto:{pinned[1]}"
    here, there, _ = service["volumes"][0].split(":")
    assert service["entrypoint"] == ["python", there, "0.0.0.0:5000"]
    imports = re.findall(r"^(?:from|import) (\w+)", (ROOT / here).read_text(), re.MULTILINE)
    assert set(imports) - sys.stdlib_module_names == {"moto", "werkzeug"}, "all that its image has"


def test_the_image_holds_every_package_and_no_key() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.split(".")[0] for name in project["tool"]["setuptools"]["packages"]}
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert {match[1] for match in re.finditer(r"^COPY (\w+) \1$", dockerfile, re.MULTILINE)} == packages
    ignore = (ROOT / ".dockerignore").read_text().split("\n")
    assert {line[1:] for line in ignore if line.startswith("!")} == packages | {"constraints.txt", "pyproject.toml"}
    assert "**/keys.yaml" in ignore
    assert re.search(r"^USER [1-9]\d*$", dockerfile, re.MULTILINE)


def test_kubernetes_probes_ask_the_port_of_the_config_and_leave_time_to_drain() -> None:
    documents = list(yaml.safe_load_all((ROOT / "deploy/kubernetes/sluice.yaml").read_text()))
    config = yaml.safe_load(next(d for d in documents if d["kind"] == "ConfigMap")["data"]["config.yaml"])
    port = int(config["metrics"]["listen"].rpartition(":")[2])
    seen = []
    for container, pod in containers():
        seen.append(container["args"][2])
        assert container["args"][:2] == ["worker", "/etc/sluice/config.yaml"]
        assert {p["name"]: p["containerPort"] for p in container["ports"]} == {"metrics": port}
        probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
        assert {get["port"] for get in probes.values()} == {"metrics"}
        assert [probes[kind]["path"] for kind in ("startup", "liveness", "readiness")] == ["/live", "/live", "/ready"]
        startup = container["startupProbe"]
        assert startup["periodSeconds"] * startup["failureThreshold"] > 60  # a worker retries that long
        assert pod["terminationGracePeriodSeconds"] == 30
        assert pod["securityContext"]["runAsNonRoot"]
    assert set(seen) == set(config["pipelines"]) | set(config["streams"])


def test_every_dependency_has_an_exact_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [one for extra in project["optional-dependencies"].values() for one in extra]
    names = {re.split(r"[\[<>=~!; ]", one, maxsplit=1)[0].lower().replace("_", "-") for one in wanted}
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.+!-]+", line) for line in lines)
    assert names <= {line.partition("==")[0].lower().replace("_", "-") for line in lines}


def test_make_alone_lists_every_target() -> None:
    listed = subprocess.run(["make", "-s", "-C", ROOT], capture_output=True, text=True, check=True).stdout
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony
    assert {match[1] for match in re.finditer(r"^  ([\w-]+) ", listed, re.MULTILINE)} == set(phony[1].split()) - {
        "help"
    }


def test_an_old_python_is_refused_with_the_remedy(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\ncase "$1" in --version) echo "Python 3.9.2";; *) exit 1;; esac\n')
    old.chmod(0o755)
    stamp = tmp_path / "venv"
    command = ["make", "-C", str(ROOT), "setup", f"PYTHON={old}", f"VENV={stamp}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Python 3.9.2 is too old. Sluice needs 3.11 or newer" in done.stdout
    assert not stamp.exists()
    command[-2] = f"PYTHON={tmp_path}/nowhere"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "is not installed. Install Python 3.11 or newer" in done.stdout


def run_check(tools: Path) -> subprocess.CompletedProcess[str]:
    """deploy/check with nothing on the path but bash, dirname and what is in `tools`."""
    for name in ("bash", "dirname"):
        found = shutil.which(name)
        assert found
        (tools / name).symlink_to(found)
    environment = {"PATH": str(tools)}
    return subprocess.run([ROOT / "deploy/check"], env=environment, capture_output=True, text=True, check=False)


def test_checks_without_their_tool_are_skipped_and_say_so(tmp_path: Path) -> None:
    done = run_check(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "skipped: docker-compose is not installed (Debian: docker-compose)" in done.stdout
    assert "skipped: promtool is not installed (Debian: prometheus)" in done.stdout


def test_a_file_that_its_tool_refuses_fails_the_check(tmp_path: Path) -> None:
    promtool = tmp_path / "promtool"
    promtool.write_text("#!/bin/sh\nexit 3\n")
    promtool.chmod(0o755)
    assert run_check(tmp_path).returncode == 3
