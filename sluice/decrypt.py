"""`sluice decrypt`: encrypted fields of delivered records back to clear text, for who holds the keys."""

import gzip
import io
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any, BinaryIO, Literal, cast

import msgspec

from pipeline.config import EncryptRule
from pipeline.encryption import DecryptionFailed, decrypt_field
from pipeline.keys import Keys, UnknownKey
from pipeline.paths import Names, parse, resolve
from pipeline.paths import text as path_text
from pipeline.tokens import TOKEN, key_id_of
from schemas.structs import record_type
from schemas.subjects import load
from sluice.config import Config
from sluice.config_rules import meant
from sluice.exits import Exit, UserError
from sluice.keys import to_decrypt

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_PACKED: Mapping[bytes, Callable[[Any], BinaryIO]] = {
    b"\x1f\x8b": lambda source: cast(BinaryIO, gzip.GzipFile(fileobj=source)),
    b"\x28\xb5\x2f\xfd": lambda source: cast(BinaryIO, zstd.ZstdFile(source)),
}
_DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, zstd.ZstdError)
_MOST_SAID = 20
_read = msgspec.json.Decoder(float_hook=Decimal).decode
_write = msgspec.json.Encoder(decimal_format="number").encode


class _Undone(Exception):
    """A field that stays encrypted. The text says why, and holds no value."""


def run(config: Config, pipeline: str | None, source: BinaryIO, out: BinaryIO) -> None:
    """Write each line of `source`, a routed record as JSON, to `out` with its encrypted fields in clear, in order.

    `source` may be packed with gzip or zstd. `pipeline` is the one whose rules encrypted; it may be left out where only one has
    any. Vectors and key ids are taken out, search tokens stay. A field that does not decrypt stays as it is, and is said on
    stderr: then UserError at the end. Said there too is when nothing was found to decrypt, and where a version of a key was
    guessed. Blocks as `source` and `out` do. Raises OSError, and UserError for what is not there.
    """
    name = _pipeline(config, pipeline)
    undo = Decryption(config, name, to_decrypt(config))
    failed = 0
    for number, line in enumerate(_lines(source), start=1):
        if not line.strip():
            continue
        try:
            record = _read(line)
        except (ValueError, ArithmeticError, RecursionError):
            record = None
        if isinstance(record, dict):
            reasons = undo(record)
            out.write(_write(record) + b"\n")
        else:
            reasons = ["is no JSON object"]
            out.write(line.rstrip(b"\n") + b"\n")
        failed += bool(reasons)
        if reasons and failed <= _MOST_SAID:
            sys.stderr.write(f"line {number}: {'; '.join(reasons)}\n")
    out.flush()
    for field, count in undo.guessed.items():
        said = f"{count} {'line names' if count == 1 else 'lines name'} no version of the key of {field}"
        sys.stderr.write(f"{said}: the active one was taken, which gives nonsense where it was another\n")
    if failed:
        more = f" ({failed - _MOST_SAID} are not named)" if failed > _MOST_SAID else ""
        raise UserError(f"{failed} lines were not decrypted, or not in all fields{more}; see above", Exit.FAILED)
    if not undo.decrypted:
        sys.stderr.write(f"no line holds a field that pipeline {name} encrypts: nothing was decrypted\n")


class Decryption:
    """The `encrypt` rules of one pipeline, undone in routed records."""

    def __init__(self, config: Config, pipeline: str, keys: Keys) -> None:
        rules, self._keys = config.pipelines[pipeline].encrypt, keys
        record = record_type(load(config.pipelines[pipeline].subject), config.pipelines[pipeline].extra_fields())
        self._fields = [_Field(pipeline, rule, keys, resolve(rule.field, record).kind == "string") for rule in rules]
        self._paths = {field.path for field in self._fields}
        self._subject = config.pipelines[pipeline].subject
        self._names = frozenset(record.__struct_encode_fields__)
        self.decrypted = 0
        """How many fields came back."""
        self.guessed: Counter[str] = Counter()
        """Where a version of a key that may be another was taken, by field."""

    def __call__(self, record: dict[str, Any]) -> list[str]:
        """Put the clear values of a record back, in place, and take vectors and key ids out. Returns what stays encrypted, and
        why; never a value."""
        reasons = []
        if record and self._names.isdisjoint(record):
            reasons.append(f"has no field of {self._subject}; give the records themselves, one on each line")
        for field in self._fields:
            try:
                version = field.decrypt(record)
                self.decrypted += version is not None
                if version == "guessed":
                    self.guessed[field.rule.field] += 1
            except _Undone as error:
                reasons.append(f"{field.rule.field}: {error}")
            except (DecryptionFailed, UnknownKey) as error:
                other = self._written_for(field, record, has_key=isinstance(error, DecryptionFailed))
                moved = f"the token is that of {other}, and was moved here; put it back there"
                reasons.append(f"{field.rule.field}: {moved if other else error}")
        strays = (path for path in _tokens(record) if path not in self._paths)
        reasons += [f"{path_text(path)}: a token, where no rule writes one" for path in strays]
        return reasons

    def _written_for(self, field: "_Field", record: dict[str, Any], *, has_key: bool) -> str:
        """The other field that a value which does not open belongs to; "" if none can be told.

        Only keys that are at hand are tried, the field's own among them if it `has_key`: for others somebody may have to be
        asked who refuses.
        """
        token = at(record, field.path)
        id_ = key_id_of(token)
        at_hand = {key.name for key in self._keys if key.id == id_} | ({field.rule.key} if has_key else set())
        others = (one for one in self._fields if one.rule.is_token and one.rule.key in at_hand)
        return next((one.rule.field for one in others if one is not field and one.opens(record, token)), "")


class _Field:
    """One rule, and how it is undone in a record."""

    def __init__(self, pipeline: str, rule: EncryptRule, keys: Keys, is_text: bool) -> None:
        self.rule = rule
        self._pipeline, self._keys, self._is_text = pipeline, keys, is_text
        self.path = parse(rule.field)
        self._added = [parse(path) for path in (rule.iv_field, rule.key_id_field) if path]
        self._has_versions = sum(key.name == rule.key for key in keys) > 1

    def decrypt(self, record: dict[str, Any]) -> Literal["known", "guessed"] | None:
        """Put the clear value back, in place. Returns whether it is certain which of the key's versions it was; None where the
        field is not there. Raises _Undone, DecryptionFailed and UnknownKey."""
        rule, value = self.rule, at(record, self.path)
        for depth in range(1, len(self.path)):
            if not isinstance(at(record, self.path[:depth]), dict | None):
                raise _Undone(
                    f"{path_text(self.path[:depth])} is no object; check that the record is one of this pipeline"
                )
        if value is None:
            return None
        if not isinstance(value, str):
            raise _Undone(
                "holds no text, so it is not encrypted by this rule; check that the record is one of this pipeline"
            )
        vector, key_id = (
            _text(at(record, parse(path))) if path else None for path in (rule.iv_field, rule.key_id_field)
        )
        if not rule.is_token and key_id is None and rule.key not in self._keys:
            raise _Undone(f"the key {rule.key} is not at hand; get it from who keeps it")
        clear = decrypt_field(rule, self._pipeline, self._keys, value, vector, key_id, self._bound(record))
        parent = cast(dict[str, Any], at(record, self.path[:-1]))
        parent[cast(str, self.path[-1])] = clear if self._is_text else _read(clear)
        for path in self._added:
            take_away(record, path)
        return "guessed" if not rule.is_token and key_id is None and self._has_versions else "known"

    def opens(self, record: dict[str, Any], token: Any) -> bool:
        """Whether a token was written in this field, beside what the record holds."""
        try:
            decrypt_field(self.rule, self._pipeline, self._keys, token, bound=self._bound(record))
        except (DecryptionFailed, UnknownKey):
            return False
        return True

    def _bound(self, record: dict[str, Any]) -> list[Any]:
        return [at(record, parse(path)) for path in self.rule.bind]


def _pipeline(config: Config, given: str | None) -> str:
    encrypting = [name for name, one in config.pipelines.items() if one.encrypt]
    if given is None:
        if len(encrypting) == 1:
            return encrypting[0]
        names = ", ".join(encrypting) or "none"
        raise UserError(f"pipelines that encrypt are {names}; say which one wrote this with --pipeline", Exit.USAGE)
    if given not in config.pipelines:
        known = ", ".join(config.pipelines)
        raise UserError(f"there is no pipeline {given}{meant(given, config.pipelines)}; known: {known}", Exit.USAGE)
    if given not in encrypting:
        raise UserError(
            f"pipeline {given} encrypts nothing; known that do: {', '.join(encrypting) or 'none'}", Exit.USAGE
        )
    return given


def _lines(source: BinaryIO) -> Iterator[bytes]:
    """The lines of a stream, unpacked. Raises UserError for one that is packed and damaged."""
    head = source.read(max(map(len, _PACKED)))
    for magic, unpacked in _PACKED.items():
        if head.startswith(magic):
            number = 0
            try:
                for line in unpacked(_Joined(head, source)):
                    number += 1
                    yield line
            except _DAMAGE:
                raise UserError(
                    f"the input is cut off or damaged after line {number}; fetch it again", Exit.FAILED
                ) from None
            return
    if first := head if head.endswith(b"\n") else head + source.readline():
        yield from io.BytesIO(first)
    yield from source


def _tokens(record: dict[str, Any]) -> Iterator[Names]:
    """Where tokens stand in a record."""
    pending: list[tuple[Names, Any]] = [((), record)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, dict):
            pending += [((*path, name), one) for name, one in value.items()]
        elif isinstance(value, list):
            pending += [((*path, place), one) for place, one in enumerate(value)]
        elif isinstance(value, str) and value.startswith(TOKEN):
            yield path


class _Joined:
    """A stream whose beginning was read already."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head, self._rest = head, rest

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            size = sys.maxsize
        head, self._head = self._head[:size], self._head[size:]
        return head or self._rest.read(size)


def at(record: Any, path: Names) -> Any:
    """What is at a path, None where nothing is."""
    for name in path:
        record = record.get(name) if isinstance(record, dict) else None
    return record


def take_away(record: Any, path: Names) -> None:
    """Remove what is at a path, if anything is."""
    beside = at(record, path[:-1])
    if isinstance(beside, dict):
        beside.pop(path[-1], None)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
