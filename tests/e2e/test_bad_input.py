"""Input that nobody should send stops neither a worker nor its neighbours; each is in one place at the end, with a reason."""

import json
from collections.abc import Callable
from pathlib import Path

import yaml
from aiokafka import TopicPartition

from sluice.config import load
from sluice.key_file import new_keys_file
from sluice.wiring import topic_specs
from stream.topics import Topics
from tests.e2e.processes import children, produce, read, until_committed

CARD = {
    "cc_number": "4111111111111111",
    "cc_exp": "12/29",
    "cc_cvv": "987",
    "cc_zip": "90210",
    "cc_name": "Ada Lovelace",
}


def transaction(number: int, **changes: object) -> bytes:
    body = {"product_id": "p", "quantity": 1, "total_price": 12.5, "cc": CARD, "result": True}
    body.update(changes)
    return json.dumps({"id": number, "event": "transaction", "buffer": "b", "transaction": body}).encode()


def without_card(number: int, **changes: object) -> bytes:
    return json.dumps(
        {"id": number, "event": "transaction", "transaction": {"total_price": 1, "result": True} | changes}
    ).encode()


DEAD = "dlq"
INPUTS: list[tuple[str, bytes | None, str, str]] = [
    ("a good one first", transaction(1), "success", ""),
    ("not JSON", b"hello", DEAD, "not-json"),
    ("empty", b"", DEAD, "not-json"),
    ("a tombstone", None, DEAD, "null-value"),
    ("JSON null", b"null", DEAD, "not-an-object"),
    ("an array", b"[1, 2]", DEAD, "not-an-object"),
    ("10 MB of text", b"x" * 10_000_000, DEAD, "not-json"),
    ("10 MB in one field", transaction(2, result_reason="x" * 10_000_000), "success", ""),
    ("invalid UTF-8", b'{"id": 3, "event": "\xff\xfe"}', DEAD, "not-json"),
    ("NaN", b'{"id": 4, "transaction": {"total_price": NaN}}', DEAD, "not-json"),
    ("100 levels", b'{"detail":' + b'{"a":' * 100 + b"1" + b"}" * 101, DEAD, "too-deep"),
    ("unknown schema id", b"\0\0\x0f\xff\xff" + b"body", DEAD, "unknown-schema-id"),
    ("a wrong type", b'{"id": "five"}', DEAD, "wrong-type"),
    ("no transaction", b'{"id": 6, "event": "bootup"}', "unmatched", ""),
    ("no card on success", without_card(7), DEAD, "card-field-missing"),
    ("no card, unmatched", without_card(8, total_price=-1), "unmatched", ""),
    ("a card number that is a number", transaction(9, cc=CARD | {"cc_number": 4111111111111111}), DEAD, ""),
    ("a card field that is null", transaction(10, cc=CARD | {"cc_cvv": None}), DEAD, "card-field-not-a-string"),
    ("a card on unmatched", transaction(11, total_price=-1), "unmatched", ""),
    ("a null card on unmatched", transaction(12, total_price=-1, cc=CARD | {"cc_cvv": None}), DEAD, ""),
    ("denied", transaction(13, result=False), "fail", ""),
    ("denied in words", transaction(14, result="fail"), "fail", ""),
    ("accepted in words", transaction(15, result="success"), "success", ""),
    ("an unknown field beside the card", transaction(16, cc=CARD | {"cc_number2": "4111111111111111"}), "success", ""),
    ("a good one last", transaction(99), "success", ""),
]


async def test_each_bad_record_is_in_one_place_with_a_reason_and_its_neighbours_are_unharmed(
    kafka: str, topic_name: Callable[[str], str], tmp_path: Path
) -> None:
    name, raw = topic_name("events"), topic_name("raw")
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(configuration(kafka, name, raw)))
    new_keys_file(tmp_path / "keys.yaml", [field.replace("_", "-") for field in CARD] + ["dead-letters"])
    config = load(file)
    async with Topics(config.kafka) as topics:
        assert all(one.state == "created" for one in await topics.create(topic_specs(config)))
    await produce(kafka, raw, {0: [value for _, value, _, _ in INPUTS]}, max_request_size=12_000_000)
    async with children(tmp_path) as start:
        worker = await start("worker", "-m", "sluice.cli", "worker", str(file), name)
        await until_committed(kafka, f"sluice.{name}", {TopicPartition(raw, 0): len(INPUTS)})
        assert await worker.stop() == 0
        log = worker.output
    found: dict[int, list[tuple[str, str]]] = {}
    everything = [log.encode()]
    for route in ("success", "fail", "unmatched", DEAD):
        for records in (await read(kafka, f"{name}.{route}")).values():
            for record in records:
                headers = dict(record.headers)  # type: ignore[attr-defined]  # records of aiokafka
                offset = int(headers["sluice-id"].rpartition(b"/")[2])
                found.setdefault(offset, []).append((route, headers.get("sluice-reason", b"").decode()))
                everything.append(repr(headers).encode() + (record.value or b""))  # type: ignore[attr-defined]
    for offset, (what, _, place, reason) in enumerate(INPUTS):
        assert [route for route, _ in found.get(offset, [])] == [place], what
        assert found[offset][0][1] == reason or (place == DEAD and not reason), (what, found[offset])
    for value in CARD.values():
        if len(value) > 3:  # three digits stand in many a number
            assert not any(value.encode() in one for one in everything), "a card field in clear"


def configuration(kafka: str, name: str, raw: str) -> dict[str, object]:
    at_least_0 = {"field": ".transaction.total_price", "op": "greater_or_equal", "value": 0}
    return {
        "kafka": {"brokers": [kafka], "partitions": 1, "replication": 1, "session_seconds": 6},
        "keys": {"provider": "file", "path": "keys.yaml"},
        "metrics": {"listen": "127.0.0.1:0"},
        "pipelines": {
            name: {
                "from": raw,
                "schema": "event",
                "drop": [".buffer"],
                "routes": {
                    "success": [{"field": ".transaction.result", "op": "equal", "value": True}, at_least_0],
                    "fail": [{"field": ".transaction.result", "op": "equal", "value": False}, at_least_0],
                },
                "encrypt": [
                    {
                        "field": f".transaction.cc.{field}",
                        "key": field.replace("_", "-"),
                        "algorithm": "AES-256-CFB",
                        "iv_field": f".transaction.cc.{field}_iv",
                    }
                    for field in CARD
                ],
            }
        },
    }
