"""`sluice send` refuses what the pipeline would, before anything is sent: no broker is needed to be told."""

import io
import json
from pathlib import Path
from typing import Any

import fastavro
import pytest
import yaml

from schemas.subjects import load as subject
from sluice import send
from sluice.config import Config, load
from sluice.exits import UserError
from stream.outbox import Outbox

ROOT = Path(__file__).resolve().parents[2]
CARD = {"cc_number": "4111111111111111", "cc_exp": "11/28", "cc_cvv": "123", "cc_zip": "90210", "cc_name": "Zoë Müller"}


@pytest.fixture
def workshop(tmp_path: Path) -> Config:
    """The example, whose keys a producer does not have."""
    settings = yaml.safe_load((ROOT / "examples/workshop.yaml").read_text())
    settings["kafka"] = {"brokers": ["localhost:1"], "max_message_bytes": 65536}
    settings["keys"]["path"] = str(tmp_path / "nowhere.yaml")
    file = tmp_path / "workshop.yaml"
    file.write_text(yaml.safe_dump(settings))
    return load(file)


def transaction(**fields: Any) -> dict[str, Any]:
    return {"device": {"id": "d"}, "transaction": {"total_price": 1.5, "result": True, "cc": CARD, **fields}}


def refused(config: Config, content: bytes) -> str:
    with pytest.raises(UserError) as caught:
        send.run(config, "events", io.BytesIO(content))
    said = str(caught.value)
    assert "4111" not in said
    return said


def lines(*records: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in records)


def test_card_fields_that_the_pipeline_encrypts_are_checked_without_keys(workshop: Config) -> None:
    card = {name: text for name, text in CARD.items() if name != "cc_cvv"}
    said = refused(
        workshop,
        lines(
            transaction(),
            transaction(cc=card),
            transaction(cc=card, total_price=-1),  # unmatched: it may be missing there
            transaction(cc=card | {"cc_cvv": None}, total_price=-1),
            transaction(cc=card | {"cc_cvv": 4111}),
        ),
    )
    assert said.startswith("3 of 5 records would be refused, so nothing was sent:")
    assert "record 2: card-field-missing at .transaction.cc.cc_cvv" in said
    assert "record 4: card-field-not-a-string at .transaction.cc.cc_cvv" in said
    assert "record 5: card-field-not-a-string at .transaction.cc.cc_cvv" in said


def test_a_record_that_fits_no_topic_with_its_key_and_what_is_added_is_too_large(workshop: Config) -> None:
    fits = Outbox(workshop.kafka, "t").fits
    long_key = lines({"device": {"id": "k" * 40_000}})
    assert fits(None, long_key, [])
    names = (lines({"device": {"id": "d", "name": "x" * length}}) for length in range(65_536, 0, -1))
    no_room_for_headers = next(line for line in names if fits(b"d", line, []))
    said = refused(workshop, lines(transaction()) + long_key + no_room_for_headers)
    assert said.startswith("2 of 3 records would be refused")
    assert "record 2: too-large" in said
    assert "record 3: too-large" in said


def test_a_container_is_checked_up_to_what_cannot_be_read(workshop: Config) -> None:
    out = io.BytesIO()
    rows = [{"id": 1}, {"transaction": {"total_price": 1.0, "result": True}}, {"detail": "[1]"}, {"id": 4}]
    fastavro.writer(out, subject("event").latest.parsed, rows)
    said = refused(workshop, out.getvalue())
    assert said.startswith("2 of 2 records would be refused")
    assert "record 2: card-field-missing at .transaction.cc" in said
    assert "record 3: wrong-type at .detail" in said


@pytest.mark.parametrize("on_missing", ["wait", "dead-letter"])
def test_which_ids_references_know_is_not_asked_of_a_producer(
    workshop: Config, tmp_path: Path, on_missing: str
) -> None:
    settings = workshop.model_dump(mode="json", by_alias=True, exclude_unset=True)
    settings["reference"] = {"endpoints": {"topic": "ref.endpoints"}}
    join = {"by": ".endpoint.id", "from": "endpoints", "into": ".endpoint", "on_missing": on_missing}
    settings["pipelines"]["events"]["enrich"] = [join]
    config = Config.model_validate(settings)
    said = refused(config, lines(transaction() | {"endpoint": {"id": 7}}, transaction(cc={}) | {"endpoint": {"id": 7}}))
    assert said.startswith("1 of 2 records would be refused")
    assert "record 2: card-field-missing" in said
