"""The promise of the schemas themselves: every version only grows from the one before, and headers are what was promised."""

import io
import json
from decimal import Decimal
from pathlib import Path

import fastavro
import pytest

from schemas.codec import Codec
from schemas.compatibility import check
from schemas.fields import fields_of
from schemas.projection import csv_header
from schemas.subjects import Subject, id_of, load, names, schema_by_id

USAGE_HEADER = (
    b'"id","event_start_timestamp","event_stop_timestamp","organisation_id","organisation_name","endpoint_id","sim_id","iccid",'
    b'"imsi","operator_id","operator_name","country_id","operator_country_name","traffic_type_id","traffic_type_description",'
    b'"volume","volume_tx","volume_rx","cost","currency_id","currency_code","currency_symbol","ratezone_tariff_id",'
    b'"ratezone_tariff_name","ratezone_id","ratezone_name","endpoint_name","endpoint_ip_address","endpoint_tags",'
    b'"endpoint_imei","msisdn_msisdn","sim_production_date","operator_mncs","country_mcc"\n'
)
EVENT_BASE = (
    "id,timestamp,alert,description,event_type_id,event_type_description,event_severity_id,event_severity_description,"
    "organisation_id,organisation_name"
)
EVENT_UPGRADE = (
    "endpoint_id,endpoint_name,endpoint_imei,endpoint_ip_address,endpoint_tags,event_source_id,event_source_name,sim_id,"
    "sim_iccid,msisdn_msisdn,sim_production_date,imsi_id,imsi_imsi,user_id,user_username,user_name"
)
EVENT_DEVICES = (
    "datetime,device_id,device_name,device_vrs,device_location,device_status,buffer,event,transaction_product_id,"
    "transaction_customer_id,transaction_quantity,transaction_unit_price,transaction_net_price,transaction_tax,"
    "transaction_total_price,transaction_cc_cc_number,transaction_cc_cc_exp,transaction_cc_cc_cvv,transaction_cc_cc_zip,"
    "transaction_cc_cc_name,transaction_cc_cc_number_iv,transaction_cc_cc_exp_iv,transaction_cc_cc_cvv_iv,"
    "transaction_cc_cc_zip_iv,transaction_cc_cc_name_iv,transaction_result,transaction_result_reason,access_name,"
    "access_user_id,access_action,bootup_uptime,bootup_memory,bootup_cpu,bootup_disk,imsi_import_date,detail"
)
CARD = ("cc_number", "cc_exp", "cc_cvv", "cc_zip", "cc_name")

EXAMPLES = [
    (name, version, path) for name in names() for version, paths in load(name).examples.items() for path in paths
]


def test_the_usage_header_is_the_documented_one_byte_for_byte() -> None:
    assert csv_header(load("usage")) == USAGE_HEADER


def test_the_event_header_is_the_base_then_the_upgrade_then_what_devices_report() -> None:
    columns = ",".join((EVENT_BASE, EVENT_UPGRADE, EVENT_DEVICES)).split(",")
    assert csv_header(load("event")).decode() == ",".join(f'"{name}"' for name in columns) + "\n"


@pytest.mark.parametrize("name", names())
def test_each_version_only_grows_from_every_older_one(name: str) -> None:
    versions = load(name).versions
    assert [version.number for version in versions] == list(range(1, len(versions) + 1))
    for newer in range(1, len(versions)):
        for older in range(newer):
            assert check(versions[older].schema, versions[newer].schema) == []


@pytest.mark.parametrize("name", names())
def test_each_field_is_optional_documented_and_each_column_leads_to_a_field(name: str) -> None:
    subject = load(name)
    paths = set()
    for version in subject.versions:
        for top in fields_of(version.schema):
            for field in top.walk():
                assert field.doc, field.text_path
                paths.add(field.text_path)
    assert {column.path for column in subject.columns} <= paths
    assert len({column.name for column in subject.columns}) == len(subject.columns)


def test_every_version_has_one_schema_id_for_ever() -> None:
    expected = ["event/v1", "event/v2", "event/v3", "event/v4", "usage/v1", "usage/v2", "usage/v3"]
    expected += ["endpoint/v1", "sim/v1", "imsi/v1", "operator/v1"]
    assert [str(schema_by_id(number)) for number in range(1, len(expected) + 1)] == expected
    for name in names():
        assert [schema_by_id(id_of(version)) for version in load(name).versions] == list(load(name).versions)


def test_card_fields_and_persons_are_marked_sensitive_and_other_numbers_as_what_they_are() -> None:
    fields = {field.text_path: field for top in load("event").fields for field in top.walk()}
    assert {path for path, field in fields.items() if field.sensitive} == {
        *(f".transaction.cc.{name}" for name in CARD),
        ".user.username",
        ".user.name",
        ".access.name",
    }
    kinds = {
        ".endpoint.imei": "imei",
        ".sim.iccid": "iccid",
        ".sim.msisdn": "msisdn",
        ".imsi.imsi": "imsi",
        ".id": "id",
    }
    assert {path: fields[path].number_kind for path in kinds} == kinds
    assert [field.name for field in fields[".transaction.cc"].fields] == [*CARD, *(f"{name}_iv" for name in CARD)]


@pytest.mark.parametrize(("name", "version", "path"), EXAMPLES, ids=lambda value: getattr(value, "stem", value))
def test_examples_are_taken_and_only_those_named_drift_need_normalising(name: str, version: str, path: Path) -> None:
    codec = Codec(load(name))
    text = path.read_bytes()
    record = codec.decode(text)
    if path.stem.startswith("drift-"):
        assert codec.drift, "an example of drift shows none"
    else:
        assert codec.decode_fast(text) == record
        assert not codec.drift
        assert json.loads(codec.encode(record), parse_float=Decimal) == json.loads(text, parse_float=Decimal)
    assert codec.decode_fast(codec.encode(record)) == record, "what is written is within the contract"


def test_every_version_has_an_example() -> None:
    for name in names():
        assert set(load(name).examples) == {f"v{version.number}" for version in load(name).versions}


@pytest.mark.parametrize(("name", "version", "path"), EXAMPLES, ids=lambda value: getattr(value, "stem", value))
def test_avro_of_any_version_is_read_as_the_same_record_in_json(name: str, version: str, path: Path) -> None:
    subject = load(name)
    codec = Codec(subject)
    record = json.loads(codec.encode(codec.decode(path.read_bytes())), parse_float=Decimal)
    for writer in subject.versions[int(version[1:]) - 1 :]:
        framed = b"\0" + id_of(writer).to_bytes(4, "big") + _avro(writer.schema, record)
        read = json.loads(codec.encode(codec.decode(framed)), parse_float=Decimal)
        assert read == _without_nulls(record)


@pytest.mark.parametrize(("name", "version", "path"), EXAMPLES, ids=lambda value: getattr(value, "stem", value))
def test_every_reader_reads_every_writer(name: str, version: str, path: Path) -> None:
    subject: Subject = load(name)
    codec = Codec(subject)
    record = json.loads(codec.encode(codec.decode(path.read_bytes())), parse_float=Decimal)
    for writer in subject.versions:
        body = _avro(writer.schema, record)
        for reader in subject.versions:
            read = fastavro.schemaless_reader(io.BytesIO(body), writer.parsed, reader.parsed)
            assert list(read) == [field["name"] for field in reader.schema["fields"]]
            for field in set(read) & {field["name"] for field in writer.schema["fields"]}:
                assert (read[field] is None) == (record.get(field) is None)


def _avro(schema: object, record: dict[str, object]) -> bytes:
    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(schema, {}), _for_avro(fields_of(schema), record))  # type: ignore[arg-type]
    return body.getvalue()


def _for_avro(fields: object, record: dict[str, object]) -> dict[str, object]:
    """What a producer does: open fields become JSON text, prices become doubles."""
    made: dict[str, object] = {}
    for field in fields:  # type: ignore[attr-defined]
        value = record.get(field.name)
        if value is None:
            continue
        if field.kind == "record":
            value = _for_avro(field.fields, value)  # type: ignore[arg-type]
        elif field.kind in ("json", "object"):
            value = json.dumps(value, default=float)
        elif field.kind in ("double", "array"):
            value = [_double(item) for item in value] if isinstance(value, list) else _double(value)
        elif field.kind == "decimal":
            value = Decimal(str(value))
        made[field.name] = value
    return made


def _double(value: object) -> object:
    return float(value) if isinstance(value, Decimal) else value


def _without_nulls(value: object) -> object:
    if isinstance(value, dict):
        return {
            key: _without_nulls(item) if key != "detail" else item for key, item in value.items() if item is not None
        }
    return value
