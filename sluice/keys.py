"""`sluice keys new` and `list`: the keys file that a config names, made and changed without ever showing a key."""

import base64
import fcntl
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from pipeline.keys import DEAD_LETTERS, KEY_BYTES, Keys, KeysError, load_keys, parse_keys
from sluice.config import Config
from sluice.exits import Exit, UserError

Content = dict[str, list[dict[str, str]]]


def new(config: Config, name: str | None, today: date | None = None) -> None:
    """Add a new active version of the key `name`; None: of every key that the config uses and the file lacks.

    An active version of that name becomes decrypt-only. The file is replaced in one step, mode 0400, and made if it is not
    there; comments in it are lost. Blocks while another process changes the file. Raises UserError.
    """
    path = _path(config)
    used = names_used(config)
    with _locked(path):
        content = _content(config, path)
        names = [name] if name is not None else [one for one in used if one not in content]
        ids = {one: _add(content, one, today or date.today()) for one in names}
        if not ids:
            sys.stdout.write(f"{path} has every key that the config uses: {', '.join(used)}\n")
            return
        try:
            parse_keys(content)
        except KeysError as error:
            raise UserError(str(error), Exit.USAGE) from None
        _replace(path, content)
    for one, id_ in ids.items():
        sys.stdout.write(f"{one}: new active key {id_} in {path}\n")
        if one not in used:
            sys.stdout.write(f"{one}: no rule of this config uses it yet; name it as `key:` of one\n")


def show(config: Config) -> None:
    """Print names, ids and states of all keys. Raises UserError."""
    ring = loaded(config)
    versions = [(key.name, key.id, "active" if key.active else "decrypt-only") for key in ring]
    widths = [max(len(row[column]) for row in versions) for column in (0, 1)]
    for name, id_, state in versions:
        sys.stdout.write(f"{name:<{widths[0]}}  {id_:<{widths[1]}}  {state}\n")
    for warning in ring.warnings:
        sys.stdout.write(f"! {warning}\n")


def names_used(config: Config) -> list[str]:
    """The keys that rules name, in order, and the one that seals dead letters."""
    rules = [name for pipeline in config.pipelines.values() for name in pipeline.key_names()]
    return list(dict.fromkeys([*rules, DEAD_LETTERS]))


def loaded(config: Config) -> Keys:
    """The keys of a config; none if it has no `keys:`. Raises UserError for a file that cannot be used."""
    if config.keys is None:
        return Keys.none()
    try:
        return load_keys(config.keys)
    except KeysError as error:
        raise UserError("\n".join(error.problems), Exit.CONFIG) from None
    except FileNotFoundError:
        remedy = "make it with `sluice keys new FILE --all`, or correct keys.path"
        raise UserError(f"{config.keys.path} is not there; {remedy}", Exit.CONFIG) from None
    except OSError as error:
        remedy = "let the user who runs Sluice read it, or correct keys.path"
        raise UserError(f"{config.keys.path} cannot be read: {error.strerror}; {remedy}", Exit.CONFIG) from None


def _path(config: Config) -> Path:
    if config.keys is None:
        raise UserError("the config names no keys file; add `keys: {provider: file, path: keys.yaml}`", Exit.CONFIG)
    return config.keys.path


def _content(config: Config, path: Path) -> Content:
    """What the file holds now, having been checked; nothing if it is not there."""
    if not path.exists():
        return {}
    loaded(config)
    content: Content = yaml.safe_load(path.read_bytes())
    return content


def _add(content: Content, name: str, today: date) -> str:
    """Add a version; its id is the day, with a number if there is one of that day."""
    versions = content.setdefault(name, [])
    taken = {version["id"] for version in versions}
    id_, number = today.isoformat(), 1
    while id_ in taken:
        number += 1
        id_ = f"{today.isoformat()}.{number}"
    for version in versions:
        version["state"] = "decrypt-only"
    material = base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
    versions.insert(0, {"id": id_, "state": "active", "base64": material})
    return id_


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """While this process alone changes the file: without it, of two that add a key at once one would lose it."""
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        remedy = "make the folder, or correct keys.path"
        raise UserError(f"{path.parent} cannot be used: {error.strerror}; {remedy}", Exit.CONFIG) from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _replace(path: Path, content: Mapping[str, Any]) -> None:
    """Whoever reads sees the old file or the new one; the new one is on disk before it has its name."""
    try:
        descriptor, beside = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # mode 0600
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write("# Encryption keys. Whoever holds this file can read the card fields. Keep old versions.\n")
                yaml.safe_dump(dict(content), file, sort_keys=False, default_flow_style=None, width=200)
                file.flush()
                os.fchmod(descriptor, 0o400)
                os.fsync(descriptor)
            Path(beside).replace(path)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise
    except OSError as error:
        remedy = "let this user write there, or correct keys.path"
        raise UserError(f"{path} cannot be written: {error.strerror}; {remedy}", Exit.CONFIG) from None
