"""JSON or Avro in, checked and ordered records; records out as JSON."""

import io
from collections import Counter
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any

import fastavro
import msgspec

from schemas.drift import MAX_DEPTH, Normaliser, drifts, open_fault
from schemas.refused import Refused
from schemas.structs import OpenObject, OpenValue, record_type
from schemas.subjects import Subject, UnknownSchemaId, schema_by_id

_FRAMING = 5  # a zero byte and the schema id in four
_parse = msgspec.json.Decoder(float_hook=Decimal).decode
_encoder = msgspec.json.Encoder(decimal_format="number")


class Codec:
    """Reads and writes records of a subject's newest version. Not thread-safe: `drift` is counted without a lock.

    `type` is the Struct type of the records. `decode_fast(bytes)` is the C decoder itself: takes records that keep the
    contract to the letter, raises msgspec.DecodeError, UnicodeDecodeError or RecursionError for all others, which `decode` may still take.
    `encode(record)` gives JSON in UTF-8: keys in schema order, absent stays absent, null stays null.
    """

    def __init__(self, subject: Subject, extra: Iterable[tuple[str, ...]] = ()) -> None:
        self.subject = subject
        self.type: type[msgspec.Struct] = record_type(subject, extra)
        self.drift: Counter[str] = Counter()
        self.decode_fast: Callable[[bytes], Any] = msgspec.json.Decoder(self.type, dec_hook=_checked).decode
        self.encode: Callable[[Any], bytes] = _encoder.encode
        self._normalise = Normaliser(self.type, subject.fields, self.drift)

    def decode(self, value: bytes | None) -> Any:
        """One record of any accepted form: JSON, JSON with known drift, Avro in Confluent's framing.

        In Avro null and absent are the same: null fields are left out. Raises Refused, never anything else.
        """
        if value is None:
            raise Refused("null-value")
        try:
            return self.decode_fast(value)
        except (ValueError, RecursionError):
            pass
        return self._normalise(self._avro(value) if value[:1] == b"\0" else _json(value))

    def _avro(self, value: bytes) -> Any:
        try:
            writer = schema_by_id(int.from_bytes(value[1:_FRAMING], "big"))
        except UnknownSchemaId:
            writer = None
        if len(value) < _FRAMING:
            raise Refused("not-avro")
        if writer is None:
            raise Refused("unknown-schema-id")
        if writer.subject != self.subject.name:
            raise Refused("wrong-schema")
        body = io.BytesIO(value[_FRAMING:])
        try:
            record = fastavro.schemaless_reader(body, writer.schema, self.subject.latest.schema)
        except Exception:  # fastavro raises whatever the bytes lead it into
            record = None
        if record is None or body.read(1):
            raise Refused("not-avro")
        return self._opened(record)

    def _opened(self, record: Any) -> Any:
        return _without_nulls(record)


def _json(value: bytes) -> Any:
    refused: Refused
    try:
        parsed = _parse(value)
    except RecursionError:
        refused = Refused("too-deep")
    except msgspec.ValidationError:  # a number beyond what Python reads
        refused = Refused("wrong-type")
    except (ValueError, ArithmeticError):
        refused = Refused("not-json")
    else:
        if value.count(b"[") + value.count(b"{") > MAX_DEPTH and open_fault(parsed, 0) == "too-deep":
            raise Refused("too-deep")
        return parsed
    raise refused


def _checked(type_: type, value: Any) -> Any:
    """msgspec's hook for fields of open form; raising sends the record to the slow path."""
    if type_ is OpenObject and (type(value) is not dict or drifts(value)):
        raise ValueError
    if type_ in (OpenObject, OpenValue) and open_fault(value, 3):
        raise ValueError
    return value


def _without_nulls(value: Any) -> Any:
    if type(value) is dict:
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return value
