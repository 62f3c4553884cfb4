"""Sample and deduplicate: records that are left out on purpose, decided by the record alone so that a repeat decides the same."""

import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence, Set
from typing import Any

import msgspec

from pipeline.config import DeduplicateRule, SampleRule
from pipeline.matching import compile_conditions
from pipeline.paths import Loads, resolve
from schemas.compiling import compiled
from stream.records import Record

Ids = Callable[[Sequence[Any]], list[tuple[Any, ...]]]


class Sample:
    """One record in so many, by a hash of the field that the rule names: all records with one id stay or go together.

    By a hash of the raw record where no field is named, or it is not there. Raises InvalidPath and InvalidConditions.
    """

    def __init__(self, rule: SampleRule, record: type[msgspec.Struct]) -> None:
        self._one_in = rule.one_in
        self._ids = _ids([rule.by], record) if rule.by else None
        self._always = compile_conditions(rule.always, record) if rule.always else None

    def __call__(self, positions: Sequence[int], batch: Sequence[Any], raw: Sequence[Record]) -> list[bool]:
        """Which records of a batch stay; `positions` are theirs in `raw`."""
        one_in, always = self._one_in, self._always
        texts = [raw[position].value or b"" for position in positions]
        if self._ids is not None:
            ids = self._ids(batch)
            texts = [text if _lacks(id_) else repr(id_).encode() for text, id_ in zip(texts, ids, strict=True)]
        stays = [zlib.crc32(text) % one_in == 0 for text in texts]
        if always is not None:
            stays = [stay or always(record) for stay, record in zip(stays, batch, strict=True)]
        return stays


class Deduplicate:
    """Leaves out a record whose id was seen before in its partition, among the last `window` ids of all. Raises InvalidPath.

    A record that is read again (after a rebalance) is none that was seen: ids are remembered with the offset of the first that
    had them, so that the one that stays is the first of its partition whatever is read again. Best effort: ids are forgotten
    when the process ends, and no process knows what another has seen. A record that lacks one of the fields, or has null
    there, stays.

    That the first of an id is not delivered is often known only after its repeats were left out: `forget` says whether, and then
    the batch is to be done again.
    """

    def __init__(self, rule: DeduplicateRule, record: type[msgspec.Struct]) -> None:
        self._window = rule.window
        self._ids = _ids(rule.by, record)
        self._seen: OrderedDict[tuple[Any, ...], int] = OrderedDict()
        """Partition and id → offset."""
        self._latest: dict[int, tuple[Any, ...]] = {}
        """Of the last batch: the offset of each record that stays → partition and id."""
        self._repeated: set[tuple[Any, ...]] = set()
        """Of the last batch: partition and id of what was left out."""
        self._spare: dict[tuple[Any, ...], list[int]] = {}
        """Of the last batch: partition and id → the offsets of repeats that stay."""

    def __call__(
        self,
        partition: int,
        positions: Sequence[int],
        batch: Sequence[Any],
        raw: Sequence[Record],
        undelivered: Set[int] = frozenset(),
    ) -> list[bool]:
        """Which records of a batch stay; `positions` are theirs in `raw`, which came from this partition.

        All with an id that a record at one of the `undelivered` offsets has stay: some of them may be none to deliver either.
        """
        seen, stays = self._seen, []
        self._latest, self._repeated, self._spare = {}, set(), {}
        ids = [None if _lacks(id_) else (partition, *id_) for id_ in self._ids(batch)]
        offsets = [raw[position].offset for position in positions]
        if undelivered:
            self._spare = {key: [] for key, at in zip(ids, offsets, strict=True) if key and at in undelivered}
        for offset, key in zip(offsets, ids, strict=True):
            if key is None or offset in undelivered:
                stays.append(True)
            elif offset <= seen.setdefault(key, offset):  # the first, or read again from before what was first then
                seen[key] = offset
                self._latest[offset] = key
                stays.append(True)
            elif key in self._spare:
                self._spare[key].append(offset)
                stays.append(True)
            else:
                self._repeated.add(key)
                stays.append(False)
        while len(seen) > self._window:
            seen.popitem(last=False)
        return stays

    def forget(self, offsets: Set[int]) -> bool:
        """The records of the last batch at these offsets are not delivered: what comes after them with their id is no repeat.
        Returns whether such a one was left out of that batch."""
        left_out = False
        for offset in offsets:
            if (key := self._latest.get(offset)) is not None and self._seen.get(key) == offset:
                del self._seen[key]
                left_out = left_out or key in self._repeated
                if (heir := min(set(self._spare.get(key, ())) - offsets, default=None)) is not None:
                    self._seen[key], self._latest[heir] = heir, key
        return left_out


def _lacks(id_: tuple[Any, ...]) -> bool:
    return None in id_ or msgspec.UNSET in id_


def _ids(paths: Sequence[str], record: type[msgspec.Struct]) -> Ids:
    """A function that gives the values at these paths for each record; UNSET for what it lacks."""
    locations = [resolve(path, record) for path in paths]
    loads = Loads(locations)
    values = ", ".join(loads.variables[at.path] for at in locations)
    lines = [
        "def ids(records):",
        "    found = []",
        "    for r in records:",
        *(f"        {line}" for line in loads.lines),
    ]
    ids: Ids = compiled("ids", [*lines, f"        found.append(({values},))", "    return found"], {})
    return ids
