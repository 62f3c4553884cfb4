"""The simulated fleet keeps its word: same seed same messages, unique ids, the mix, both forms, and tagged oddities."""

import io
import itertools
import time
from collections import Counter
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice.devices import HARMLESS, MIX, Fleet, Message
from sluice.generate import to_stream

NOON = 1_790_000_000.5


def fleet(seed: int = 7, **options: Any) -> Fleet:
    given: dict[str, Any] = {"devices": 20, "clock": lambda: NOON} | options
    return Fleet(seed, **given)


def take(count: int, messages: Any) -> list[Message]:
    return list(itertools.islice(messages, count))


def records(messages: list[Message]) -> list[dict[str, Any]]:
    return [orjson.loads(message.value or b"") for message in messages if message.oddity is None]


@settings(max_examples=20)
@given(seed=st.integers(0, 2**40), devices=st.integers(1, 40), bad=st.sampled_from([0.0, 0.2, 1.0]))
def test_the_same_seed_gives_the_same_messages(seed: int, devices: int, bad: float) -> None:
    one, other = (Fleet(seed, devices, bad=bad, clock=lambda: NOON) for _ in range(2))
    assert take(40, one.events()) == take(40, other.events())
    take(3, other.events())  # what one iterator gave out changes nothing for another
    assert take(40, one.usage()) == take(40, other.usage())
    assert one.references() == other.references()


def test_another_seed_gives_other_messages() -> None:
    assert take(10, fleet(1).events()) != take(10, fleet(2).events())


def test_every_record_of_a_fleet_has_an_id_of_its_own() -> None:
    made = fleet(start_id=1000)
    messages = take(5000, made.events()) + take(5000, made.usage())
    ids = [record["id"] for record in records(messages)]
    assert ids == [message.id for message in messages]
    assert len(set(ids)) == 10_000
    assert min(ids) == 1000
    assert max(ids) < 1000 + 10_000


def test_the_mix_is_that_of_the_field() -> None:
    messages = take(20_000, fleet().events())
    counts, total = Counter(message.kind for message in messages), sum(MIX.values())
    for kind, weight in MIX.items():
        assert counts[kind] / 20_000 == pytest.approx(weight / total, abs=0.01)
    paid = [record["transaction"] for record in records(messages) if record.get("event") == "transaction"]
    assert sum(each["total_price"] < 0 for each in paid) / len(paid) == pytest.approx(0.01, abs=0.006)
    assert sum(each["result"] in (True, "success") for each in paid) / len(paid) == pytest.approx(0.8, abs=0.03)


def test_both_forms_of_devices_report_and_each_stays_in_its_own() -> None:
    messages = [message for message in take(5000, fleet().events()) if message.kind == "transaction"]
    forms: dict[str, set[str]] = {}
    for record in records(messages):
        paid, location = record["transaction"], record["device"]["location"]
        terse = isinstance(paid["result"], str)
        assert terse == isinstance(location[0], str)
        assert terse != record["datetime"].endswith("+00:00")
        assert paid["net_price"] == pytest.approx(paid["quantity"] * paid["unit_price"], abs=0.01)
        added = paid["net_price"] * paid["tax"] if terse else paid["tax"]
        assert paid["total_price"] == pytest.approx(paid["net_price"] + added, abs=0.011)
        assert {type(field) for field in paid["cc"].values()} == {str}
        forms.setdefault(record["device"]["id"], set()).add(str(terse))
    assert sorted(map(tuple, forms.values())) == [("False",)] * 10 + [("True",)] * 10


def test_keys_are_device_and_endpoint_ids() -> None:
    made = fleet()
    for message, record in zip(messages := take(3000, made.events()), records(messages), strict=True):
        if message.kind == "platform":
            assert message.key.decode() in made.references()["endpoints"]
        else:
            assert message.key.decode() == record["device"]["id"]
    for message in take(1000, made.usage()):
        assert message.key.decode() in made.references()["endpoints"]


def test_references_complete_what_records_name_by_id() -> None:
    made = fleet()
    tables = made.references()
    assert {name: len(rows) for name, rows in tables.items()} == {
        "endpoints": 20,
        "sims": 20,
        "imsis": 20,
        "operators": 6,
        "users": 1,
    }
    assert list(tables["endpoints"]["20200000"]) == ["id", "name", "imei", "ip_address", "tags"]
    seen: Counter[str] = Counter()
    for record in records(take(3000, made.events()) + take(3000, made.usage())):
        for field, table in (("endpoint", "endpoints"), ("sim", "sims"), ("operator", "operators"), ("user", "users")):
            named = record.get(field)
            if field in record and named is None:
                seen[f"{field} null"] += 1
            elif named is not None and str(named["id"]) not in tables[table]:
                seen[f"{field} unknown"] += 1
            elif named is not None:
                seen[f"{field} by id" if list(named) == ["id"] else f"{field} in full"] += 1
                if field == "sim" and len(named) > 1:
                    assert named == tables[table][str(named["id"])]
    for form in ("by id", "in full"):
        assert min(seen[f"{field} {form}"] for field in ("endpoint", "sim", "operator")) > 500
    assert seen["endpoint null"] > 50
    assert 0 < seen["endpoint unknown"] < 300


def test_oddities_come_at_their_share_and_are_what_their_tag_says() -> None:
    odd = [message for message in take(20_000, fleet(bad=0.02).events()) if message.oddity]
    assert len(odd) / 20_000 == pytest.approx(0.02, abs=0.004)
    assert len({message.oddity for message in odd}) == 13
    for message in odd:
        match message.oddity:
            case "tombstone":
                assert message.value is None
            case "not-json" | "not-utf-8" | "nan":
                with pytest.raises(orjson.JSONDecodeError):
                    orjson.loads(message.value or b"")
            case "null" | "array":
                assert not isinstance(orjson.loads(message.value or b""), dict)
            case _:
                record = orjson.loads(message.value or b"")
                assert record["id"] == message.id
                card = record.get("transaction", {}).get("cc", {})
                assert (message.oddity == "no-transaction") == ("transaction" not in record)
                assert (message.oddity == "card-number-is-a-number") == isinstance(card.get("cc_number"), int)
                assert (message.oddity == "card-field-is-null") == (None in card.values())
                assert (message.oddity == "unknown-field") == ("firmware_channel" in record)
                assert (message.oddity == "too-deep") == (b'{"deep":' * 100 in (message.value or b""))
                assert (message.oddity in HARMLESS) == (message.oddity in {"no-transaction", "unknown-field"})


def test_a_fleet_without_devices_or_with_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one device"):
        Fleet(1, devices=0)
    with pytest.raises(ValueError, match=r"\['acess'\]: its kinds are access"):
        Fleet(1, mix={"acess": 1.0})  # type: ignore[dict-item]  # the mistake that is tested


def test_a_stream_gets_one_line_for_each_message_whatever_it_is() -> None:
    out = io.BytesIO()
    messages = take(500, fleet(bad=0.5).events())
    assert to_stream(messages, out) == 500
    assert out.getvalue() == b"".join((message.value or b"") + b"\n" for message in messages)
    assert len(out.getvalue().split(b"\n")) == 501


def test_a_stream_is_written_at_the_rate_asked_for() -> None:
    start = time.monotonic()
    assert to_stream(take(50, fleet().events()), io.BytesIO(), rate=200) == 50
    assert time.monotonic() - start >= 49 / 200
