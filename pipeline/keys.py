"""Encryption keys by name: the versions of each, of which one is active, and how often they were used.

Material stays in this process: it is in no repr, error, pickle or config dump.
"""

import base64
import binascii
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from hmac import compare_digest
from typing import Any, NoReturn, Self, SupportsIndex

SIZES = (16, 24, 32)
"""Bytes that a key may have: AES-128, AES-192, AES-256."""
DEAD_LETTERS = "dead-letters"
"""The name of the key that dead letters are sealed with."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_NAMES_ARE = "use letters, digits, '.', '_' and '-', at most 100"
_REMEDY = "it needs 16, 24 or 32 bytes, as `openssl rand -base64 32` makes them"
_SAMPLE = "6B58703273357638792F423F4528482B"
"""The key of the workshop's page: as it stands there, and what one gets who reads it as hexadecimal."""
_PUBLISHED = (_SAMPLE.encode(), _SAMPLE.lower().encode(), bytes.fromhex(_SAMPLE))


class KeysError(ValueError):
    """Keys that cannot be used. `problems` has all that is wrong, each with what to do; never any material."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class UnknownKey(KeysError):
    """No key of this name, or no version of it with this id."""


class Material(bytes):
    """The bytes of a key, for ciphers: to be used as bytes, and neither shown nor copied out of the process by accident."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} bytes of a key>"

    __str__ = __repr__

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("key material stays in this process; load the keys where they are needed")


class Key:
    """One version of a key. `material` is for ciphers only; its length decides which AES it is for."""

    __slots__ = ("active", "id", "material", "name")

    def __init__(self, name: str, id_: str, material: bytes, active: bool = True) -> None:
        self.name = name
        self.id = id_
        self.material = Material(material)
        self.active = active

    def __str__(self) -> str:
        """Name and id, for people: an id that holds a wrapped data key is cut short."""
        return f"{self.name}/{self.id if len(self.id) <= 100 else self.id[:12] + '…'}"

    def __repr__(self) -> str:
        return f"Key({self}, {'active' if self.active else 'decrypt-only'})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} stays in this process; load the keys where they are needed")


Unwrap = Callable[[str, str], Key]
"""From a key's name and the id of a data key to that data key; may block. Raises UnknownKey."""


class Keys:
    """The keys that a process holds, by name and id.

    Their content may be replaced while they are in use: `version` is another number then, and who keeps a cipher compares it
    once a batch. Not thread-safe: all but `find` is for the thread of the event loop.
    """

    def __init__(self, keys: Iterable[Key], unwrap: Unwrap | None = None) -> None:
        """`unwrap` finds what is not among `keys`: where ids hold data keys, which are many and short-lived."""
        self._versions = _by_name(keys)
        self._unwrap = unwrap
        self._demands: dict[str, set[str]] = defaultdict(set)
        self._uses: Counter[tuple[str, str]] = Counter()
        self.version = 0
        """Changes with each `replace`."""
        self.paused = ""
        """Why nothing may be encrypted at present; "" if it may."""
        self.warnings: list[str] = []
        """What is not as it should be about where the keys came from."""

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
        key = _active(self._versions, name)
        if key is None:
            known = ", ".join(self._versions) or "none"
            remedy = f"make one with `sluice keys new FILE {name}`"
            raise UnknownKey([f"there is no key {name!r}, known are: {known}; {remedy}"])
        return key

    def demand(self, name: str, algorithm: str) -> Key:
        """The active version of a key, which has to suit `algorithm` (`AES-128-CFB`, `HMAC-SHA256`) now and after each `replace`.

        Raises UnknownKey, and KeysError for a key of another length, or for data keys where the same has to come out tomorrow.
        """
        key = self.active(name)
        if unfit := self._unfit(key, algorithm):
            raise KeysError([unfit])
        self._demands[name].add(algorithm)
        return key

    def find(self, name: str, id_: str) -> Key:
        """A version of a key, to decrypt with. May block where ids hold data keys. Raises UnknownKey."""
        key = self._versions.get(name, {}).get(id_)
        if key is None and self._unwrap is not None:
            return self._unwrap(name, id_)
        if key is None:
            raise UnknownKey(
                [f"there is no version {id_[:100]!r} of key {name!r}; put it back into the key file, decrypt-only"]
            )
        return key

    def replace(self, keys: Iterable[Key]) -> None:
        """Hold these keys from now on.

        Raises KeysError, and changes nothing, if one that is in demand is not among them or would not suit any more, or if an id
        stands for another key than before: what was encrypted under it could not be decrypted.
        """
        versions = _by_name(keys)
        problems = [
            f"{key} is another key than before; give it an id of its own, and keep the one before as decrypt-only"
            for key in self
            if (now := versions.get(key.name, {}).get(key.id)) and not compare_digest(now.material, key.material)
        ]
        for name, algorithms in self._demands.items():
            key = _active(versions, name)
            if key is None:
                problems.append(f"{name}: is in use, and not there any more; put it back")
            else:
                problems += filter(None, (self._unfit(key, algorithm) for algorithm in sorted(algorithms)))
        if problems:
            raise KeysError(problems)
        self._versions = versions
        self.version += 1

    def used(self, key: Key, count: int) -> None:
        """`count` values were encrypted with a key. To be called once for a batch."""
        self._uses[key.name, key.id] += count

    def take_uses(self) -> Mapping[tuple[str, str], int]:
        """How often each key was used since this was last asked, by name and id."""
        uses, self._uses = self._uses, Counter()
        return uses

    def _unfit(self, key: Key, algorithm: str) -> str:
        """Why a key does not suit an algorithm; "" if it does."""
        needed, size = key_bytes(algorithm), len(key.material)
        if needed is not None and needed != size:
            return (
                f"{key} has {size} bytes, which is AES-{8 * size}, and {algorithm} needs {needed}; use an algorithm of "
                f"AES-{8 * size}, or a key made with `sluice keys new FILE NAME --bytes {needed}`"
            )
        if algorithm.startswith("HMAC") and self._unwrap is not None:
            return (
                f"{key.name} is a data key, which is replaced every day, and {algorithm} has to give the same for ever; take "
                "keys from provider file or env for it"
            )
        return ""


def key_bytes(algorithm: str) -> int | None:
    """How long the key of an algorithm is: 16 for `AES-128-CFB`. None: any length will do."""
    found = re.match(r"AES-(128|192|256)-", algorithm)
    return int(found[1]) // 8 if found else None


def parse_keys(data: object) -> Keys:
    """The keys that the content of a key file describes. Raises KeysError with everything that is wrong."""
    if not isinstance(data, Mapping) or not data:
        raise KeysError(["holds no keys; make one with `sluice keys new FILE NAME`"])
    found, problems = _parsed(data)
    del data  # what shows the variables of a traceback must not show this
    if problems:
        raise KeysError(problems)
    keys = Keys(found)
    keys.warnings += [
        f"{key}: {weak}, so what it has encrypted is as good as in clear"
        for key in found
        if (weak := _weak(key.material))
    ]
    return keys


def _parsed(data: Mapping[Any, Any]) -> tuple[list[Key], list[str]]:
    problems: list[str] = []
    keys: list[Key] = []
    for name, versions in data.items():
        keys += _versions_of(name, versions, problems)
    first: dict[Material, Key] = {}
    for key in keys:
        other = first.setdefault(key.material, key)
        if other.name != key.name and not _weak(key.material):  # weak ones are old, and may have been used for several
            problems.append(f"{key}: is the same key as {other}; make another with `sluice keys new FILE {key.name}`")
    return keys, problems


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


def _material(at: str, data: Mapping[str, Any], problems: list[str]) -> Material | None:
    forms = [form for form in ("base64", "text") if form in data]
    if len(forms) != 1 or not isinstance(data[forms[0]], str):
        problems.append(f"{at}: must have either base64 or text, as a text in quotes; {_REMEDY}")
        return None
    given = data[forms[0]]
    try:
        material = Material(given.encode() if forms[0] == "text" else base64.b64decode(given, validate=True))
    except (binascii.Error, ValueError):
        problems.append(f"{at}.{forms[0]}: is not {forms[0]}; {_REMEDY}")
        return None
    if len(material) not in SIZES:
        problems.append(f"{at}.{forms[0]}: holds {len(material)} bytes; {_REMEDY}")
        return None
    if data.get("state") != "decrypt-only" and (weak := _weak(material)):
        problems.append(f"{at}.{forms[0]}: {weak}; make one with `openssl rand -base64 {len(material)}`")
        return None
    return material


def _weak(material: Material) -> str:
    """Why a key protects nothing; "" if that cannot be told."""
    if material in _PUBLISHED:
        return "is the sample key of the workshop, which everybody knows"
    return "all its bytes are equal" if len(set(material)) == 1 else ""


def _by_name(keys: Iterable[Key]) -> dict[str, dict[str, Key]]:
    versions: dict[str, dict[str, Key]] = {}
    for key in keys:
        versions.setdefault(key.name, {})[key.id] = key
    return versions


def _active(versions: Mapping[str, Mapping[str, Key]], name: str) -> Key | None:
    return next((key for key in versions.get(name, {}).values() if key.active), None)
