"""What the platform that devices are connected by reports of them: events (locations, data sessions, quotas, users), and usage.

Field names, ids and texts are those of public examples; numbers and addresses are made up.
"""

import random
from datetime import UTC, datetime
from typing import Any, NamedTuple

_GERMANY = {"id": 74, "name": "Germany", "mcc": "262"}
_FRANCE = {"id": 70, "name": "France", "mcc": "208"}
_BRAZIL = {"id": 32, "name": "Brazil", "mcc": "724"}
OPERATORS: tuple[dict[str, Any], ...] = (
    {"id": 3, "name": "Vodafone", "country": _GERMANY, "mnc": "02"},
    {"id": 4, "name": "EPlus", "country": _GERMANY, "mnc": "03"},
    {"id": 5, "name": "Telefonica O2", "country": _GERMANY, "mnc": "07"},
    {"id": 11, "name": "Orange", "country": _FRANCE, "mnc": "01"},
    {"id": 12, "name": "SFR", "country": _FRANCE, "mnc": "10"},
    {"id": 21, "name": "TIM", "country": _BRAZIL, "mnc": "02"},
)
_MORE_OF_COUNTRY = {
    74: {"country_code": "49", "iso_code": "de"},
    70: {"country_code": "33", "iso_code": "fr"},
    32: {"country_code": "55", "iso_code": "br"},
}
_ORGANISATIONS = (
    {"id": 1825, "name": "Test Org"},
    {"id": 4732, "name": "Zweite GmbH"},
    {"id": 12345, "name": "Example, Inc."},
)
USER = {"id": 913, "name": "Zoë Müller", "username": "zoe@example.com"}
_SOURCES = (
    {"id": 0, "description": "Network"},
    {"id": 1, "description": "Policy Control"},
    {"id": 2, "description": "API"},
)
_INFO, _WARN = {"id": 0, "description": "Info"}, {"id": 1, "description": "Warn"}
_EURO = {"id": 1, "code": "EUR", "symbol": "€"}
_TARIFF = {"id": 1, "name": "Internal Test Data Plan", "ratezone": {"id": 2, "name": "Area 2"}}
_DATA, _SMS = {"id": 5, "description": "Data"}, {"id": 6, "description": "SMS"}

# id, description, source, severity, weight, and which of subject (endpoint, SIM, IMSI), user and detail it has
_TYPES: tuple[tuple[int, str, int, dict[str, Any], float, str], ...] = (
    (1, "Update location", 0, _INFO, 4.0, "subject operator"),
    (2, "Update GPRS location", 0, _INFO, 4.0, "subject operator"),
    (3, "Create PDP Context", 0, _INFO, 5.0, "subject session"),
    (5, "Delete PDP Context", 0, _INFO, 5.0, "subject session volume"),
    (6, "User authentication failed", 2, _WARN, 0.3, "user"),
    (8, "SIM activation", 2, _INFO, 0.5, "subject user transition"),
    (9, "SIM suspension", 2, _INFO, 0.3, "subject user transition"),
    (11, "Endpoint blocked", 1, _WARN, 0.4, "subject"),
    (12, "Organisation blocked", 1, _WARN, 0.1, ""),
    (15, "Purge location", 0, _INFO, 1.0, "subject"),
    (18, "Quota threshold reached", 1, _WARN, 0.5, "subject quota"),
    (42, "Endpoint enabled", 2, _INFO, 0.3, "subject user"),
)
_WEIGHTS = [row[4] for row in _TYPES]


class Thing(NamedTuple):
    """An endpoint with its SIM and IMSI, and whose it is. The three are as the reference topics hold them."""

    key: bytes
    endpoint: dict[str, Any]
    sim: dict[str, Any]
    imsi: dict[str, Any]
    organisation: dict[str, Any]

    def ids_only(self) -> dict[str, Any]:
        """What a record that waits for its references says of the thing."""
        return {name: {"id": each["id"]} for name, each in self._parts()}

    def in_full(self) -> dict[str, Any]:
        """What a complete record says of the thing."""
        return dict(self._parts())

    def _parts(self) -> tuple[tuple[str, dict[str, Any]], ...]:
        return ("endpoint", self.endpoint), ("sim", self.sim), ("imsi", self.imsi)


def draw_uuid(draw: random.Random) -> str:
    """A version 4 UUID as text."""
    digits = f"{draw.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


def draw_thing(draw: random.Random, number: int) -> Thing:
    """The thing with this number (from 0): ids follow from it, the rest is drawn."""
    made = f"{2019 + draw.randrange(6)}-{draw.randrange(1, 13):02}-{draw.randrange(1, 29):02}T13:02:11.000Z"
    endpoint = {
        "id": 20_200_000 + number,
        "name": f"Meter {number:04}",
        "imei": f"35{draw.randrange(10**13):013}",
        "ip_address": f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}",
        "tags": draw.choice((None, "meter", "V1, field test")),
    }
    sim = {
        "id": 646_000 + number,
        "iccid": f"8988303{draw.randrange(10**12):012}",
        "msisdn": f"4236639{draw.randrange(10**8):08}",
        "production_date": made,
    }
    imsi = {"id": 12_105_000 + number, "imsi": f"29505{draw.randrange(10**10):010}", "import_date": made}
    organisation = _ORGANISATIONS[number % len(_ORGANISATIONS)]
    return Thing(str(endpoint["id"]).encode(), endpoint, sim, imsi, organisation)


def event(draw: random.Random, number: int, thing: Thing, now: float) -> tuple[bytes, dict[str, Any]]:
    """One event at `now` (unix seconds): the key for its topic, and the record."""
    (chosen,) = draw.choices(_TYPES, _WEIGHTS)
    code, name, source, severity, _, has = chosen
    record: dict[str, Any] = {
        "timestamp": _zulu(now),
        "alert": severity is _WARN,
        "description": f"{name}.",
        "id": number,
        "event_type": {"id": code, "description": name},
        "event_source": _SOURCES[source],
        "event_severity": severity,
        "organisation": thing.organisation,
    }
    if code == 12:  # as such events looked until 2021
        at = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M:%S}"
        record |= {"timestamp": at, "alert": 1, "event_source": {"id": 1, "name": "Policy Control"}}
        record |= {"event_severity": {"id": 1, "description": "WARN"}, "user": None, "detail": None}
        return thing.key, record | {"endpoint": None, "sim": None, "imsi": None}
    record |= _subject(draw, thing) if "subject" in has else {"endpoint": None, "sim": None, "imsi": None}
    if "user" in has:
        record["user"] = USER if draw.random() < 0.5 else {"id": USER["id"]}
    if detail := _detail(draw, has, thing, now):
        record["detail"] = detail
    return thing.key, record


def usage(draw: random.Random, number: int, thing: Thing, now: float) -> dict[str, Any]:
    """One usage record that ends at `now` (unix seconds): of data in nine of ten, or of one SMS."""
    data = draw.random() < 0.9
    received, sent = (draw.randrange(100_000, 3_000_000) / 1e6, draw.randrange(1, 900_000) / 1e6) if data else (0, 1)
    total = round(received + sent, 6)
    operator = draw.choice(OPERATORS)
    subject = _subject(draw, thing)
    record = {
        "cost": round(total * 0.00857, 8) if data else 0.05,
        "id": number,
        "operator": {"id": operator["id"]} if draw.random() < 0.3 else operator,
        "organisation": thing.organisation,
        "tariff": _TARIFF,
        "traffic_type": _DATA if data else _SMS,
        "endpoint": subject["endpoint"] and subject["endpoint"] | {"balance": None},
        "imsi": thing.imsi["imsi"],
        "volume": {"total": total, "rx": received, "tx": sent},
        "start_timestamp": _zulu(now - draw.randrange(1, 900)),
        "sim": subject["sim"],
        "currency": _EURO,
        "end_timestamp": _zulu(now),
        "imsi_id": thing.imsi["id"],
    }
    if draw.random() < 0.9:  # records of before 2024 have none
        record["session_id"] = draw_uuid(draw)
    return record


def _zulu(now: float) -> str:
    return f"{datetime.fromtimestamp(now, UTC):%Y-%m-%dT%H:%M:%S}.{int(now * 1000) % 1000:03}Z"


def _subject(draw: random.Random, thing: Thing) -> dict[str, Any]:
    """The thing as a record names it: in full, by its ids, or (rarely) not, or by an id that nobody knows."""
    form = draw.random()
    if form < 0.5:
        return thing.in_full()
    if form < 0.95:
        return thing.ids_only()
    if form < 0.98:
        return {"endpoint": None, "sim": None, "imsi": None}
    return {name: {"id": each["id"] + 5_000_000} for name, each in thing.ids_only().items()}


def _detail(draw: random.Random, has: str, thing: Thing, now: float) -> dict[str, Any]:
    detail: dict[str, Any] = {}
    if "operator" in has or "session" in has:
        operator = draw.choice(OPERATORS)
        country = operator["country"] | _MORE_OF_COUNTRY[operator["country"]["id"]]
        detail |= {"country": country, "id": operator["id"], "name": operator["name"]}
    if "operator" in has:
        detail |= {"mnc": [operator["mnc"]], "tapcode": []}
    if "session" in has:
        detail |= {"session_id": draw_uuid(draw), "pdp_context": _session(draw, operator, thing, now)}
    if "volume" in has:
        received, sent = draw.randrange(10**6) / 1e6, draw.randrange(10**6) / 1e6
        detail["volume"] = {"total": round(received + sent, 6), "rx": received, "tx": sent}
    if "transition" in has:
        states = [{"id": 0, "description": "Issued"}, {"id": 1, "description": "Activated"}]
        detail["transition"] = {"sim": {"status": {"from": states[0], "to": states[1]}}}
    if "quota" in has:
        volume = draw.choice((12, 12.5, "12.500000"))
        detail["quota"] = {"threshold_percentage": 80, "threshold_volume": 10, "volume": volume, "autoRefill": 0}
    return detail


def _session(draw: random.Random, operator: dict[str, Any], thing: Thing, now: float) -> dict[str, Any]:
    return {
        "breakout_ip": "192.0.2.29",
        "rac": None,
        "sgsn_control_plane_ip_address": "198.51.100.30",
        "rat_type": draw.choice((1, 2, 5, 6, 8, 9)),
        "tx_teid_data_plane": draw.randrange(1 << 32),
        "region": "eu-west-1",
        "apn": "em",
        "tunnel_created": f"{datetime.fromtimestamp(now, UTC):%Y-%m-%dT%H:%M:%S}",
        "ci": draw.randrange(10_000),
        "imsi": thing.imsi["imsi"],
        "lac": draw.randrange(10_000),
        "mcc": operator["country"]["mcc"],
        "mnc": operator["mnc"],
        "nsapi": 5,
        "ue_ip_address": thing.endpoint["ip_address"],
        "imeisv": thing.endpoint["imei"] + "1",
        "pdp_context_id": draw.randrange(10**8),
        "gtp_version": 1,
        "operator_id": str(operator["id"]),
        "tariff_id": "555",
    }
