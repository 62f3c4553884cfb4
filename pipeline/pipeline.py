"""A record's way from raw to routed: decode, enrich, drop to deduplicate, route, encrypt, encode."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

from pipeline.config import SUCCESS, PipelineConfig
from pipeline.encryption import Encryption
from pipeline.enrichment import Awaited, Join
from pipeline.gate import Gate
from pipeline.keys import Keys
from pipeline.matching import SEVERAL, compile_routes
from pipeline.paths import parts
from pipeline.redaction import compile_redact
from pipeline.references import Tables
from pipeline.shaping import compile_drop, compile_keep, compile_rename, compile_set
from pipeline.thinning import Deduplicate, Sample
from schemas.codec import Codec
from schemas.fields import Field
from schemas.refused import Refused
from schemas.subjects import load
from schemas.writers import Writers
from stream.records import Record

MEANING = 4
"""Of a config: raised by a release that decodes, drops or routes otherwise under the same config. Readers tell plans apart by it:
what an older release had written under other routes must not pass for what this one would have."""


@dataclass(slots=True)
class Processed:
    """What became of a batch: every position of it is routed, in `dead`, or left out by `sample` or `deduplicate`.

    `positions`, `routes` and `values` go together, in the order of the batch: which record, under which label, and its JSON in
    UTF-8. With `match: all` a position stands there once for each of its routes.
    """

    positions: Sequence[int] = ()
    routes: list[str] = field(default_factory=list)
    values: list[bytes] = field(default_factory=list)
    dead: list[tuple[int, Refused]] = field(default_factory=list)
    """Positions in the batch, in order, with the reason."""
    unknown: Counter[str] = field(default_factory=Counter)
    """How many ids no reference knew, by reference."""
    awaited: list[Awaited] = field(default_factory=list)
    """Not empty: these ids are to be waited for. Then this answer is for nobody, and the batch is processed again."""
    cards: int = 0
    """How many records held a card number in clear; those are in `dead` if the gate refuses them."""
    left_out: Counter[str] = field(default_factory=Counter)
    """How many records sample and deduplicate left out, by stage."""
    unlike: int = 0
    """How many comparisons were of unlike types, and so false."""
    drift: Counter[str] = field(default_factory=Counter)
    """What was normalised or left out, by kind (see schemas/drift.py)."""

    def refuse(self, refused: Iterable[tuple[int, Refused]]) -> None:
        """These positions are dead too."""
        self.dead = sorted([*self.dead, *refused], key=lambda one: one[0])


class Pipeline:
    """One pipeline of the config, compiled. Pure: no I/O, no clock, no Kafka; randomness for vectors only.

    `routes` are the labels that records leave under. Raises UnknownKey for a key that a rule names and nobody has.
    Not thread-safe.
    """

    def __init__(
        self, name: str, config: PipelineConfig, keys: Keys, tables: Tables, writers: Writers | None = None
    ) -> None:
        self.name = name
        self.routes = config.route_names()
        self._config = config
        subject = load(config.subject)
        self._schema = str(subject.latest)
        self.writers = writers or Writers()
        """What schema ids of Avro records mean. After `process`, `writers.wanted` are those that have to be asked for; then its
        answer is for nobody, and the batch is processed again."""
        self._codec = Codec(subject, config.extra_fields(), self.writers, unread=_unread(config, subject.fields))
        record = self._codec.type
        encrypted = [rule.field for rule in config.encrypt]
        self._joins = [Join(rule, record, subject.fields, tables, encrypted) for rule in config.enrich]
        self._drop_fields = compile_drop(config.drop, record)
        self._keep_fields = compile_keep(config.keep, record)
        self._set_fields = compile_set(config.set_, record)
        self._rename_fields = compile_rename(config.rename, record)
        self._sample = Sample(config.sample, record) if config.sample else None
        self._deduplicate = Deduplicate(config.deduplicate, record) if config.deduplicate else None
        self._unlike: list[None] = []
        self._choose_routes = (
            compile_routes(config.routes, record, config.match, lambda: self._unlike.append(None))
            if config.routes
            else _all_success
        )
        self._keys = keys
        self._take_keys()
        digits = _only_like_digits(config)
        self._gate = None if config.gate == "off" else Gate(record, subject.fields, digits, encrypted)

    def process(self, records: Sequence[Record], partition: int = 0, undelivered: Set[int] = frozenset()) -> Processed:
        """Take a batch of one partition its whole way. A record that cannot be taken is in `dead`, and costs the others nothing.

        `undelivered` are offsets of records that the caller will not deliver: what has their id is no repeat.

        Raises only what is a fault of ours; then nothing of the batch may be delivered.
        """
        done = Processed()
        self.writers.wanted.clear()
        if self._keys.version != self._keys_version:
            self._take_keys()
        positions, batch = self._decode(records, done)
        positions, batch = self._enrich(positions, batch, done)
        if done.awaited:
            return done
        self._drop_fields(batch)
        self._keep_fields(batch)
        self._set_fields(batch)
        self._rename_fields(batch)
        self._redact(batch)
        positions, batch = self._leave_out(positions, batch, records, partition, undelivered, done)
        routes = self._choose_routes(batch)
        done.unlike = len(self._unlike)
        self._unlike.clear()
        positions, batch, routes = self._encrypt(positions, batch, routes, done)
        lines = self._codec.encode_lines(batch)
        positions, routes, values = self._hold_back_cards(positions, routes, lines, batch, records, done)
        if self._deduplicate and self.forget(dead := {records[position].offset for position, _ in done.dead}):
            return self.process(records, partition, undelivered | dead)
        done.positions, done.routes, done.values = self._copy(positions, routes, values)
        return done

    def forget(self, offsets: Set[int]) -> bool:
        """The records of these offsets are not delivered: a later one of the same id is no repeat of them. Returns whether one
        was left out of the last batch: then that is to be processed again, with these as `undelivered`."""
        return self._deduplicate is not None and self._deduplicate.forget(offsets)

    def _take_keys(self) -> None:
        """What is done with keys is done with those that are active from now on."""
        record, config = self._codec.type, self._config
        self._redact = compile_redact(config.redact, record, self._keys)
        self._encryption = Encryption(config.encrypt, record, self.name, self._keys, config.requiring_routes())
        self._keys_version = self._keys.version

    def plan_hash(self) -> str:
        """Twelve hex digits that change with the pipeline's config, the schema version and MEANING, and not with keys or
        defaults."""
        described = self._config.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        plan = json.dumps([MEANING, self.name, self._schema, described], sort_keys=False, separators=(",", ":"))
        return hashlib.sha256(plan.encode()).hexdigest()[:12]

    def _decode(self, records: Sequence[Record], done: Processed) -> tuple[Sequence[int], list[Any]]:
        drift_before = self._codec.drift.copy()
        batch, refused = self._codec.decode_batch([record.value for record in records])
        done.dead = [(position, self._explained(why)) for position, why in refused]
        done.drift = self._codec.drift - drift_before
        if not done.dead:
            return range(len(records)), batch
        dead = {position for position, _ in done.dead}
        return [position for position in range(len(records)) if position not in dead], batch

    def _explained(self, refused: Refused) -> Refused:
        """A field to encrypt has a reason of its own."""
        if refused.reason == "wrong-type" and refused.path in self._encryption.paths:
            return Refused("card-field-not-a-string", refused.path)
        return refused

    def _enrich(self, positions: Sequence[int], batch: list[Any], done: Processed) -> tuple[Sequence[int], list[Any]]:
        gone: dict[int, Refused] = {}
        for join in self._joins:
            unknown = join(batch)
            if unknown:
                done.unknown[join.source] += len(unknown)
                if join.refused is not None:
                    gone = dict.fromkeys(unknown, join.refused) | gone
                if ids := join.awaited(unknown.values()):
                    done.awaited.append(Awaited(join, ids))
        if not gone:
            return positions, batch
        done.refuse((positions[at], why) for at, why in gone.items())
        kept = [at for at in range(len(batch)) if at not in gone]
        return [positions[at] for at in kept], [batch[at] for at in kept]

    def _leave_out(
        self,
        positions: Sequence[int],
        batch: list[Any],
        raw: Sequence[Record],
        partition: int,
        undelivered: Set[int],
        done: Processed,
    ) -> tuple[Sequence[int], list[Any]]:
        if self._sample is not None:
            stays = self._sample(positions, batch, raw)
            positions, batch = list(compress(positions, stays)), list(compress(batch, stays))
            done.left_out["sample"] = len(stays) - len(batch)
        if self._deduplicate is not None:
            stays = self._deduplicate(partition, positions, batch, raw, undelivered)
            positions, batch = list(compress(positions, stays)), list(compress(batch, stays))
            done.left_out["deduplicate"] = len(stays) - len(batch)
        return positions, batch

    def _hold_back_cards(
        self,
        positions: Sequence[int],
        routes: list[str],
        lines: bytes,
        batch: list[Any],
        raw: Sequence[Record],
        done: Processed,
    ) -> tuple[Sequence[int], list[str], list[bytes]]:
        values = lines.split(b"\n")[:-1]
        if self._gate is None:
            return positions, routes, values
        found = self._gate([raw[position] for position in positions], batch, lines)
        done.cards = len(found)
        if not found or self._config.gate == "count":
            return positions, routes, values
        done.refuse((positions[at], Refused("card-number-in-clear", path)) for at, path in found.items())
        kept = [at for at in range(len(values)) if at not in found]
        return [positions[at] for at in kept], [routes[at] for at in kept], [values[at] for at in kept]

    def _copy(
        self, positions: Sequence[int], routes: list[str], values: list[bytes]
    ) -> tuple[Sequence[int], list[str], list[bytes]]:
        """With `match: all`, a record once for each of its routes."""
        if self._config.match == "first":
            return positions, routes, values
        copied = [
            (position, route, value)
            for position, taken, value in zip(positions, routes, values, strict=True)
            for route in taken.split(SEVERAL)
        ]
        return [one[0] for one in copied], [one[1] for one in copied], [one[2] for one in copied]

    def _encrypt(
        self, positions: Sequence[int], batch: list[Any], routes: list[str], done: Processed
    ) -> tuple[Sequence[int], list[Any], list[str]]:
        refused = self._encryption(batch, routes)
        if self._encryption.removed:
            done.drift["unknown-field"] += self._encryption.removed
        if not refused:
            return positions, batch, routes
        gone = dict(refused)
        done.refuse((positions[at], why) for at, why in refused)
        kept = [at for at in range(len(batch)) if at not in gone]
        return [positions[at] for at in kept], [batch[at] for at in kept], [routes[at] for at in kept]


def _unread(config: PipelineConfig, fields: Sequence[Field]) -> list[str]:
    """The open objects that no rule looks into: no text of the config is a path that begins with their name."""
    named = {parts(text)[0] for text in _texts(config.model_dump(mode="json"))}
    return [field.name for field in fields if field.kind == "object" and field.name not in named]


def _texts(value: Any) -> Iterator[str]:
    """All text in a JSON value, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for below in (*value, *value.values()) if isinstance(value, dict) else value:
            yield from _texts(below)


def _only_like_digits(config: PipelineConfig) -> list[str]:
    """Fields whose text may look like a card number by chance: ciphertext in hex, and hashes."""
    hexadecimal = [rule for rule in config.encrypt if rule.encoding == "hex"]
    paths = [path for rule in hexadecimal for path in (rule.field, rule.iv_field) if path]
    paths += [rule.search_field for rule in config.encrypt if rule.search_field]
    return [*paths, *(rule.field for rule in config.redact if rule.by == "hash")]


def _all_success(batch: Sequence[Any]) -> list[str]:
    return [SUCCESS] * len(batch)
