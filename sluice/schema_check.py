"""`sluice schemas check`: the verdict on two files, or on all subjects since a git revision, for people and for programs."""

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from schemas.compatibility import Finding, check, check_columns
from schemas.fields import InvalidSchema
from schemas.releases import Tree, check_trees, columns_in, parsed
from sluice.exits import Exit


def run(old: Path, new: Path, as_json: bool) -> int:
    """Compare two Avro schemas (.avsc), or two lists of CSV columns (columns.json). Returns 0, or 2 for what breaks readers.

    Also 2 where it cannot be told: a gate that is left open by a file that nobody can read is none. JSON, on stdout:
    {"verdict": "only-grows" | "breaks" | "unknown", "reason", "findings": [{"path", "change", "text", "breaks", "instead"}]}.
    """
    return _verdict(lambda: _compare(_read(old), _read(new)), str(old), str(new), as_json)


def run_against(revisions: Sequence[str], folder: Path, as_json: bool) -> int:
    """Compare the subjects under `folder` with what they were in each of these git revisions. Returns and prints as `run` does.

    A revision that has no such folder had promised nothing.
    """

    def compare() -> list[Finding]:
        now = {str(file.relative_to(folder)): _content(file) for file in folder.rglob("*") if file.is_file()}
        if not now:
            raise InvalidSchema(f"{folder} holds nothing; call it where the folder `schemas` is, or name that folder")
        found = [one for revision in revisions for one in check_trees(_tree_at(revision, folder), now)]
        return list(dict.fromkeys(found))

    return _verdict(compare, ", ".join(revisions), str(folder), as_json)


def _tree_at(revision: str, folder: Path) -> Tree:
    try:
        listed = _git(folder, "ls-tree", "--name-only", revision, "--", ".")
        archive = _git(folder, "archive", "--format=tar", revision, ".") if listed else b""
    except OSError:
        raise InvalidSchema("git is not installed; install it") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise InvalidSchema(
            f"git has no {revision} of {folder} ({''.join(said)}); name a commit, tag or branch of this clone "
            "(one that was cloned without its history: git fetch --unshallow)"
        ) from None
    if not archive:
        return {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        files = {one.name: tar.extractfile(one) for one in tar.getmembers() if one.isfile()}
    return {name: data.read() for name, data in files.items() if data is not None}


def _git(folder: Path, *arguments: str) -> bytes:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True).stdout  # noqa: S603  # ours, with a revision as it came


def _verdict(compare: Callable[[], list[Finding]], old: str, new: str, as_json: bool) -> int:
    reason = ""
    findings: list[Finding] = []
    try:
        findings = compare()
    except InvalidSchema as error:
        reason = str(error)
    verdict = "unknown" if reason else "breaks" if findings else "only-grows"
    if as_json:
        found = {"verdict": verdict, "reason": reason or None, "findings": [asdict(one) for one in findings]}
        sys.stdout.write(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    elif reason:
        sys.stderr.write(f"sluice: cannot tell whether {new} only adds to {old}: {reason}\n")
    else:
        sys.stdout.write(_text(old, new, findings))
    return Exit.DONE if verdict == "only-grows" else Exit.BREAKS_SCHEMA


def _read(file: Path) -> Any:
    return parsed(str(file), _content(file))


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InvalidSchema(f"{file} cannot be read: {error.strerror}; give the path of an .avsc file") from None


def _compare(old: Any, new: Any) -> list[Finding]:
    before, after = (columns_in(one) or None for one in (old, new))  # an empty list is a union without branches
    if before is not None and after is not None:
        return check_columns(before, after)
    return check(old, new)


def _text(old: str, new: str, findings: list[Finding]) -> str:
    if not findings:
        return f"✓ {new} only adds to {old}\n"
    lines = []
    for one in findings:
        lines.append(f"✗ {one.path or 'the schema'} {one.text} ({one.change})")
        lines.append(f"    breaks: {one.breaks}")
        lines.append(f"    instead: {one.instead}")
    count = "1 change breaks" if len(findings) == 1 else f"{len(findings)} changes break"
    lines.append(f"{count} what {old} promised to those who read it.")
    return "\n".join(lines) + "\n"
