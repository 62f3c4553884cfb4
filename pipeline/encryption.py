"""Field encryption, all fields of a batch at once, and fail-closed: what cannot be encrypted goes to the dead letters.

Every value gets a vector or nonce of its own from the operating system.
"""

import itertools
import operator
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, cast

import msgspec
from msgspec import UNSET

from pipeline.ciphers import BlockAlgorithm, DecryptionFailed, Encrypt, decrypt, encryption
from pipeline.config import FAIL, HASH, SUCCESS, EncryptRule
from pipeline.keys import Key, Keys, KeysError, UnknownKey
from pipeline.matching import SEVERAL
from pipeline.paths import Loads, Location, resolve
from pipeline.tokens import BatchedTokens, SearchTokens, TokenAlgorithm, binding, open_token, record_binding
from schemas.compiling import compiled
from schemas.refused import Refused

__all__ = ["DecryptionFailed", "Encryption", "decrypt_field"]

Gather = Callable[[Sequence[Any]], list[Any]]
_NULL = b"null"
_as_json = msgspec.json.Encoder(decimal_format="number").encode


class Encryption:
    """The `encrypt` rules of one pipeline, with the keys that are active when it is made: to be made anew when they change.

    Raises UnknownKey for keys that do not suit the rules, and InvalidPath.

    `record` is the Struct type with the added fields in it (`PipelineConfig.extra_fields`). `required_on` are the routes that
    require the fields of rules that name none.
    """

    def __init__(
        self,
        rules: Sequence[EncryptRule],
        record: type[msgspec.Struct],
        pipeline: str,
        keys: Keys,
        required_on: Collection[str] = (SUCCESS, FAIL),
    ) -> None:
        _demand(rules, keys)
        self._keys = keys
        self.paths = frozenset(rule.field for rule in rules)
        self._parents: dict[str, Gather] = {}
        self._bindings: dict[tuple[str, ...], Callable[[Sequence[Any]], list[tuple[bytes, ...]]]] = {}
        self._tokens: list[tuple[_Field, Key, BatchedTokens]] = []
        together: dict[tuple[str, str], list[_Field]] = defaultdict(list)
        for rule in rules:
            field = self._compile(rule, record, keys, required_on)
            if rule.is_token:
                algorithm = cast(TokenAlgorithm, rule.algorithm)
                bound = binding(algorithm, pipeline, rule.field)
                key = keys.active(rule.key)
                self._tokens.append((field, key, BatchedTokens(algorithm, key, bound)))
            else:
                together[rule.algorithm, rule.key].append(field)
        self._clear = self._clearing(rules, record)
        self.removed = 0
        """How many values the last call removed that producers had put where rules put vectors, key ids and search tokens."""
        self._blocks: list[tuple[list[_Field], Key, Encrypt]] = [
            (fields, keys.active(name), encryption(cast(BlockAlgorithm, algorithm), keys.active(name)))
            for (algorithm, name), fields in together.items()
        ]

    def __call__(self, records: Sequence[Any], routes: Sequence[str]) -> list[tuple[int, Refused]]:
        """Encrypt the fields of these records in place; `routes` names the route of each.

        Returns the positions of records that must not be delivered, in order, with reasons: on a route that requires it a field
        that is missing, on every route a text field that is null or holds no text, or one beside nothing to bind it
        to. The fields of such a record may be in clear.
        Anything unexpected raises, and then no record of the batch may be delivered.

        Values and vectors in base64 are left as bytes in the struct: the JSON encoder writes bytes as base64.
        """
        refused: dict[int, Refused] = {}
        parents = {path: _Owners(gather(records), routes) for path, gather in self._parents.items()}
        self.removed = sum(clear(parents[owner].held) for owner, clear in self._clear.items())
        for fields, key, encrypt in self._blocks:
            taken = [field.take(parents, routes, refused) for field in fields]
            ciphertexts, vectors = encrypt(list(itertools.chain.from_iterable([one.plains for one in taken])))
            self._keys.used(key, len(ciphertexts))
            start = 0
            for field, one in zip(fields, taken, strict=True):
                end = start + len(one.plains)
                field.put(one, ciphertexts[start:end], vectors[start:end])
                start = end
        beside = {paths: bound(records) for paths, bound in self._bindings.items()}
        bindings = {paths: list(map(record_binding, values)) for paths, values in beside.items()}
        for field, key, tokens in self._tokens:
            one = field.take(parents, routes, refused)
            self._keys.used(key, len(one.plains))
            bound = None
            if field.bind:
                bound = list(itertools.compress(bindings[field.bind], one.there))
                _refuse_unbound(field.bind, beside[field.bind], one.there, refused)
            field.put(one, tokens.encrypt(one.plains, bound), ())
        return sorted(refused.items(), key=operator.itemgetter(0))

    def _clearing(self, rules: Sequence[EncryptRule], record: type[msgspec.Struct]) -> dict[str, Callable[[Any], int]]:
        """For each object that rules add fields to, a function that removes those from such objects, and counts."""
        names: dict[str, list[str]] = defaultdict(list)
        for rule in rules:
            for path in rule.added_fields():
                at = resolve(path, record)
                names[_owner(at)].append(at.attribute)
        found = {}
        for owner, added in names.items():
            lines = ["def clear(owners):", "    count = 0", "    for o in owners:"]
            lines += [f"        if o.{name} is not UNSET: o.{name} = UNSET; count += 1" for name in added]
            found[owner] = compiled("clear", [*lines, "    return count"], {})
        return found

    def _compile(
        self, rule: EncryptRule, record: type[msgspec.Struct], keys: Keys, required_on: Collection[str]
    ) -> "_Field":
        at = resolve(rule.field, record)
        added = [resolve(path, record) for path in rule.added_fields()]
        for location in (at, *added):
            self._parents.setdefault(_owner(location), _gather(location))
        field = _Field(rule, at, added, keys, required_on if rule.required_on is None else rule.required_on)
        if field.bind:
            lines = _binding([resolve(path, record) for path in field.bind])
            self._bindings[field.bind] = compiled("bound", lines, {"json": _as_json})
        return field


class _Owners:
    """The objects that fields of a batch's records are in, looked at once for all the fields in them."""

    def __init__(self, everybody: list[Any], routes: Sequence[str]) -> None:
        """`everybody`: the object of each record; UNSET or None where there is none."""
        self.everybody = everybody
        self.held = list(filter(None, everybody))
        self.without: frozenset[str] = frozenset()
        """The routes of records that have no such object."""
        if len(self.held) < len(everybody):
            self.without = frozenset(itertools.compress(routes, map(operator.not_, everybody)))


class _Taken(NamedTuple):
    """Of the records of a batch that have a field: the objects that it is in, and its values as they are encrypted."""

    parents: Mapping[str, _Owners]
    owners: Sequence[Any]
    there: Sequence[Any]
    """For each record of the batch something true if it has the field."""
    plains: list[bytes]


class _Field:
    """Reads and writes one field of all records of a batch, and what its rule puts beside it."""

    def __init__(
        self, rule: EncryptRule, at: Location, added: Sequence[Location], keys: Keys, required_on: Collection[str]
    ) -> None:
        self.bind = tuple(rule.bind)
        self._path = at.path
        self._name = at.name
        self._owner = _owner(at)
        self._is_text = at.kind == "string"
        self._hexadecimal = rule.encoding == "hex"
        self._required_on = frozenset(required_on)
        self._key_id = keys.active(rule.key).id if rule.key_id_field else None
        self._search = SearchTokens(keys.active(rule.search_key)) if rule.search_key else None
        self._read = compiled("read", ["def read(owners):", f"    return [o.{at.name} for o in owners]"], {})
        self._added_owners = [_owner(one) for one in added]
        self._write = compiled("write", _writing(at, added), {})

    def take(self, parents: dict[str, _Owners], routes: Sequence[str], refused: dict[int, Refused]) -> _Taken:
        """The field of all records that have it; adds those that must not be delivered to `refused`."""
        owners = parents[self._owner]
        if not self._is_text or any(map(self._is_required, owners.without)):
            return self._take_slowly(parents, routes, refused)
        try:
            plains = list(map(str.encode, self._read(owners.held)))
        except TypeError:  # one of them is no text
            return self._take_slowly(parents, routes, refused)
        return _Taken(parents, owners.held, owners.everybody, plains)

    def _is_required(self, route: str) -> bool:
        return not self._required_on.isdisjoint(route.split(SEVERAL))

    def _take_slowly(self, parents: dict[str, _Owners], routes: Sequence[str], refused: dict[int, Refused]) -> _Taken:
        held: list[Any] = []
        there: list[bool] = []
        plains: list[bytes] = []
        for position, (owner, route) in enumerate(zip(parents[self._owner].everybody, routes, strict=True)):
            value: Any = getattr(owner, self._name) if owner else UNSET
            takes = isinstance(value, str) if self._is_text else value is not UNSET and value is not None
            there.append(takes)
            if takes:
                held.append(owner)
                plains.append(value.encode() if self._is_text else _as_json(value))
            elif self._is_text and value is not UNSET:
                refused.setdefault(position, Refused("card-field-not-a-string", self._path))
            elif self._is_required(route):
                refused.setdefault(position, Refused("card-field-missing", self._path))
        return _Taken(parents, held, there, plains)

    def put(self, taken: _Taken, ciphertexts: Sequence[Any], vectors: Sequence[Any]) -> None:
        """Put ciphertexts where the values were, and beside them what the rule says."""
        if not taken.plains:
            return
        if self._hexadecimal:
            ciphertexts, vectors = [one.hex() for one in ciphertexts], [one.hex() for one in vectors]
        columns: list[Any] = [vectors] if vectors else []
        if self._key_id is not None:
            columns.append(itertools.repeat(self._key_id))
        if self._search is not None:
            columns.append(self._search.of(taken.plains))
        owners = [self._beside(owner, taken) for owner in self._added_owners]
        self._write(taken.owners, ciphertexts, *itertools.chain(*zip(owners, columns, strict=True)))

    def _beside(self, owner: str, taken: _Taken) -> Sequence[Any]:
        """The objects that an added field is in."""
        if owner == self._owner:
            return taken.owners
        return list(itertools.compress(taken.parents[owner].everybody, taken.there))


def _refuse_unbound(
    paths: Sequence[str], values: Sequence[tuple[bytes, ...]], there: Sequence[Any], refused: dict[int, Refused]
) -> None:
    """A token that is bound to nothing would open in any other record that lacks the same."""
    for position, beside in enumerate(values):
        if _NULL in beside and there[position]:
            refused.setdefault(position, Refused("card-field-missing", paths[beside.index(_NULL)]))


def _writing(at: Location, added: Sequence[Location]) -> list[str]:
    names = [f"o{number}, v{number}" for number in range(len(added))]
    columns = "".join(f", owners{number}, values{number}" for number in range(len(added)))
    puts = "".join(f"; o{number}.{one.attribute} = v{number}" for number, one in enumerate(added))
    return [
        f"def write(owners, texts{columns}):",
        f"    for o, t{''.join(f', {one}' for one in names)} in zip(owners, texts{columns}): o.{at.name} = t{puts}",
    ]


def _binding(bind: Sequence[Location]) -> list[str]:
    """Source of a function that gives, for each record, the values of these fields as JSON; null for what is absent."""
    loads = Loads(bind)
    values = ", ".join(
        f"json(None if {variable} is UNSET else {variable})" for variable in (loads.variables[at.path] for at in bind)
    )
    lines = [
        "def bound(records):",
        "    found = []",
        "    for r in records:",
        *(f"        {line}" for line in loads.lines),
    ]
    return [*lines, f"        found.append(({values},))", "    return found"]


def decrypt_field(
    rule: EncryptRule,
    pipeline: str,
    keys: Keys,
    value: str,
    vector: str | None = None,
    key_id: str | None = None,
    bound: Sequence[Any] = (),
) -> str:
    """The text of a field that a rule encrypted; of a field that holds no text, its JSON.

    `vector` and `key_id` are the contents of the rule's `iv_field` and `key_id_field`; without a key id the active version of
    the key is taken. `bound` are the values of `bind` in the record, None for what it lacks. Raises UnknownKey, and
    DecryptionFailed; a wrong key for CFB, OFB or CTR mostly yields nonsense instead.
    """
    if rule.is_token:
        algorithm = cast(TokenAlgorithm, rule.algorithm)
        beside = record_binding([_as_json(one) for one in bound]) if rule.bind else b""
        return open_token(
            algorithm, keys, rule.key, binding(algorithm, pipeline, rule.field) + beside, value, rule.bind
        )
    if vector is None:
        raise DecryptionFailed(f"{rule.algorithm} needs the content of {rule.iv_field}; pass it too")
    key = keys.active(rule.key) if key_id is None else keys.find(rule.key, key_id)
    return decrypt(cast(BlockAlgorithm, rule.algorithm), key, value, vector, rule.encoding)


def _demand(rules: Sequence[EncryptRule], keys: Keys) -> None:
    """See that there is a key for each rule, of the length that its algorithm needs. Raises UnknownKey with all that is wrong."""
    wanted: dict[tuple[str, str], None] = {(rule.key, rule.algorithm): None for rule in rules}
    wanted |= {(rule.search_key, HASH): None for rule in rules if rule.search_key}
    problems: list[str] = []
    for name, algorithm in sorted(wanted):
        try:
            keys.demand(name, algorithm)
        except KeysError as error:
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
    # Stands for an object that is not there: its fields are absent.
    nothing = type("Nothing", (), dict.fromkeys(above, UNSET))()
    gather: Gather = compiled("gather", lines, {"UNKNOWN": nothing})
    return gather
