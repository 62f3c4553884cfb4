"""The key file: read with care for who else may, followed while a worker runs, and replaced in one step."""

import asyncio
import base64
import contextlib
import fcntl
import logging
import os
import secrets
import stat
import tempfile
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.keys import Keys, KeysError, parse_keys
from sluice.exits import Exit, UserError
from sluice.yaml_file import UniqueKeys

log = logging.getLogger(__name__)

Content = dict[str, list[dict[str, str]]]
"""What a key file holds: versions by name, as they are written."""


def read(path: Path) -> Keys:
    """The keys in a file. Raises KeysError with everything that is wrong, OSError when the file cannot be read."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077:
            reason = f"mode is {mode:04o}, so others can read the keys; run `chmod 0400 {path}`"
            raise KeysError([f"{path}: {reason}"])
        keys = parsed(file.read(), str(path))
    if status.st_uid not in (os.geteuid(), 0):
        keys.warnings.append(f"{path}: belongs to user {status.st_uid}, who can change the keys; run `chown` on it")
    if mode & 0o200:
        keys.warnings.append(f"{path}: mode is {mode:04o}, so it can be changed by accident; run `chmod 0400 {path}`")
    return keys


def parsed(content: bytes, origin: str) -> Keys:
    """The keys that the content of a key file, YAML or JSON, describes. Raises KeysError; each problem begins with `origin`."""
    try:
        return parse_keys(yaml.load(content, UniqueKeys))  # noqa: S506  # a SafeLoader
    except KeysError as error:
        problems = error.problems
    except Exception as error:  # whatever a tag of YAML makes of a value it cannot read; its text quotes the file
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}" if mark else ""
        problems = [f"is not YAML{place}, or a key stands twice; correct it"]
    del content  # what shows the variables of a traceback must not show this
    raise KeysError([f"{origin}: {problem}" for problem in problems])


class KeyFile:
    """The keys of provider file, which follow the file."""

    def __init__(self, path: Path) -> None:
        self.keys = Keys.none()
        self._path = path
        self._seen: Hashable = None

    def open(self) -> None:
        """Read the file. Raises KeysError and OSError."""
        self._seen = self._stamp()
        self.keys = read(self._path)

    async def look(self, uses: Mapping[tuple[str, str], int]) -> None:
        """Take the file's keys in if it has changed. If they cannot be used, that is logged, once, and the old ones stay."""
        stamp = await asyncio.to_thread(self._stamp)
        if stamp == self._seen:
            return
        self._seen = stamp
        before = {(key.name, key.id) for key in self.keys if key.active}
        try:
            self.keys.replace(found := await asyncio.to_thread(read, self._path))
        except KeysError as error:
            log.warning("The keys stay as they were: %s.", "; ".join(error.problems))
        except OSError as error:
            log.warning("The keys stay as they were: %s: %s.", self._path, error.strerror)
        else:
            changed = [str(key) for key in self.keys if key.active and (key.name, key.id) not in before]
            log.info("%s has changed; newly active: %s.", self._path, ", ".join(changed) or "none")
            for warning in found.warnings:
                if warning not in self.keys.warnings:
                    log.warning("%s.", warning)
            self.keys.warnings = found.warnings

    def close(self) -> None:
        """Nothing is held open."""

    def _stamp(self) -> Hashable:
        """What is different when the file is another one, was written to, or may be read by others."""
        try:
            found = self._path.stat()
        except OSError as error:
            return error.errno
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def fresh(size: int) -> str:
    """A new random key of so many bytes, in base64."""
    return base64.b64encode(secrets.token_bytes(size)).decode()


def new_keys_file(path: Path, names: Iterable[str], id_: str = "1", size: int = 32) -> None:
    """Write a key file with a fresh random key for each name, mode 0400. Raises FileExistsError rather than overwrite."""
    content = {name: [{"id": id_, "state": "active", "base64": fresh(size)}] for name in names}
    parse_keys(content)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        yaml.safe_dump(content, file, sort_keys=False)


def content_of(path: Path) -> Content:
    """What a file that `read` finds right holds, as it is written. Raises OSError."""
    content: Content = yaml.safe_load(path.read_bytes())
    return content


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """While this process alone changes the file: without it, of two that add a key at once one would lose it."""
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        remedy = "make the folder, or correct keys.path"
        raise UserError(f"{path.parent} cannot be used: {error.strerror}; {remedy}", Exit.CONFIG) from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
        os.fsync(folder)  # the new file's name is on disk too
    finally:
        os.close(folder)


def replace(path: Path, content: Mapping[str, Any]) -> None:
    """Whoever reads sees the old file or the new one; the new one is on disk before it has its name, and belongs to whom the old
    one did. Raises UserError."""
    try:
        owner = path.stat() if path.exists() else None
        descriptor, beside = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # mode 0600
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write("# Encryption keys. Whoever holds this file can read the card fields. Keep old versions.\n")
                yaml.safe_dump(dict(content), file, sort_keys=False, default_flow_style=None, width=200)
                file.flush()
                os.fchmod(descriptor, 0o400)
                if owner is not None and owner.st_uid != os.geteuid():  # root adds a key for the workers' user
                    os.fchown(descriptor, owner.st_uid, owner.st_gid)
                os.fsync(descriptor)
            Path(beside).replace(path)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise
    except OSError as error:
        remedy = "let this user write there, or correct keys.path"
        raise UserError(f"{path} cannot be written: {error.strerror}; {remedy}", Exit.CONFIG) from None
