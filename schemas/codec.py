"""JSON or Avro in, checked and ordered records; records out as JSON."""

import io
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any

import fastavro
import msgspec

from schemas.drift import Normaliser, parsed
from schemas.fields import Field, sealed, unparsed
from schemas.refused import Refused
from schemas.settling import Settling
from schemas.structs import decoding_hook, record_type
from schemas.subjects import Subject
from schemas.values import MAX_DEPTH, too_deep
from schemas.writers import Writers

UNTAKEN = (ValueError, TypeError, ArithmeticError, RecursionError)
"""What `Codec.decode_fast` raises for a record that it does not take. ArithmeticError: a number beyond what Decimal reads."""
_FRAMING = 5  # a zero byte and the schema id in four
_encoder = msgspec.json.Encoder(decimal_format="number")


class Codec:
    """Reads and writes records of a subject's newest version. Not thread-safe: `drift` is counted without a lock.

    `type` is the Struct type of the records. `decode_fast(bytes)` is the C decoder itself: it takes records that keep the
    contract to the letter, or in the forms that settling.py knows, and raises one of UNTAKEN for others, which `decode_slowly`
    may still take. What `decode_fast` gives goes through `settle(records)` before use, and nothing else does; what that leaves as
    it is goes through `decode_slowly` too.

    `encode(record)` gives JSON in UTF-8: keys in schema order, absent stays absent, null stays null, decimals as they were
    written. `encode_lines(records)` gives that of many, each with a line end. `drift` counts normalisations by kind, since the
    start.
    """

    def __init__(
        self,
        subject: Subject,
        extra: Iterable[tuple[str, ...]] = (),
        writers: Writers | None = None,
        encrypted: Collection[tuple[str, ...]] = (),
        unread: Collection[str] = (),
    ) -> None:
        """`extra`: paths of further text fields. `writers`: the schemas of Avro records by id; without it those of this tree.
        `encrypted`: paths of fields that hold tokens, so text. `unread`: names of open objects that nobody looks into: they stay
        as they are written, where nothing speaks against it (`written.to_parse`).
        """
        self.subject = subject
        self.writers = writers or Writers()
        fields = unparsed(sealed(subject.fields, encrypted), unread)
        self.type: type[msgspec.Struct] = record_type(subject, extra, fields)
        self.drift: Counter[str] = Counter()
        self.decode_fast: Callable[[Any], Any] = msgspec.json.Decoder(
            self.type, dec_hook=decoding_hook, float_hook=Decimal
        ).decode
        self.encode: Callable[[Any], bytes] = _encoder.encode
        self.encode_lines: Callable[[Sequence[Any]], bytes] = _encoder.encode_lines
        self.settle = Settling(fields, self.drift)
        self._normalise = Normaliser(self.type, fields, self.drift)

    def decode(self, value: bytes | None) -> Any:
        """One record of any accepted form: JSON, JSON with known drift, Avro in Confluent's framing.

        In Avro null and absent are the same: null fields are left out. Raises Refused, never anything else.
        """
        with suppress(*UNTAKEN):
            record = self.decode_fast(value)
            if not self.settle([record]):
                return record
        return self.decode_slowly(value)

    def decode_batch(self, values: Sequence[bytes | None]) -> tuple[list[Any], list[tuple[int, Refused]]]:
        """The same for many: the records that are taken, in order, and the positions of the others, in order, with reasons.

        The reasons hold no traceback, in which the record would be.
        """
        batch: list[Any] = []
        slow: dict[int, Any] = {}
        refused: dict[int, Refused] = {}

        def take_slowly(position: int) -> None:
            try:
                slow[position] = self.decode_slowly(values[position])
            except Refused as why:
                refused[position] = Refused(why.reason, why.path)

        decoding = map(self.decode_fast, values)
        while not _is_extended(batch, decoding):
            take_slowly(len(batch) + len(slow) + len(refused))
        if unsettled := self.settle(batch):
            fast = [position for position in range(len(values)) if position not in slow and position not in refused]
            for at in reversed(unsettled):
                del batch[at]
                take_slowly(fast[at])
        gone = sorted(refused)
        for position in sorted(slow):
            batch.insert(position - bisect_left(gone, position), slow[position])
        return batch, sorted(refused.items())

    def decode_slowly(self, value: bytes | None) -> Any:
        """The same for a record that `decode_fast` did not take."""
        if value is None:
            raise Refused("null-value")
        return self.from_avro(self._avro(value)) if value[:1] == b"\0" else self._normalise(_json(value))

    def from_avro(self, record: dict[str, Any]) -> Any:
        """A record as its writer's schema has it. Null fields are left out, and what our schema does not name is, counted, as in
        JSON. Raises Refused."""
        drift: Counter[str] = Counter()
        made = self._normalise(_as_json(record, self.subject.fields, drift))
        self.drift.update(drift)
        return made

    def _avro(self, value: bytes) -> dict[str, Any]:
        if len(value) < _FRAMING:
            raise Refused("not-avro")
        writer = self.writers.find(int.from_bytes(value[1:_FRAMING], "big"))
        if writer is None:
            raise Refused("unknown-schema-id")
        if writer.name != self.subject.latest.parsed["name"]:
            raise Refused("wrong-schema")
        body = value[_FRAMING:]
        record = None
        with suppress(Exception):  # fastavro raises whatever the bytes lead it into, and quotes them
            if writer.end(body, 0) == len(body):
                record = fastavro.schemaless_reader(io.BytesIO(body), writer.parsed)
        if not isinstance(record, dict):
            raise Refused("not-avro")
        return record


def _is_extended(batch: list[Any], decoding: Iterator[Any]) -> bool:
    """Decode up to the end, or up to and with the first record that the fast decoder does not take: then False.

    What came before that record is in the batch, and the next call goes on behind it.
    """
    try:
        batch.extend(decoding)
    except UNTAKEN:
        return False
    return True


def _json(value: bytes) -> Any:
    refused: Refused
    try:
        record = parsed(value)
    except RecursionError:
        refused = Refused("too-deep")
    except (msgspec.ValidationError, ArithmeticError):  # a number beyond what Python reads
        refused = Refused("wrong-type")
    except ValueError:
        refused = Refused("not-json")
    else:
        if value.count(b"[") + value.count(b"{") > MAX_DEPTH and too_deep(record):
            raise Refused("too-deep")
        return record
    raise refused


def _as_json(record: dict[str, Any], fields: tuple[Field, ...], drift: Counter[str]) -> dict[str, Any]:
    """An Avro record as it would have come in JSON: without nulls, open fields parsed. What our schema does not name stays."""
    known = {field.name: field for field in fields}
    return {name: _value(value, known.get(name), drift) for name, value in record.items() if value is not None}


def _value(value: Any, field: Field | None, drift: Counter[str]) -> Any:
    if field is not None and field.kind == "record" and isinstance(value, dict):
        return _as_json(value, field.fields, drift)
    if field is not None and field.kind in ("json", "object") and isinstance(value, str):
        try:
            return parsed(value)
        except (ValueError, ArithmeticError):
            if field.kind == "json":  # of an object the normaliser says so
                drift["bare-text"] += 1
            return value  # text that is no JSON is text
        except RecursionError:
            raise Refused("too-deep", field.text_path) from None
    return value
