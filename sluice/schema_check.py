"""`sluice schemas check OLD NEW`: the verdict of `schemas.compatibility` on two files, for people and for programs."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from schemas.compatibility import Finding, check, check_columns
from schemas.fields import InvalidSchema
from schemas.subjects import Column
from sluice.exits import Exit


def run(old: Path, new: Path, as_json: bool) -> int:
    """Compare two Avro schemas (.avsc), or two lists of CSV columns (columns.json). Returns 0, or 2 for what breaks readers.

    Also 2 where it cannot be told: a gate that is left open by a file that nobody can read is none. JSON, on stdout:
    {"verdict": "only-grows" | "breaks" | "unknown", "reason", "findings": [{"path", "change", "text", "breaks", "instead"}]}.
    """
    reason = ""
    findings: list[Finding] = []
    try:
        findings = _compare(_read(old), _read(new))
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
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise InvalidSchema(f"{file} cannot be read: {error.strerror}; give the path of an .avsc file") from None
    except (ValueError, RecursionError):
        raise InvalidSchema(f"{file} is not JSON in UTF-8; give the path of an .avsc file") from None


def _compare(old: Any, new: Any) -> list[Finding]:
    columns = [_columns(one) for one in (old, new)]
    if columns[0] is not None and columns[1] is not None:
        return check_columns(columns[0], columns[1])
    return check(old, new)


def _columns(data: Any) -> list[Column] | None:
    """None for what is no list of CSV columns."""
    if not isinstance(data, list) or not data:
        return None
    if not all(isinstance(one, dict) and one.keys() == {"name", "path"} for one in data):
        return None
    return [Column(**one) for one in data]


def _text(old: Path, new: Path, findings: list[Finding]) -> str:
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
