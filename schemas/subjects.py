"""The subjects of the contract: each a folder with one whole Avro schema a version, examples, and CSV columns as data."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import fastavro

from schemas.fields import Field, fields_of

_HERE = Path(__file__).parent


class UnknownSubject(KeyError):
    """No subject of this name. The text lists those there are."""

    def __str__(self) -> str:
        return str(self.args[0])


class UnknownSchemaId(KeyError):
    """No schema is registered under this id."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, slots=True)
class Column:
    """One CSV column: its name in the header, and the path of its value (`.event_type.id`)."""

    name: str
    path: str


@dataclass(frozen=True, eq=False)
class Version:
    """One released version of a subject. `schema` is the parsed .avsc and must not be changed. `str()` is `event/v3`."""

    subject: str
    number: int
    schema: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.subject}/v{self.number}"

    @cached_property
    def parsed(self) -> Any:
        """The schema in fastavro's own form."""
        return fastavro.parse_schema(self.schema, {})

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """The fields of this version, in order."""
        return fields_of(self.schema)


@dataclass(frozen=True, eq=False)
class Subject:
    """A subject with its versions, oldest first, and the CSV columns of the newest; reference subjects have no columns."""

    name: str
    versions: tuple[Version, ...]
    columns: tuple[Column, ...]

    @property
    def latest(self) -> Version:
        return self.versions[-1]

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields of the newest version."""
        return self.latest.fields

    @property
    def examples(self) -> dict[str, list[Path]]:
        """Example records, by the version (`v3`) that introduced what they show."""
        folder = _HERE / self.name / "examples"
        return {path.name: sorted(path.glob("*.json")) for path in sorted(folder.glob("v*"))}


def names() -> list[str]:
    """The names of all subjects."""
    return sorted(path.parent.name for path in _HERE.glob("*/v1.avsc"))


@cache
def load(name: str) -> Subject:
    """The subject of this name, read once a process. Raises UnknownSubject."""
    if name not in names():
        close = difflib.get_close_matches(name, names(), 1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise UnknownSubject(f"No schema subject is called {name!r}.{hint} Known are: {', '.join(names())}.")
    folder = _HERE / name
    numbers = sorted(int(path.stem[1:]) for path in folder.glob("v*.avsc"))
    versions = tuple(Version(name, number, _read(folder / f"v{number}.avsc")) for number in numbers)
    listed = folder / "columns.json"
    columns = tuple(Column(**column) for column in _read(listed)) if listed.exists() else ()
    return Subject(name, versions, columns)


def schema_by_id(schema_id: int) -> Version:
    """The version that Confluent framing names by this id. Raises UnknownSchemaId."""
    ids = _ids()
    if schema_id not in ids:
        raise UnknownSchemaId(f"no schema with id {schema_id}; known are {min(ids)} to {max(ids)} (schemas/ids.json)")
    subject, _, version = ids[schema_id].partition("/v")
    return load(subject).versions[int(version) - 1]


def versions_by_id() -> dict[int, Version]:
    """Every released version, by its id."""
    return {number: schema_by_id(number) for number in _ids()}


def id_of(version: Version) -> int:
    """The schema id that a version is registered under."""
    return next(number for number, name in _ids().items() if name == str(version))


@cache
def _ids() -> dict[int, str]:
    return {int(number): name for number, name in _read(_HERE / "ids.json").items()}


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
