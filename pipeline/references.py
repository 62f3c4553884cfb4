"""References held in memory: of each entry of a compacted topic what joins need, in as few bytes as that takes."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any, Protocol, TypeAlias

import msgspec

from pipeline.paths import resolve
from schemas.codec import UNTAKEN
from schemas.drift import Normaliser, parsed
from schemas.fields import Field, Kind
from schemas.refused import Refused
from schemas.settling import Settling
from schemas.structs import decoding_hook

Id: TypeAlias = int | str

_encode = msgspec.json.Encoder(decimal_format="number").encode
_values = msgspec.structs.astuple
# What was checked on the way in is read without another look.
_PLAIN: dict[Kind, Any] = {
    "string": str,
    "timestamp": str,
    "long": int,
    "double": float,
    "boolean": bool,
    "decimal": Decimal,
    "array": list,
    "object": Any,
    "json": Any,
}
_DIGITS = 20
"""A longer id is text whatever it holds."""


class Entry(Protocol):
    """A record of a reference topic: the id as text, and a JSON object; None deletes."""

    key: bytes | None
    value: bytes | None


class Tables:
    """References by name. Not thread-safe.

    Joins come first, and say what of an entry they need; then the entries come.
    """

    def __init__(self, *, live: bool = False) -> None:
        self.live = live
        """Whether entries come while records are worked on: then it may be worth waiting for one."""
        self._tables: dict[str, dict[Any, Table]] = {}

    def table(self, name: str, record: type[msgspec.Struct], fields: Sequence[Field]) -> "Table":
        """The reference `name` with these fields, which are some of that Struct type. Joins that need the same share it."""
        shared, shape = self._tables.setdefault(name, {}), _shape(fields)
        if shape not in shared:
            assert not any(map(len, shared.values())), f"entries of {name} came before the join that needs them"
            shared[shape] = Table(record, fields)
        return shared[shape]

    def apply(self, name: str, entries: Sequence[Entry]) -> int:
        """Take what a reference topic brought, in the order of each partition.

        Returns how many were ignored, as they are no JSON object or hold a field of the wrong type: of their ids the entry
        before them stays. Of a reference that no join needs nothing is kept. Raises nothing.
        """
        return max((table.apply(entries) for table in self._tables.get(name, {}).values()), default=0)

    def sizes(self) -> dict[str, int]:
        """How many entries each reference has."""
        return {name: max(map(len, shared.values())) for name, shared in self._tables.items()}


class Table:
    """One reference as joins of one kind need it: ids as numbers where they are, values as JSON without names."""

    def __init__(self, record: type[msgspec.Struct], fields: Sequence[Field]) -> None:
        self.fields = fields
        checked = _checked(record, fields)
        self._check = msgspec.json.Decoder(checked, dec_hook=decoding_hook, float_hook=Decimal).decode
        # An entry may be written as freely as a record may: what is known to drift is normalised.
        drift: Counter[str] = Counter()
        self._normalise, self._settle = Normaliser(checked, tuple(fields), drift), Settling(fields, drift)
        self.entries: dict[Id, bytes] = {}
        """By `id_of` what is written there. For `read`."""
        self.read: Callable[[bytes], Any] = msgspec.json.Decoder(_plain(fields), float_hook=Decimal).decode
        """Makes an object of an entry, a new one each time: an attribute for each field, None for what is null or absent."""

    def __len__(self) -> int:
        return len(self.entries)

    def apply(self, entries: Iterable[Entry]) -> int:
        """Take entries; returns how many were ignored."""
        ignored, checked = 0, self._check
        taken: list[tuple[Id, Any]] = []
        fast: list[int] = []  # where in it those are that have yet to be settled
        for one in entries:
            try:
                id_, entry = id_of((one.key or b"").decode()), None
                if one.value is not None:
                    try:
                        entry = checked(one.value)
                        fast.append(len(taken))
                    except UNTAKEN:
                        entry = self._normalise(parsed(one.value))
                taken.append((id_, entry))
            except (*UNTAKEN, Refused):
                ignored += 1
        for at in reversed(self._settle([taken[at][1] for at in fast])):
            del taken[fast[at]]
            ignored += 1
        for id_, entry in taken:
            if entry is None:
                self.entries.pop(id_, None)
            else:
                self.entries[id_] = _encode(_values(entry))
        return ignored


def id_of(text: str) -> Id:
    """An id as it is held: a number if it is written as one, which takes less memory than text."""
    if text.removeprefix("-").isdecimal() and len(text) <= _DIGITS:
        number = int(text)
        if str(number) == text:
            return number
    return text


def _checked(record: type[msgspec.Struct], fields: Sequence[Field]) -> type[msgspec.Struct]:
    """What entries are checked against: these fields of a record, as the record has them. Others are passed over."""
    types = {member.name: member.type for member in msgspec.structs.fields(record)}
    members: list[tuple[str, Any, None]] = []
    for field in fields:
        type_ = types[field.name]
        if field.kind == "record":
            type_ = _checked(resolve(f".{field.name}", record).type, field.fields) | None
        elif field.drift == "outcome":
            type_ = bool | None  # a record may say it in words until it is settled
        members.append((field.name, type_, None))
    return msgspec.defstruct("Entry", members, gc=False, omit_defaults=True, namespace=_SILENT)


def _plain(fields: Sequence[Field], *, outermost: bool = True) -> type[msgspec.Struct]:
    """What is read of entries that were checked. Only the outermost is written without names."""
    members: list[tuple[str, Any, None]] = [
        (
            field.name,
            (_plain(field.fields, outermost=False) if field.kind == "record" else _PLAIN[field.kind]) | None,
            None,
        )
        for field in fields
    ]
    return msgspec.defstruct("Entry", members, gc=False, array_like=outermost, namespace=_SILENT)


# Entries hold names and addresses, and a repr ends up in logs and tracebacks.
_SILENT: dict[str, Any] = {"__repr__": lambda entry: "<entry of a reference>", "__rich_repr__": lambda entry: iter(())}


def _shape(fields: Sequence[Field]) -> tuple[Any, ...]:
    """What two joins have to have in common to share entries."""
    return tuple(
        (one.name, one.kind, one.items, one.precision, one.scale, one.drift, len(one.path), _shape(one.fields))
        for one in fields
    )
