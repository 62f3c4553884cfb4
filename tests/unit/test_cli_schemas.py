"""`sluice schemas check`: 0 only when the newer file is known to break nobody."""

import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sluice import schema_check

ROOT = Path(__file__).resolve().parents[2]
FIELD = {"name": "a", "type": ["null", "string"], "default": None}


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """`check(old, new)` with file contents: the exit code and the JSON verdict."""

    def check(old: Any, new: Any) -> tuple[int, dict[str, Any]]:
        for name, content in (("old", old), ("new", new)):
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            (tmp_path / name).write_bytes(data)
        code = schema_check.run(tmp_path / "old", tmp_path / "new", as_json=True)
        out = capsys.readouterr()
        assert out.err == ""
        assert schema_check.run(tmp_path / "old", tmp_path / "new", as_json=False) == code
        said = capsys.readouterr()
        assert (said.out or said.err).strip()
        return code, json.loads(out.out)

    return check


def record(*fields: Any) -> dict[str, Any]:
    return {"type": "record", "name": "R", "fields": list(fields)}


def test_a_field_at_the_end_is_no_problem(check: Any) -> None:
    code, verdict = check(record(FIELD), record(FIELD, {**FIELD, "name": "b"}))
    assert (code, verdict) == (0, {"verdict": "only-grows", "reason": None, "findings": []})


def test_what_breaks_says_where_whom_and_what_to_do_instead(check: Any) -> None:
    code, verdict = check(record(FIELD, {**FIELD, "name": "b"}), record(FIELD))
    assert code == 2
    assert verdict["verdict"] == "breaks"
    (finding,) = verdict["findings"]
    assert finding["path"] == ".b"
    assert finding["change"] == "removed"
    assert all(finding[key] for key in ("text", "breaks", "instead"))


@pytest.mark.parametrize(
    "new", [b"", b"{", b"\xff", b"null", b"5", b'{"type":"record"}', b"[" * 200_000, b'{"type":"nope"}'], ids=range(8)
)
def test_what_cannot_be_told_is_not_allowed(check: Any, new: bytes) -> None:
    code, verdict = check(record(FIELD), new)
    assert code == 2
    assert verdict["verdict"] == "unknown" or verdict["findings"]


def test_csv_columns_are_compared_too(check: Any) -> None:
    columns = [{"name": "id", "path": ".id"}, {"name": "name", "path": ".name"}]
    assert check(columns[:1], columns)[0] == 0
    assert check(columns, columns[::-1])[0] == 2
    assert check(columns, columns[:1])[1]["findings"][0]["change"] == "column-changed"


def test_every_version_of_every_subject_only_adds_to_the_one_before() -> None:
    for folder in (ROOT / "schemas").iterdir():
        files = sorted(folder.glob("v*.avsc"), key=lambda file: int(file.stem[1:])) if folder.is_dir() else []
        for old, new in pairwise(files):
            assert schema_check.run(old, new, as_json=False) == 0


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The folder `schemas` of a git clone, with two versions of a subject, released in its only commit."""
    folder = tmp_path / "schemas"
    (folder / "event").mkdir(parents=True)
    write(folder / "event/v1.avsc", record(FIELD))
    write(folder / "event/v2.avsc", record(FIELD, {**FIELD, "name": "b"}))
    write(folder / "event/columns.json", [{"name": "a", "path": ".a"}])
    write(folder / "ids.json", {"1": "event/v1", "2": "event/v2"})
    git(tmp_path, "init", "-q")
    commit(tmp_path)
    return folder


def write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content))


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True)


def commit(folder: Path) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "release")


def against(tree: Path, capsys: pytest.CaptureFixture[str], *revisions: str) -> tuple[int, list[tuple[str, str]], str]:
    """The exit code, path and change of each finding, and the reason for having none."""
    capsys.readouterr()
    code = schema_check.run_against(revisions or ("HEAD",), tree, as_json=True)
    verdict = json.loads(capsys.readouterr().out)
    return code, [(one["path"], one["change"]) for one in verdict["findings"]], verdict["reason"] or ""


def test_a_tree_that_only_grows_is_let_through(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert against(tree, capsys) == (0, [], "")
    write(tree / "event/v3.avsc", record(FIELD, {**FIELD, "name": "b"}, {**FIELD, "name": "c"}))
    write(tree / "event/columns.json", [{"name": "a", "path": ".a"}, {"name": "b", "path": ".b"}])
    assert against(tree, capsys)[1] == [("event/v3.avsc", "id-changed")], "a version without an id"
    write(tree / "ids.json", {"1": "event/v1", "2": "event/v2", "3": "event/v3", "4": "usage/v1"})
    (tree / "usage").mkdir()
    write(tree / "usage/v1.avsc", record(FIELD))
    assert against(tree, capsys) == (0, [], "")


EDITS: dict[str, tuple[str, Any, list[tuple[str, str]]]] = {
    "a released version gets a doc": (
        "event/v1.avsc",
        record({**FIELD, "doc": "d"}),
        [("event/v1.avsc", "version-edited")],
    ),
    "a released version gets a field": (
        "event/v2.avsc",
        record(FIELD, {**FIELD, "name": "b"}, {**FIELD, "name": "c"}),
        [("event/v2.avsc", "version-edited")],
    ),
    "a released version loses a field": (
        "event/v2.avsc",
        record(FIELD),
        [("event/v2.avsc", "version-edited"), ("event/v2.avsc: .b", "removed")],
    ),
    "a new version loses a field": (
        "event/v3.avsc",
        record(FIELD),
        [("event/v3.avsc: .b", "removed"), ("event/v3.avsc", "id-changed")],
    ),
    "a version is left out": (
        "event/v4.avsc",
        record(FIELD),
        [("event/v4.avsc", "version-removed"), ("event/v4.avsc", "id-changed")],
    ),
    "a column moves": (
        "event/columns.json",
        [{"name": "b", "path": ".b"}, {"name": "a", "path": ".a"}],
        [("event/columns.json: .a", "column-changed")],
    ),
    "an id means something else": ("ids.json", {"1": "event/v2", "2": "event/v1"}, [("ids.json", "id-changed")] * 2),
}


@pytest.mark.parametrize("what", EDITS)
def test_what_was_released_stays_as_it_is(tree: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    name, content, expected = EDITS[what]
    write(tree / name, content)
    code, found, _ = against(tree, capsys)
    assert (code, found) == (2, expected)


def test_a_version_or_the_columns_are_taken_away(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "event/v2.avsc").unlink()
    (tree / "event/columns.json").unlink()
    code, found, _ = against(tree, capsys)
    assert (code, found) == (2, [("event/columns.json: .a", "column-changed"), ("event/v2.avsc", "version-removed")])


def test_an_edit_is_found_after_it_was_committed_too(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tree / "event/v2.avsc", record(FIELD))
    commit(tree.parent)
    assert against(tree, capsys)[0] == 0
    assert against(tree, capsys, "HEAD", "HEAD~1")[0] == 2


def test_a_revision_from_before_the_schemas_had_promised_nothing(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    git(tree.parent, "checkout", "-q", "--orphan", "older")
    git(tree.parent, "rm", "-q", "-r", "--cached", ".")
    git(tree.parent, "commit", "-q", "--allow-empty", "-m", "nothing yet")
    assert against(tree, capsys) == (0, [], "")


def test_what_git_does_not_know_cannot_be_told(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, reason = against(tree, capsys, "no-such-tag")
    assert code == 2
    assert "git has no no-such-tag" in reason
    for name, content in (("event/columns.json", "{}"), ("event/columns.json", '[{"name": "a"}]'), ("ids.json", "[]")):
        before = (tree / name).read_text()
        (tree / name).write_text(content)
        assert against(tree, capsys)[2].startswith(f"{name} is no ")
        (tree / name).write_text(before)
    (tree / "new").mkdir()
    (tree / "new/v1.avsc").write_text('{"type": "record"}')
    assert "new/v1.avsc is not valid Avro" in against(tree, capsys)[2]
    (tree / "new/v1.avsc").unlink()
    (tree / "event/v1.avsc").write_text("{")
    assert against(tree, capsys)[2].startswith("event/v1.avsc is not JSON")
    assert "holds nothing" in against(tmp_path / "none", capsys)[2]


def cloned(folder: Path, *options: str) -> tuple[Path, list[str]]:
    """A clone of this repository, and the call of `make schemas` in it."""
    clone = folder / "clone"
    subprocess.run(["git", "clone", "-q", *options, f"file://{ROOT}", str(clone)], check=True)
    shutil.copy(ROOT / "Makefile", clone)
    (clone / ".venv").mkdir()
    (clone / ".venv/.installed").touch()
    return clone, ["make", "-s", "-C", str(clone), "schemas", f"BIN={Path(sys.executable).parent}"]


def test_make_check_refuses_an_edit_of_any_released_schema(tmp_path: Path) -> None:
    """As `make check` calls it, on a clone of this repository in which somebody edits a released file."""
    clone, target = cloned(tmp_path)
    assert subprocess.run(target, check=False).returncode == 0
    file = clone / "schemas/event/v1.avsc"
    file.write_text(file.read_text().replace("What happened, in words.", "What happened."))
    commit(clone)
    done = subprocess.run(target, check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert "event/v1.avsc was changed after its release" in done.stdout


def test_a_clone_without_history_is_no_proof_where_ci_asks_for_one(tmp_path: Path) -> None:
    _, target = cloned(tmp_path, "--depth", "1")
    here = {name: value for name, value in os.environ.items() if name != "CI"}
    for environment, passes in ((here, True), (here | {"CI": "true"}, False)):
        done = subprocess.run(target, check=False, capture_output=True, text=True, env=environment)
        assert (done.returncode == 0) == passes
        assert "older releases were not compared (git fetch --unshallow)" in done.stdout
