"""Field encryption, all fields of a batch at once, and fail-closed: what cannot be encrypted goes to the dead letters.

AES-256-CFB is byte-compatible with `openssl enc -aes-256-cfb`; nobody can tell whether such a value was changed. AES-256-GCM
is bound to its pipeline and field, and shows any change. Every field gets a vector or nonce of its own from the operating system.
"""

import itertools
import operator
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET

from pipeline.ciphers import BatchedCfb, BatchedGcm, DecryptionFailed, binding, cfb_decrypt, gcm_decrypt
from pipeline.conditions import UNMATCHED
from pipeline.config import EncryptRule
from pipeline.keys import Keys, UnknownKey
from pipeline.paths import Location, compiled, resolve
from schemas.refused import Refused

__all__ = ["DecryptionFailed", "Encryption", "decrypt_field"]

Gather = Callable[[Sequence[Any]], list[Any]]


class Encryption:
    """The `encrypt` rules of one pipeline, with the keys that are active when it is made. Raises UnknownKey, InvalidPath.

    `record` is the Struct type with the vector fields in it (`PipelineConfig.extra_fields`).
    """

    def __init__(self, rules: Sequence[EncryptRule], record: type[msgspec.Struct], pipeline: str, keys: Keys) -> None:
        _demand({rule.key for rule in rules}, keys)
        self.paths = frozenset(rule.field for rule in rules)
        self._parents: dict[str, Gather] = {}
        self._gcm: list[tuple[_Field, BatchedGcm]] = []
        by_key: dict[str, list[_Field]] = defaultdict(list)
        for rule in rules:
            field = self._compile(rule, record)
            if rule.algorithm == "AES-256-GCM":
                self._gcm.append((field, BatchedGcm(keys.active(rule.key), binding(pipeline, rule.field))))
            else:
                by_key[rule.key].append(field)
        self._cfb = [(fields, BatchedCfb(keys.active(name))) for name, fields in by_key.items()]

    def __call__(self, records: Sequence[Any], routes: Sequence[str]) -> list[tuple[int, Refused]]:
        """Encrypt the fields of these records in place; `routes` names the route of each.

        Returns the positions of records that must not be delivered, in order, with reasons: on any route but "unmatched" a field
        that is missing, on every route one that is null or otherwise no text. The fields of such a record may be in clear.
        Anything unexpected raises, and then no record of the batch may be delivered.

        Values and vectors in base64 are left as bytes in the struct: the JSON encoder writes bytes as base64.
        """
        refused: dict[int, Refused] = {}
        parents = {path: _Owners(gather(records), routes) for path, gather in self._parents.items()}
        for fields, cfb in self._cfb:
            taken = [field.take(parents, routes, refused) for field in fields]
            ciphertexts, vectors = cfb.encrypt(list(itertools.chain.from_iterable([one.plains for one in taken])))
            start = 0
            for field, one in zip(fields, taken, strict=True):
                end = start + len(one.plains)
                field.put(one, ciphertexts[start:end], vectors[start:end])
                start = end
        for field, gcm in self._gcm:
            one = field.take(parents, routes, refused)
            field.put(one, gcm.encrypt(one.plains), ())
        return sorted(refused.items(), key=operator.itemgetter(0))

    def _compile(self, rule: EncryptRule, record: type[msgspec.Struct]) -> "_Field":
        at = resolve(rule.field, record)
        vector = resolve(rule.iv_field, record) if rule.iv_field else None
        for location in (at, vector):
            if location is not None:
                self._parents.setdefault(_owner(location), _gather(location))
        return _Field(at, vector, hexadecimal=rule.encoding == "hex")


class _Owners:
    """The objects that fields of a batch's records are in, looked at once for all the fields in them."""

    def __init__(self, everybody: list[Any], routes: Sequence[str]) -> None:
        """`everybody`: the object of each record; UNSET or None where there is none."""
        self.everybody = everybody
        self.held = list(filter(None, everybody))
        without = itertools.compress(routes, map(operator.not_, everybody))
        self.missing = len(self.held) < len(everybody) and not {UNMATCHED}.issuperset(without)
        """Whether a record on a route other than "unmatched" has no such object."""


class _Taken(NamedTuple):
    """Of the records of a batch that have a field: the objects that it and its vector are in, and its texts in UTF-8."""

    owners: Sequence[Any]
    vector_owners: Sequence[Any]
    plains: list[bytes]


class _Field:
    """Reads and writes one field of all records of a batch."""

    def __init__(self, at: Location, vector: Location | None, hexadecimal: bool) -> None:
        self._path = at.path
        self._name = at.name
        self._owner = _owner(at)
        self._vector_owner = _owner(vector) if vector else self._owner
        self._hexadecimal = hexadecimal
        self._read = compiled("read", ["def read(owners):", f"    return [o.{at.name} for o in owners]"], {})
        write_vector = f"w.{vector.name} = v" if vector else "pass"
        lines = [
            "def write(owners, vector_owners, texts, vectors):",
            f"    for o, w, t, v in zip(owners, vector_owners, texts, vectors): o.{at.name} = t; {write_vector}",
        ]
        self._write = compiled("write", lines, {})

    def take(self, parents: dict[str, "_Owners"], routes: Sequence[str], refused: dict[int, Refused]) -> _Taken:
        """The field of all records that have it; adds those that must not be delivered to `refused`."""
        owners = parents[self._owner]
        if owners.missing:
            return self._take_slowly(parents, routes, refused)
        try:
            plains = list(map(str.encode, self._read(owners.held)))
        except TypeError:  # one of them is no text
            return self._take_slowly(parents, routes, refused)
        if self._vector_owner == self._owner:
            return _Taken(owners.held, owners.held, plains)
        vector_owners = list(itertools.compress(parents[self._vector_owner].everybody, owners.everybody))
        return _Taken(owners.held, vector_owners, plains)

    def _take_slowly(self, parents: dict[str, "_Owners"], routes: Sequence[str], refused: dict[int, Refused]) -> _Taken:
        owners: list[Any] = []
        vector_owners: list[Any] = []
        plains: list[bytes] = []
        everything = zip(parents[self._owner].everybody, parents[self._vector_owner].everybody, routes, strict=True)
        for position, (owner, vector_owner, route) in enumerate(everything):
            text = getattr(owner, self._name) if owner else UNSET
            if isinstance(text, str):
                owners.append(owner)
                vector_owners.append(vector_owner)
                plains.append(text.encode())
            elif text is not UNSET:
                refused.setdefault(position, Refused("card-field-not-a-string", self._path))
            elif route != UNMATCHED:
                refused.setdefault(position, Refused("card-field-missing", self._path))
        return _Taken(owners, vector_owners, plains)

    def put(self, taken: _Taken, ciphertexts: Sequence[Any], vectors: Sequence[Any]) -> None:
        """Put ciphertexts, and vectors if the field has them, where the texts were."""
        if self._hexadecimal:
            ciphertexts, vectors = [one.hex() for one in ciphertexts], [one.hex() for one in vectors]
        self._write(taken.owners, taken.vector_owners, ciphertexts, vectors or itertools.repeat(None))


def decrypt_field(
    rule: EncryptRule, pipeline: str, keys: Keys, value: str, vector: str | None = None, key_id: str | None = None
) -> str:
    """The clear text of a field that a rule encrypted.

    `vector` is the content of the rule's `iv_field`, for AES-256-CFB. `key_id` chooses a version of its key, by default the
    active one. Raises UnknownKey, and DecryptionFailed; a wrong key for AES-256-CFB mostly yields nonsense instead.
    """
    if rule.algorithm == "AES-256-GCM":
        return gcm_decrypt(keys, rule.key, binding(pipeline, rule.field), value)
    if vector is None:
        raise DecryptionFailed(f"{rule.field}: AES-256-CFB needs the content of {rule.iv_field}; pass it too")
    key = keys.active(rule.key) if key_id is None else keys.find(rule.key, key_id)
    return cfb_decrypt(key, value, vector, rule.encoding)


def _demand(names: set[str], keys: Keys) -> None:
    problems: list[str] = []
    for name in sorted(names):
        try:
            keys.active(name)
        except UnknownKey as error:
            problems += error.problems
    if problems:
        raise UnknownKey(problems)


def _owner(location: Location) -> str:
    return location.parent.path if location.parent else ""


def _gather(location: Location) -> Gather:
    """A function that gives, for each record, the object that a field is in; UNSET or None where there is none."""
    *above, _ = location.names
    if not above:
        return list
    source = "r"
    for name in above[:-1]:
        source = f"({source}.{name} or UNKNOWN)"
    lines = ["def gather(records):", f"    return [{source}.{above[-1]} for r in records]"]
    gather: Gather = compiled("gather", lines, {"UNKNOWN": _Nothing()})
    return gather


class _Nothing:
    """Stands for an object that is not there: all its fields are absent."""

    def __getattr__(self, name: str) -> Any:
        return UNSET
