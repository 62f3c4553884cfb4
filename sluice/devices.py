"""Simulated devices: what edge devices, their network and its billing would report, the same for the same seed.

Two kinds of devices, as there are two in the field: one writes booleans, amounts and UTC; the other "success" and "fail",
rates, numbers as text and time without a zone. Card numbers are made up.
"""

import itertools
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal, NamedTuple, get_args

import orjson

from sluice import platform_events
from sluice.platform_events import OPERATORS, USER, draw_uuid

Kind = Literal["access", "transaction", "bootup", "platform", "usage"]
Oddity = Literal[
    "not-json",
    "not-utf-8",
    "tombstone",
    "null",
    "array",
    "nan",
    "too-deep",
    "wrong-type",
    "no-transaction",
    "no-card",
    "card-number-is-a-number",
    "card-field-is-null",
    "unknown-field",
]
"""What a message is that no well-behaved device sends."""

HARMLESS: frozenset[Oddity] = frozenset({"no-transaction", "unknown-field"})
"""Oddities that are delivered all the same; the others belong in the dead letters."""

MIX: Mapping[Kind, float] = {"access": 6.25, "transaction": 2.5, "bootup": 1.25, "platform": 2.5}
"""Weights of what comes into the events topic: three kinds by edge devices, one by the platform they are connected by."""

_ACTIONS = ("login", "check_balance", "add_charge", "remove_charge", "logout")
_ACTION_WEIGHTS = (4.0, 3.0, 1.5, 1.0, 0.5)
_TAX_RATES = (0.0, 0.029, 0.04, 0.045, 0.05, 0.055, 0.06, 0.06, 0.0625, 0.065, 0.07, 0.07, 0.075)
_DENIALS = ("conn_err", "invalid_card", "denied")
_FIRST = ("Ada", "Grace", "Alan", "José", "Zoë", "Łukasz", "Mei", "Priya", "Sven", "Noor", "Oluwaseun", "Margaret")
_LAST = (
    "Lovelace",
    "Hopper",
    "Turing",
    "García Márquez",
    "Müller",
    "O'Neill",
    "Nowak",
    "Chen",
    "Iyer",
    "Ødegård",
    "王",
)
_PLACES = (
    ("52.52437", "13.41053", "Berlin", "DE", "Europe/Berlin"),
    ("33.03699", "-117.29198", "Encinitas", "US", "America/Los_Angeles"),
    ("41.64372", "-71.01991", "Fairhaven", "US", "America/New_York"),
)


class Message(NamedTuple):
    """One message for a topic. `value` is JSON unless `oddity` says otherwise; it is None for a tombstone.

    `id` is the record's own `id` too, where it is an object at all. `key` is the device's or the endpoint's id as text.
    """

    id: int
    key: bytes
    value: bytes | None
    kind: Kind
    oddity: Oddity | None


class Fleet:
    """`devices` devices with their endpoints, SIMs and IMSIs, all drawn from `seed`.

    `events()` and `usage()` never end. For the same arguments they yield the same messages, except for what `clock` (unix
    seconds) gives them. Ids count from `start_id` and are unique in one fleet: events take every second one, usage the others.
    `bad` is the share of events (0 to 1) that are odd; `mix` the weights of the kinds of events.
    """

    def __init__(
        self,
        seed: int,
        devices: int = 3,
        start_id: int = 1,
        *,
        bad: float = 0.0,
        mix: Mapping[Kind, float] = MIX,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if devices < 1:
            raise ValueError(f"devices is {devices}: a fleet has at least one device")
        if unknown := mix.keys() - MIX.keys():
            raise ValueError(f"mix names {sorted(unknown)}: its kinds are {', '.join(MIX)}")
        self._seed, self._start_id, self._bad, self._clock = seed, start_id, bad, clock
        self._kinds, self._weights = list(mix), list(itertools.accumulate(mix.values()))
        draw = random.Random(f"{seed} fleet")  # noqa: S311  a simulation: the same seed must give the same
        self._things = [platform_events.draw_thing(draw, number) for number in range(devices)]
        self._devices = [_draw_device(draw, number) for number in range(devices)]

    def references(self) -> dict[str, dict[str, dict[str, Any]]]:
        """What the topics of `endpoints`, `sims`, `imsis`, `operators` and `users` hold: for each its objects by id as text."""
        tables: dict[str, list[dict[str, Any]]] = {
            "endpoints": [thing.endpoint for thing in self._things],
            "sims": [thing.sim for thing in self._things],
            "imsis": [thing.imsi for thing in self._things],
            "operators": list(OPERATORS),
            "users": [USER],
        }
        return {name: {str(row["id"]): row for row in rows} for name, rows in tables.items()}

    def events(self) -> Iterator[Message]:
        """Messages for the events topic, without end."""
        draw = random.Random(f"{self._seed} events")  # noqa: S311  as above
        everybody = list(zip(self._devices, self._things, strict=True))
        build = {"access": _access, "transaction": _transaction, "bootup": _bootup}
        for number in itertools.count(self._start_id, 2):
            device, thing = draw.choice(everybody)
            now = self._clock()
            (kind,) = draw.choices(self._kinds, cum_weights=self._weights)
            if self._bad and draw.random() < self._bad:
                yield _odd(draw, number, device, now, draw.choice(get_args(Oddity)))
            elif kind == "platform":
                key, event = platform_events.event(draw, number, thing, now)
                yield Message(number, key, orjson.dumps(event), kind, None)
            else:
                record = device.report(draw, number, now, kind)
                if draw.random() < 0.5:
                    record |= thing.ids_only()
                record[kind] = build[kind](draw, device)
                yield Message(number, device.key, orjson.dumps(record), kind, None)

    def usage(self) -> Iterator[Message]:
        """Messages for the usage topic, without end."""
        draw = random.Random(f"{self._seed} usage")  # noqa: S311  as above
        for number in itertools.count(self._start_id + 1, 2):
            thing = draw.choice(self._things)
            record = platform_events.usage(draw, number, thing, self._clock())
            yield Message(number, thing.key, orjson.dumps(record), "usage", None)


class _Device(NamedTuple):
    key: bytes
    terse: bool
    """Of the second kind: text where the first has numbers and booleans."""
    fields: dict[str, Any]

    def report(self, draw: random.Random, number: int, now: float, kind: str) -> dict[str, Any]:
        if self.terse:
            at = datetime.fromtimestamp(now, UTC).replace(tzinfo=None).isoformat()
        else:
            at = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%dT%H:%M:%S.%f}{draw.randrange(1000):03}+00:00"
        return {"id": number, "datetime": at, "device": self.fields, "buffer": draw_uuid(draw), "event": kind}


def _draw_device(draw: random.Random, number: int) -> _Device:
    name, terse = draw_uuid(draw), number % 2 == 1
    drawn = [round(draw.uniform(-90, 90), 3), round(draw.uniform(-180, 180), 3)]
    location = list(draw.choice(_PLACES)) if terse else drawn
    path = f"/dev/sd{'abcdefghijkl'[number % 12]}"
    fields = {"id": name, "name": path, "vrs": "1.3.4", "location": location, "status": "active"}
    return _Device(name.encode(), terse, fields)


def _digits(draw: random.Random, count: int) -> str:
    return f"{draw.randrange(10**count):0{count}}"


def _name(draw: random.Random) -> str:
    return f"{draw.choice(_FIRST)} {draw.choice(_LAST)}"


@cache
def _person(name: str) -> str:
    """One person, one id."""
    return str(uuid.uuid3(uuid.NAMESPACE_OID, name))


def _access(draw: random.Random, device: _Device) -> dict[str, Any]:
    name = _name(draw)
    return {"name": name, "user_id": _person(name), "action": draw.choices(_ACTIONS, _ACTION_WEIGHTS)[0]}


def _bootup(draw: random.Random, device: _Device) -> dict[str, Any]:
    uptime, memory, cpu, disk = (draw.randrange(top) for top in (100_000, 30_000, 100, 100))
    return {"uptime": uptime, "memory": memory, "cpu": cpu, "disk": disk}


def _transaction(draw: random.Random, device: _Device) -> dict[str, Any]:
    name, good, rate = _name(draw), draw.random() < 0.8, draw.choice(_TAX_RATES)
    quantity, unit_price = draw.randrange(1, 20), draw.randrange(1, 25_000) / 100
    if draw.random() < 0.01:
        quantity = -quantity  # goods given back: a negative total
    net = round(quantity * unit_price, 2)
    tax = rate if device.terse else round(unit_price * rate, 2)
    reason = "card_accepted" if good else draw.choice(_DENIALS) if device.terse else "card_denied"
    return {
        "product_id": draw_uuid(draw),
        "customer_id": _person(name),
        "quantity": quantity,
        "unit_price": unit_price,
        "net_price": net,
        "tax": tax,
        "total_price": round(net * (1 + rate), 2) if device.terse else round(net + tax, 2),
        "cc": {
            "cc_number": _with_check_digit("4" + _digits(draw, 14)) if device.terse else _digits(draw, 16),
            "cc_exp": f"{draw.randrange(1, 13):02}/{draw.randrange(27, 37)}",
            "cc_cvv": _digits(draw, 3),
            "cc_name": name,
            "cc_zip": _digits(draw, 5),
        },
        "result": ("success" if good else "fail") if device.terse else good,
        "result_reason": reason,
    }


_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def _with_check_digit(digits: str) -> str:
    """The digits and the one that makes them pass Luhn's check, as real card numbers do."""
    total = sum(map(int, digits[-2::-2])) + sum(_DOUBLED[int(digit)] for digit in digits[::-2])
    return f"{digits}{-total % 10}"


def _odd(draw: random.Random, number: int, device: _Device, now: float, oddity: Oddity) -> Message:
    record = device.report(draw, number, now, "transaction")
    paid = record["transaction"] = _transaction(draw, device) | {"result": True, "total_price": 12.5}
    match oddity:
        case "no-transaction":
            del record["transaction"]
        case "no-card":
            del paid["cc"]
        case "card-number-is-a-number":
            paid["cc"]["cc_number"] = int("4" + paid["cc"]["cc_number"][1:])
        case "card-field-is-null":
            paid["cc"][draw.choice(list(paid["cc"]))] = None
        case "wrong-type":
            paid["quantity"] = "a dozen"
        case "unknown-field":
            record["firmware_channel"] = "beta"
        case _:
            return Message(number, device.key, _broken(draw, record, oddity), "transaction", oddity)
    return Message(number, device.key, orjson.dumps(record), "transaction", oddity)


def _broken(draw: random.Random, record: dict[str, Any], oddity: Oddity) -> bytes | None:
    """What cannot be written as an object with a JSON encoder."""
    value = orjson.dumps(record)
    match oddity:
        case "tombstone" | "null":
            return None if oddity == "tombstone" else b"null"
        case "array":
            return b"[" + value + b"]"
        case "not-json":
            return value[: draw.randrange(20, len(value) - 1)]
        case "not-utf-8":
            return value.replace(b'"transaction"', b'"trans\xff\xfeaction"', 1)
        case "nan":
            return value.replace(b'"total_price":12.5', b'"total_price":NaN')
        case "too-deep":
            return value.replace(b'"buffer":', b'"detail":' + b'{"deep":' * 200 + b"1" + b"}" * 200 + b',"buffer":')
    raise AssertionError(oddity)
