"""Records in files of columns or blocks: Avro containers and Parquet, in the newest version of a subject.

Both hold the fields of the schema and no others. Absent and null are both null there; open fields (`detail`) are text that holds
JSON; an older record in a newer file has nulls for what came later.
"""

import io
from collections.abc import Iterable, Mapping
from decimal import Context, Decimal, Inexact, InvalidOperation
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import fastavro
import msgspec

from schemas.drift import parsed
from schemas.fields import Field, Kind
from schemas.subjects import Subject

if TYPE_CHECKING:
    import pyarrow as pa

Packing = Literal["none", "gzip", "zstd"]
"""How the blocks within a file are packed. `gzip` is deflate in Avro, as its specification has it."""

_AVRO = {"none": "null", "gzip": "deflate", "zstd": "zstandard"}
_json = msgspec.json.Encoder(decimal_format="number").encode
_HELD: Mapping[Kind, tuple[type, ...]] = {
    "string": (str,),
    "timestamp": (str,),
    "long": (int,),
    "double": (int, float, Decimal),
    "boolean": (bool,),
    "decimal": (int, Decimal),
    "array": (list,),
    "record": (dict,),
}
"""What parsed JSON is taken for a field. Open fields hold anything."""
BLOCK_BYTES = 256 * 1024
"""Of an Avro container: what a reader unpacks at once."""


def avro_container(subject: Subject, values: Iterable[bytes], packing: Packing) -> bytes:
    """Records, JSON as the codec writes it, as an Avro object container file. About 15 us a record of 600 bytes.

    Raises ValueError for what the schema does not hold, which nothing that was routed is.
    """
    version, out = subject.latest, io.BytesIO()
    rows = (avro_form(version.fields, parsed(value)) for value in values)
    fastavro.writer(out, version.parsed, rows, codec=_AVRO[packing], sync_interval=BLOCK_BYTES)
    return out.getvalue()


def parquet(subject: Subject, values: Iterable[bytes], packing: Packing) -> bytes:
    """The same as a Parquet file. Records are structs, decimals decimals, timestamps text as in JSON: all digits are kept.

    A list whose items may be of several types is text that holds JSON, as Parquet has no unions.
    """
    import pyarrow as pa  # noqa: PLC0415  # 40 MB that a worker without Parquet does not need
    import pyarrow.parquet  # noqa: PLC0415  # as above

    fields = subject.latest.fields
    rows = [_parquet_form(fields, avro_form(fields, parsed(value))) for value in values]
    out = io.BytesIO()
    pa.parquet.write_table(pa.Table.from_pylist(rows, schema=_arrow_schema(subject)), out, compression=packing)
    return out.getvalue()


def avro_form(fields: tuple[Field, ...], record: Mapping[str, Any]) -> dict[str, Any]:
    """A record, JSON as the codec writes it and parsed, as Avro has it: open fields as JSON text, decimals exact. Absent and null
    fields are left out, and what no schema names. Raises ValueError for a field that holds what its type does not allow.
    """
    made: dict[str, Any] = {}
    for field in fields:
        value = record.get(field.name)
        if value is None:
            continue
        held = _HELD.get(field.kind)
        if held and type(value) not in held:
            raise ValueError(f"{field.text_path} holds no {field.kind}")
        match field.kind:
            case "record":
                made[field.name] = avro_form(field.fields, value)
            case "json" | "object":
                made[field.name] = _json(value).decode()
            case "decimal":
                made[field.name] = _scaled(value, field)
            case "double":
                made[field.name] = float(value)
            case "array":
                made[field.name] = [float(item) if isinstance(item, Decimal) else item for item in value]
            case _:
                made[field.name] = value
    return made


def _scaled(value: Any, field: Field) -> Decimal:
    """A number with exactly as many places as its field: 0.50 and 5E-1 are one value. Raises ValueError for what is not."""
    try:
        return Decimal(str(value)).quantize(Decimal(1).scaleb(-field.scale), None, _exact(field.precision))
    except ArithmeticError:
        raise ValueError(f"{field.text_path} does not fit decimal({field.precision}, {field.scale})") from None


@cache
def _exact(precision: int) -> Context:
    return Context(prec=precision, traps=[Inexact, InvalidOperation])


def _parquet_form(fields: tuple[Field, ...], record: dict[str, Any]) -> dict[str, Any]:
    for field in fields:
        value = record.get(field.name)
        if value is None:
            continue
        if field.kind == "record":
            _parquet_form(field.fields, value)
        elif field.kind == "array" and len(field.items) > 1:
            record[field.name] = _json(value).decode()
    return record


@cache
def _arrow_schema(subject: Subject) -> "pa.Schema":
    import pyarrow as pa  # noqa: PLC0415  # as above

    return pa.schema([(field.name, _arrow_type(field)) for field in subject.latest.fields])


def _arrow_type(field: Field) -> "pa.DataType":
    import pyarrow as pa  # noqa: PLC0415  # as above

    plain = {"long": pa.int64(), "double": pa.float64(), "boolean": pa.bool_()}
    match field.kind:
        case "record":
            return pa.struct([(below.name, _arrow_type(below)) for below in field.fields])
        case "decimal":
            return pa.decimal128(field.precision, field.scale)
        case "array" if len(field.items) == 1:
            return pa.list_(plain.get(field.items[0], pa.string()))
        case kind:
            return plain.get(kind, pa.string())
