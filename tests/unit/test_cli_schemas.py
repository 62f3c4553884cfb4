"""`sluice schemas check`: 0 only when the newer file is known to break nobody."""

import json
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
