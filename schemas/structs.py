"""Struct types generated from an Avro schema: what makes decoding, checking and ordering one pass in C."""

import functools
import operator
import re
from collections.abc import Iterable
from decimal import Context, Decimal, Inexact, InvalidOperation
from keyword import iskeyword
from types import GenericAlias
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from schemas.fields import Field
from schemas.subjects import Subject
from schemas.values import DOUBLE_EXACT

Path = tuple[str, ...]

_NAME = re.compile(r'[^\x00-\x1f"\\\ud800-\udfff]+')

_LONG = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
# The Python simulator's devices say the outcome in words, in every transaction: settling.py puts them right, and timestamps,
# severities and quotas, which all are taken as they come.
_OUTCOME = bool | Literal["success", "fail"]
# Beyond this a number may lose digits of its whole part; drift.py takes those that do not.
_DOUBLE = Annotated[float, Meta(gt=-DOUBLE_EXACT, lt=DOUBLE_EXACT)]
_SCALARS: dict[str, Any] = {"string": str, "timestamp": str, "long": _LONG, "double": _DOUBLE, "boolean": bool}


class _Checked(type):
    """Decimals of some precision and scale: a type that msgspec does not know, so that it asks `decoding_hook`."""

    quantum: Decimal
    context: Context

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, Decimal)


def record_type(
    subject: Subject, extra: Iterable[Path] = (), fields: tuple[Field, ...] | None = None
) -> type[msgspec.Struct]:
    """The Struct type of a subject's newest version: fields in schema order, each `T | None | UnsetType`, absent by default.

    Text is str, ids are int, decimals are subclasses of Decimal in name only (values are plain Decimals), open objects are
    dict, or Raw where they stay as written. Decoders of the type need `dec_hook=decoding_hook`; what is open has to be looked
    into after that (`settling.Settling`).

    `extra` are paths of further text fields, appended to the records that they name (`("transaction", "cc", "number_iv")`);
    paths that are there already are left as they are. `fields` are those of the subject as `fields.sealed` and `fields.unparsed`
    make them, if not as they are. Raises ValueError if a path leads through what is no record.
    """
    added = list(dict.fromkeys(tuple(path) for path in extra))
    for path in added:
        _check_extra(subject, path)
    return _struct(subject.name.capitalize(), fields or subject.fields, (), added)


def is_field_name(name: str) -> bool:
    """Whether a field may be called so: msgspec takes no name that JSON would have to escape."""
    return _NAME.fullmatch(name) is not None


def attribute(name: str) -> str:
    """What a field of this name is called in its Struct: so too, where that is plain.

    Python reads letters beyond ASCII as their plain forms (NFKC), and names with two underscores are its own. No schema has a
    field whose name begins like those that are made here.
    """
    plain = name.isascii() and name.isidentifier() and not iskeyword(name) and not name.startswith("__")
    return name if plain else f"é{name.encode().hex()}"


def decoding_hook(type_: Any, value: Any) -> Any:
    """msgspec's hook for decimals. Raising sends the record to the slow path, which says what is wrong."""
    if type(value) is not Decimal:
        if type(value) is not int:
            raise ValueError
        value = Decimal(value)
    try:
        value.quantize(type_.quantum, None, type_.context)
    except ArithmeticError:
        raise ValueError from None
    return value


@functools.cache
def _decimal_type(precision: int, scale: int) -> type:
    exact = Context(prec=precision, traps=[Inexact, InvalidOperation])
    members = {"quantum": Decimal(1).scaleb(-scale), "context": exact}
    return _Checked(f"Decimal{precision}x{scale}", (Decimal,), members)


def _struct(name: str, fields: tuple[Field, ...], path: Path, extra: list[Path]) -> type[msgspec.Struct]:
    known = {field.name for field in fields}
    typed = [(field.name, _type(field, extra)) for field in fields]
    typed += [(last, str) for *parent, last in extra if tuple(parent) == path and last not in known]
    # Raw holds null as it holds all else, and stands in no union.
    members = [
        (attribute(key), type_ if type_ is msgspec.Raw else type_ | None | UnsetType, UNSET) for key, type_ in typed
    ]
    names = {attribute(key): key for key, _ in typed}
    return msgspec.defstruct(
        name, members, module=__name__, namespace=_SILENT, gc=False, forbid_unknown_fields=True, rename=names
    )


def _present(record: msgspec.Struct) -> list[str]:
    return [name for name in record.__struct_fields__ if getattr(record, name) is not UNSET]


# Records hold card numbers, and a repr ends up in logs and tracebacks: it names the fields that are there, never a value.
_SILENT: dict[str, Any] = {
    "__repr__": lambda record: f"<{type(record).__name__} with {', '.join(_present(record)) or 'nothing'}>",
    "__rich_repr__": lambda record: iter(_present(record)),
}


def _type(field: Field, extra: list[Path]) -> Any:
    match field.kind:
        case "record":
            name = "".join(part.title().replace("_", "") for part in field.path)
            return _struct(name, field.fields, field.path, extra)
        case "array":
            return GenericAlias(list, (functools.reduce(operator.or_, (_SCALARS[item] for item in field.items)),))
        case "decimal":
            return _decimal_type(field.precision, field.scale)
        case "object":
            return msgspec.Raw if field.as_written else dict
        case "json":
            return Any
        case _:
            return _OUTCOME if field.drift == "outcome" else _SCALARS[field.kind]


def _check_extra(subject: Subject, path: Path) -> None:
    text = "." + ".".join(path)
    fields: tuple[Field, ...] = subject.fields
    for depth, name in enumerate(path[:-1], 1):
        found = next((field for field in fields if field.name == name), None)
        if found is None or found.kind != "record":
            at = "." + ".".join(path[:depth])
            raise ValueError(f"cannot add {text} to {subject.latest}: {at} is no record there; use a record that is")
        fields = found.fields
    if not path or not is_field_name(path[-1]):
        raise ValueError(
            f"cannot add {text} to {subject.latest}: write a name without quotes, \\ and control characters"
        )
