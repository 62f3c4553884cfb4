"""Encryption keys: `keys.yaml` maps a key's name to its versions, one of which is active.

Material stays in this process: it is in no repr, error, pickle or config dump.
"""

import base64
import binascii
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

KEY_BYTES = 32
DEAD_LETTERS = "dead-letters"
"""The name of the key that dead letters are sealed with."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_NAMES_ARE = "use letters, digits, '.', '_' and '-', at most 100"


class KeysConfig(BaseModel):
    """Where encryption keys come from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    provider: Literal["file", "env", "aws-kms"] = Field(
        default="file", description="Where keys are kept. Only file works yet."
    )
    path: Path = Field(default=Path("keys.yaml"), description="The key file of provider file; mode 0400.")

    @model_validator(mode="after")
    def _provider_works(self) -> Self:
        if self.provider != "file":
            raise ValueError(
                f"keys from {self.provider} are not supported yet; use provider: file, and mount the key file"
            )
        return self


class KeysError(ValueError):
    """Keys that cannot be used. `problems` has all that is wrong, each with what to do; never any material."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class UnknownKey(KeysError):
    """No key of this name, or no version of it with this id."""


class Key:
    """One version of a key. `material` is 32 bytes, for ciphers only."""

    __slots__ = ("active", "id", "material", "name")

    def __init__(self, name: str, id_: str, material: bytes, active: bool = True) -> None:
        self.name = name
        self.id = id_
        self.material = material
        self.active = active

    def __repr__(self) -> str:
        return f"Key({self.name}/{self.id}, {'active' if self.active else 'decrypt-only'})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} stays in this process; load the key file where it is needed")


class Keys:
    """The keys that a process holds, by name and id."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._versions: dict[str, dict[str, Key]] = {}
        self.warnings: list[str] = []
        """What is not as it should be about where the keys came from."""
        for key in keys:
            self._versions.setdefault(key.name, {})[key.id] = key

    @classmethod
    def none(cls) -> Self:
        """No keys: of a config without a `keys` section."""
        return cls(())

    def __iter__(self) -> Iterator[Key]:
        return (key for versions in self._versions.values() for key in versions.values())

    def __contains__(self, name: str) -> bool:
        return name in self._versions

    def __repr__(self) -> str:
        return f"Keys({', '.join(map(repr, self))})"

    @property
    def names(self) -> list[str]:
        return list(self._versions)

    def active(self, name: str) -> Key:
        """The version of a key to encrypt with. Raises UnknownKey."""
        for key in self._versions.get(name, {}).values():
            if key.active:
                return key
        known = ", ".join(self._versions) or "none"
        raise UnknownKey([f"there is no key {name!r}, known are: {known}; make one with `sluice keys new FILE {name}`"])

    def find(self, name: str, id_: str) -> Key:
        """A version of a key, to decrypt with. Raises UnknownKey."""
        key = self._versions.get(name, {}).get(id_)
        if key is None:
            raise UnknownKey(
                [f"there is no version {id_!r} of key {name!r}; put it back into the key file, decrypt-only"]
            )
        return key


def load_keys(config: KeysConfig) -> Keys:
    """The keys of a config. Raises KeysError with everything that is wrong, OSError when the file cannot be read."""
    path = config.path
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        content = file.read()
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise KeysError([f"{path}: mode is {mode:04o}, so others can read the keys; run `chmod 0400 {path}`"])
    try:
        ring = parse_keys(yaml.safe_load(content))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)  # the error itself quotes the file
        place = f" at line {mark.line + 1}" if mark else ""
        raise KeysError([f"{path}: is not YAML{place}; correct the syntax"]) from None
    except KeysError as error:
        raise KeysError([f"{path}: {problem}" for problem in error.problems]) from None
    if status.st_uid not in (os.geteuid(), 0):
        ring.warnings.append(f"{path}: belongs to user {status.st_uid}, who can change the keys; run `chown` on it")
    if mode & 0o200:
        ring.warnings.append(f"{path}: mode is {mode:04o}, so it can be changed by accident; run `chmod 0400 {path}`")
    return ring


def parse_keys(data: object) -> Keys:
    """The keys that the content of a key file describes. Raises KeysError with everything that is wrong."""
    if not isinstance(data, Mapping) or not data:
        raise KeysError(["holds no keys; make one with `sluice keys new FILE NAME`"])
    problems: list[str] = []
    keys: list[Key] = []
    for name, versions in data.items():
        keys += _versions_of(name, versions, problems)
    if problems:
        raise KeysError(problems)
    return Keys(keys)


def new_keys_file(path: Path, names: Iterable[str], id_: str = "1") -> None:
    """Write a key file with a fresh random key for each name, mode 0400. Raises FileExistsError rather than overwrite."""
    content = {
        name: [{"id": id_, "state": "active", "base64": base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()}]
        for name in names
    }
    parse_keys(content)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        yaml.safe_dump(content, file, sort_keys=False)


def _versions_of(name: Any, versions: Any, problems: list[str]) -> list[Key]:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        problems.append(f"a key's name cannot be used; {_NAMES_ARE}")
        return []
    if not isinstance(versions, list) or not versions:
        problems.append(f"{name}: must be a list of versions; write - {{id: ..., state: active, base64: ...}}")
        return []
    keys = [key for number, one in enumerate(versions) if (key := _version(name, number, one, problems))]
    ids = [key.id for key in keys]
    problems += [f"{name}: the id {id_} stands twice; give each version its own" for id_ in ids if ids.count(id_) > 1][
        :1
    ]
    active = sum(key.active for key in keys)
    if len(keys) == len(versions) and active != 1:
        problems.append(f"{name}: {active} versions are active; make exactly one active and the others decrypt-only")
    return keys


def _version(name: str, number: int, data: Any, problems: list[str]) -> Key | None:
    at = f"{name}[{number}]"
    if not isinstance(data, Mapping):
        problems.append(f"{at}: must be a mapping; write {{id: ..., state: active, base64: ...}}")
        return None
    found: list[str] = []
    unknown = [key for key in data if key not in ("id", "state", "base64", "text")]
    if unknown:
        found.append(f"{at}: has keys that are not known; a version has id, state and either base64 or text")
    id_ = data.get("id")
    if not isinstance(id_, str) or not _NAME.fullmatch(id_):
        found.append(f"{at}.id: must be text in quotes; {_NAMES_ARE}")
    if data.get("state") not in ("active", "decrypt-only"):
        found.append(f"{at}.state: must be active or decrypt-only")
    material = _material(at, data, found)
    problems += found
    if found or material is None:
        return None
    return Key(name, str(id_), material, data["state"] == "active")


def _material(at: str, data: Mapping[str, Any], problems: list[str]) -> bytes | None:
    remedy = f"it needs {KEY_BYTES} bytes, as `openssl rand -base64 {KEY_BYTES}` makes them"
    forms = [form for form in ("base64", "text") if form in data]
    if len(forms) != 1 or not isinstance(data[forms[0]], str):
        problems.append(f"{at}: must have either base64 or text, as a text in quotes; {remedy}")
        return None
    given = data[forms[0]]
    if forms[0] == "text":
        material = given.encode()
    else:
        try:
            material = base64.b64decode(given, validate=True)
        except (binascii.Error, ValueError):
            problems.append(f"{at}.base64: is not base64; {remedy}")
            return None
    if len(material) != KEY_BYTES:
        problems.append(f"{at}.{forms[0]}: holds {len(material)} bytes, and a key of AES-256 has {KEY_BYTES}; {remedy}")
        return None
    return bytes(material)
