"""Which schema a framed record was written with: the ids that are known, and those to ask a registry for. No I/O."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import fastavro

from schemas.avro_bytes import End, compiled
from schemas.subjects import Version, versions_by_id


class Writer(NamedTuple):
    """A schema that records were written with."""

    name: str
    """The full name of its record (`sluice.event.Event`); "" for a schema that is no record."""
    parsed: Any
    """In fastavro's own form."""
    end: End
    """Where a record that begins at a place in some bytes ends."""


class Writers:
    """Schemas by id. Without a registry those of this tree, and no others."""

    def __init__(self, *, registry: bool = False) -> None:
        self._asks = registry
        self._known: dict[int, Writer | None] = {}
        self.wanted: set[int] = set()
        """Ids that records carried since this was last cleared, and that nobody has asked the registry for."""
        if not registry:
            self._known |= {number: of_version(version) for number, version in versions_by_id().items()}

    def find(self, number: int) -> Writer | None:
        """The schema with this id; None if it is in no registry, or has to be asked for (then it is `wanted`)."""
        found = self._known.get(number)
        if found is None and self._asks and number not in self._known:
            self.wanted.add(number)
        return found

    def unknown(self, numbers: Iterable[int]) -> set[int]:
        """Those that nobody has asked the registry for."""
        return set(numbers) - self._known.keys()

    def learn(self, number: int, schema: Any) -> bool:
        """What the registry said of an id: a schema, or None for an id that it does not have. Returns whether records can be read
        with it: what is no valid Avro is as good as nothing."""
        try:
            found = None if schema is None else _writer(fastavro.parse_schema(schema, {}))
        except Exception:  # fastavro raises AttributeError, KeyError, TypeError and its own for odd input
            found = None
        self._known[number] = found
        return found is not None

    def forget(self, number: int) -> None:
        """Let an id that nobody has be asked for again."""
        if self._known.get(number) is None:
            self._known.pop(number, None)


def of_version(version: Version) -> Writer:
    """A version of this tree as a writer's schema."""
    return _writer(version.parsed)


def _writer(parsed: Any) -> Writer:
    return Writer(parsed.get("name", "") if isinstance(parsed, dict) else "", parsed, compiled(parsed))
