"""`sluice keys new`, `rotate` and `list`: the keys that a config names, made and changed without ever showing one."""

import sys
from datetime import date
from pathlib import Path

from pipeline.keys import KeysError, parse_keys
from sluice.config import Config
from sluice.exits import Exit, UserError
from sluice.key_file import Content, content_of, fresh, locked, replace
from sluice.keys import USUAL_BYTES, opened, sizes_used, source_of
from sluice.private_memory import keep_memory_private


def new(config: Config, name: str | None, today: date | None = None, size: int | None = None) -> None:
    """Add a new active version of the key `name`; None: of every key that the config uses and the file lacks.

    It has `size` bytes; None: as many as the rules that use it want, else as its active version has, else 32. An active version
    of that name becomes decrypt-only. The file is replaced in one step, mode 0400, and made if it is not there; comments in it
    are lost. Blocks while another process changes the file. Raises UserError.
    """
    path = _path(config)
    used = sizes_used(config)
    with locked(path):
        content = _content(config, path)
        names = [name] if name is not None else [one for one in used if one not in content]
        if not names:
            sys.stdout.write(f"{path} has every key that the config uses: {', '.join(used)}\n")
            return
        sizes = {one: size or used.get(one) or _size(content, one) or USUAL_BYTES for one in names}
        _add(path, content, sizes, today or date.today())
    for one in names:
        if one not in used:
            sys.stdout.write(f"{one}: no rule of this config uses it yet; name it as `key:` of one\n")


def rotate(config: Config, name: str, today: date | None = None) -> None:
    """Add a new active version of a key that is there, as long as the active one, which becomes decrypt-only. As `new` else."""
    path = _path(config)
    with locked(path):
        content = _content(config, path)
        if (size := _size(content, name)) is None:
            known = ", ".join(content) or "none"
            remedy = f"make it with `sluice keys new FILE {name}`" if name else "name one"
            raise UserError(f"there is no key {name!r} to rotate, known are: {known}; {remedy}", Exit.USAGE)
        _add(path, content, {name: size}, today or date.today())
    sys.stdout.write(f"{name}: workers on this file use it within seconds; older versions still decrypt\n")
    if name in _hashing(config):
        sys.stdout.write(f"{name}: hashes and search tokens are others from then on, and match no older ones\n")


def _hashing(config: Config) -> set[str]:
    """The keys that make hashes and search tokens."""
    hashed = {rule.key for one in config.pipelines.values() for rule in one.redact if rule.key}
    return hashed | {rule.search_key for one in config.pipelines.values() for rule in one.encrypt if rule.search_key}


def show(config: Config) -> None:
    """Print names, ids, states and lengths of all keys. Raises UserError."""
    warnings: list[str] = []
    if config.keys is not None and config.keys.provider == "aws-kms":
        rows = [(name, str(config.keys), "data keys", f"{size} bytes") for name, size in sizes_used(config).items()]
    else:
        source = source_of(config)
        opened(config, source)
        warnings = source.keys.warnings
        rows = [
            (key.name, key.id, "active" if key.active else "decrypt-only", f"{len(key.material)} bytes")
            for key in source.keys
        ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    for name, id_, state, size in rows:
        sys.stdout.write(f"{name:<{widths[0]}}  {id_:<{widths[1]}}  {state:<{widths[2]}}  {size}\n")
    for warning in warnings:
        sys.stdout.write(f"! {warning}\n")


def _path(config: Config) -> Path:
    keep_memory_private()
    if config.keys is None:
        raise UserError("the config names no keys file; add `keys: {provider: file, path: keys.yaml}`", Exit.CONFIG)
    if config.keys.provider == "env":
        text = f"keys come from {config.keys}, which this cannot change"
        raise UserError(
            f"{text}; make a key file with a config of provider: file, and put its content there", Exit.CONFIG
        )
    if config.keys.provider == "aws-kms":
        text = f"data keys come from {config.keys}, and are made and replaced by the workers"
        raise UserError(f"{text}; there is nothing to do", Exit.CONFIG)
    return config.keys.path


def _content(config: Config, path: Path) -> Content:
    """What the file holds now, having been checked; nothing if it is not there."""
    if not path.exists():
        return {}
    opened(config, source_of(config))
    return content_of(path)


def _size(content: Content, name: str) -> int | None:
    """Bytes of the active version of a key; None if there is no such key."""
    if name not in content:
        return None
    return len(parse_keys({name: content[name]}).active(name).material)


def _add(path: Path, content: Content, sizes: dict[str, int], today: date) -> None:
    """Add a version to each of these keys, and write the file. An id is the day, with a number if there is one of that day."""
    ids = {}
    for name, size in sizes.items():
        versions = content.setdefault(name, [])
        taken = {version["id"] for version in versions}
        id_, number = today.isoformat(), 1
        while id_ in taken:
            number += 1
            id_ = f"{today.isoformat()}.{number}"
        for version in versions:
            version["state"] = "decrypt-only"
        versions.insert(0, {"id": id_, "state": "active", "base64": fresh(size)})
        ids[name] = id_
    try:
        parse_keys(content)
    except KeysError as error:
        raise UserError(str(error), Exit.USAGE) from None
    replace(path, content)
    for name, id_ in ids.items():
        sys.stdout.write(f"{name}: new active key {id_} in {path}\n")
