"""Promises: a wrong pipeline is refused before it runs, with every problem at its place and a remedy."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from pipeline.config import EncryptRule, PipelineConfig

CFB = {"key": "k", "algorithm": "AES-256-CFB"}


class Whole(BaseModel):
    pipelines: dict[str, PipelineConfig]


def problems(**changes: Any) -> dict[str, str]:
    """What is said about a pipeline, by place."""
    with pytest.raises(ValidationError) as caught:
        Whole.model_validate({"pipelines": {"p": {"from": "raw", "schema": "event", **changes}}})
    found = {}
    for error in caught.value.errors(include_url=False):
        assert error["loc"][:2] == ("pipelines", "p")
        place = ".".join(map(str, error["loc"][2:]))
        assert place not in found
        found[place] = str(error.get("ctx", {}).get("error", error["msg"]))
    return found


def test_the_design_s_example_is_taken() -> None:
    config = PipelineConfig.model_validate(
        {
            "from": "raw.events",
            "schema": "event",
            "enrich": [{"by": ".endpoint.id", "from": "endpoints", "into": ".endpoint"}],
            "drop": [".buffer"],
            "routes": {"success": [{"field": ".transaction.result", "op": "equal", "value": True}]},
            "encrypt": [
                {"field": ".transaction.cc.cc_number", "iv_field": ".transaction.cc.cc_number_iv", **CFB},
                {"field": ".transaction.cc.cc_exp", "key": "card-exp"},
            ],
        }
    )
    assert (config.source, config.subject) == ("raw.events", "event")
    assert config.route_names() == ("success", "unmatched")
    assert config.extra_fields() == [("transaction", "cc", "cc_number_iv")]
    assert (config.encrypt[1].algorithm, config.encrypt[1].encoding) == ("AES-256-GCM", "base64")
    assert PipelineConfig.model_validate({"from": "r", "schema": "usage"}).route_names() == ("success",)


def test_the_vendor_s_own_broken_example_gives_three_findings() -> None:
    found = problems(
        encrypt=[
            {"field": ".transaction.cc.cc_number", "iv_field": ".transaction.cc.iv1", **CFB},
            {"field": ".transaction.cc.cc_expiration", "iv_field": ".transaction.cc.iv2", **CFB},
            {"field": ".transaction.cc.cc_zip_code", "iv_field": ".transaction.cc.iv3", **CFB},
            {"field": ".transaction.cc.cc_number", "iv_field": ".transaction.cc.iv4", **CFB},
        ]
    )
    assert list(found) == ["encrypt.1.field", "encrypt.2.field", "encrypt.3.field"]
    assert "did you mean .transaction.cc.cc_exp?" in found["encrypt.1.field"]
    assert "did you mean .transaction.cc.cc_zip?" in found["encrypt.2.field"]
    assert "encrypted already" in found["encrypt.3.field"]


def test_wrong_forms_do_not_hide_what_does_not_fit_the_schema() -> None:
    found = problems(
        drop=[".nope", 3],
        routes={
            "dlq": [{"field": ".event", "op": "exists"}],
            "a b": [{"field": ".event", "op": "exists"}],
            "none": [],
            "odd": [{"field": ".evnet", "op": "exists", "bogus": 1}, {"field": ".event", "op": "equal"}],
        },
        encrypt=[{"field": ".transaction.cc.cc_no", **CFB}, "x"],
        enrich=[{"by": ".nope.id", "into": ".sim"}],
        unknown=1,
    )
    assert set(found) == {
        "drop.0", "drop.1", "routes.dlq", "routes.a b.[key]", "routes.none", "routes.odd.0.bogus", "routes.odd.0.field",
        "routes.odd.1", "encrypt.0.field", "encrypt.0.iv_field", "encrypt.1", "enrich.0.by", "enrich.0.from", "unknown",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "place", "said"),
    [
        ({"schema": "evnt"}, "schema", "Did you mean event?"),
        ({"routes": {"unmatched": [{"field": ".event", "op": "exists"}]}}, "routes.unmatched", "choose another"),
        (
            {"enrich": [{"by": ".endpoint.name", "from": "x", "into": ".endpoint.id"}]},
            "enrich.0.into",
            "name an object",
        ),
        (
            {"enrich": [{"by": ".endpoint", "from": "x", "into": ".endpoint"}]},
            "enrich.0.by",
            "name the field that holds an id",
        ),
        (
            {"encrypt": [{"field": ".transaction.total_price", "iv_field": ".transaction.total_iv", **CFB}]},
            "encrypt.0.field",
            "only text can be encrypted",
        ),
        (
            {"encrypt": [{"field": ".transaction.cc", "iv_field": ".transaction.cc_iv", **CFB}]},
            "encrypt.0.field",
            "an object",
        ),
        (
            {"encrypt": [{"field": ".transaction.cc", "key": "k"}, {"field": ".transaction.cc.cc_exp", "key": "k"}]},
            "encrypt.1.field",
            "one within the other",
        ),
        (
            {"encrypt": [{"field": ".event", "iv_field": ".event_iv", **CFB, "bind": [".id"]}]},
            "encrypt.0.bind",
            "bound to nothing",
        ),
        ({"encrypt": [{"field": ".event", "key": "k", "bind": [".event"]}]}, "encrypt.0.bind.0", "encrypted itself"),
        (
            {"encrypt": [{"field": ".event", "key": "k", "bind": [".detail"]}]},
            "encrypt.0.bind.0",
            "text or whole numbers",
        ),
        ({"encrypt": [{"field": ".event", "key": "k", "bind": [".nope"]}]}, "encrypt.0.bind.0", "names no field"),
        (
            {"encrypt": [{"field": ".event", "key": "k", "key_id_field": ".k"}]},
            "encrypt.0.key_id_field",
            "in the token",
        ),
        ({"encrypt": [{"field": ".event", "key": "k", "search_field": ".h"}]}, "encrypt.0.search_key", "go together"),
        (
            {"encrypt": [{"field": ".event", "key": "k", "search_field": ".h", "search_key": "k"}]},
            "encrypt.0.search_key",
            "a key of its own for hashes",
        ),
        (
            {"encrypt": [{"field": ".event", "key": "k", "required_on": ["sold"]}]},
            "encrypt.0.required_on",
            "is no route",
        ),
        ({"encrypt": [{"field": ".detail.card", "key": "k"}]}, "encrypt.0.field", "holds any value"),
        ({"encrypt": [{"field": ".event", "key": "dead-letters"}]}, "encrypt.0.key", "a key of its own"),
        ({"redact": [{"field": ".event", "with": "hash", "key": "dead-letters"}]}, "redact.0.key", "a key of its own"),
        ({"deduplicate": {"by": [".id", '["id"]']}}, "deduplicate.by.1", "twice"),
        ({"set": {".description": "paid with 4111 1111 1111 1111"}}, "set..description", "the number of a card"),
        (
            {"routes": {"all": [{"field": ".event", "op": "contains", "value": ""}]}},
            "routes.all.0.value",
            "true of every text",
        ),
        (
            {"routes": {"all": [{"field": ".event", "op": "matches", "value": ""}]}},
            "routes.all.0",
            "true of every text",
        ),
        ({"encrypt": [{"field": ".event", **CFB}]}, "encrypt.0.iv_field", "iv_field: .event_iv"),
        ({"encrypt": [{"field": ".event", "key": "k", "iv_field": ".iv"}]}, "encrypt.0.iv_field", "remove it"),
        ({"encrypt": [{"field": ".event", "key": "k", "encoding": "hex"}]}, "encrypt.0.encoding", "base64url"),
        ({"encrypt": [{"field": ".event", "iv_field": ".device.iv", **CFB}]}, "encrypt.0.iv_field", "beside the field"),
        ({"encrypt": [{"field": ".event", "iv_field": ".id", **CFB}]}, "encrypt.0.iv_field", "holds a number"),
        ({"encrypt": [{"field": ".event", "iv_field": ".event", **CFB}]}, "encrypt.0.iv_field", "encrypted already"),
        ({"encrypt": [{"field": ".event", "iv_field": "iv", **CFB}]}, "encrypt.0.iv_field", "no path"),
        ({"encrypt": [{"field": ".event", "iv_field": '[""]', **CFB}]}, "encrypt.0.iv_field", "is no name for a field"),
        (
            {"encrypt": [{"field": ".device.id", "key": "k"}], "drop": [".device"]},
            "encrypt.0.field",
            ".device is dropped before",
        ),
    ],
)
def test_each_problem_has_its_place_and_remedy(changes: Any, place: str, said: str) -> None:
    found = problems(**changes)
    assert list(found) == [place]
    assert said in found[place]


@pytest.mark.parametrize("taken", ["cc_zip", "cc_name"])
def test_a_vector_never_overwrites_what_a_customer_sent(taken: str) -> None:
    rule = {"field": ".transaction.cc.cc_number", "iv_field": f".transaction.cc.{taken}", **CFB}
    found = problems(encrypt=[rule])
    assert list(found) == ["encrypt.0.iv_field"]
    assert "would be overwritten" in found["encrypt.0.iv_field"]
    assert "for example .transaction.cc.cc_number_iv" in found["encrypt.0.iv_field"]


@pytest.mark.parametrize("free", ["cc_number_iv", "cc_zip_iv", "iv1"])
def test_a_vector_may_have_a_field_for_vectors_or_a_new_one(free: str) -> None:
    rule = {"field": ".transaction.cc.cc_number", "iv_field": f".transaction.cc.{free}", **CFB}
    config = PipelineConfig.model_validate({"from": "raw", "schema": "event", "encrypt": [rule]})
    assert config.encrypt[0].iv_field == f".transaction.cc.{free}"


def test_two_rules_never_share_a_vector_field() -> None:
    shared = {"iv_field": ".transaction.cc.iv", **CFB}
    rules = [{"field": f".transaction.cc.{name}", **shared} for name in ("cc_number", "cc_exp")]
    assert "of its own" in problems(encrypt=rules)["encrypt.1.iv_field"]


JOINS = [
    {"by": ".endpoint.id", "from": "endpoints", "into": ".endpoint"},
    {"by": ".sim.id", "from": "sims", "into": ".sim"},
]


@pytest.mark.parametrize("path", [".endpoint.name", ".endpoint.tags.a", ".sim", ".sim.iccid"])
def test_routes_depend_on_nothing_that_enrichment_may_change(path: str) -> None:
    condition = {"field": path, "op": "exists"}
    found = problems(enrich=JOINS, routes={"success": [{"not": condition}]})
    assert list(found) == ["routes.success.0.not.field"]
    assert "enrich" in found["routes.success.0.not.field"]


@pytest.mark.parametrize("path", [".endpoint.id", ".sim.id", ".imsi.imsi", ".event"])
def test_routes_may_depend_on_ids_that_are_looked_up(path: str) -> None:
    routes = {"success": [{"field": path, "op": "exists"}]}
    assert PipelineConfig.model_validate({"from": "r", "schema": "event", "enrich": JOINS, "routes": routes})


def test_a_rule_of_enrich_says_what_becomes_of_unknown_ids() -> None:
    join = JOINS[0]
    taken = [
        PipelineConfig.model_validate({"from": "r", "schema": "event", "enrich": [{**join, **more}]}).enrich[0]
        for more in ({}, {"on_missing": None}, {"on_missing": "wait"}, {"on_missing": "wait", "wait_seconds": 5})
    ]
    assert [(one.mode, one.on_missing, one.wait_seconds) for one in taken] == [
        ("fill", "null", 60),
        ("fill", "null", 60),
        ("fill", "wait", 60),
        ("fill", "wait", 5),
    ]
    found = problems(
        enrich=[
            {**join, "on_missing": "skip", "mode": "replace"},
            {**join, "wait_seconds": 5, "on_missing": "dead-letter"},
            {**join, "on_missing": "wait", "wait_seconds": 0},
            {**join, "on_missing": "wait", "wait_seconds": 86_400},
        ]
    )
    assert list(found) == [
        "enrich.0.mode",
        "enrich.0.on_missing",
        "enrich.1.wait_seconds",
        "enrich.2.wait_seconds",
        "enrich.3.wait_seconds",
    ]
    assert "on_missing: wait" in found["enrich.1.wait_seconds"]


def test_routes_cannot_look_at_what_is_dropped() -> None:
    found = problems(drop=[".device"], routes={"success": [{"field": ".device.name", "op": "exists"}]})
    assert list(found) == ["routes.success.0.field"]


def test_models_are_frozen_and_hold_no_surprises() -> None:
    rule = EncryptRule(field=".event", key="k")
    with pytest.raises(ValidationError):
        rule.key = "other"
    with pytest.raises(ValidationError):
        PipelineConfig.model_validate({"from": "r", "schema": "event", "kept": []})


@pytest.mark.parametrize(
    "changes",
    [
        {"routes": {"a": [{"field": ".device.location", "op": "contains", "value": ""}]}},
        {"routes": {"a": [{"field": ".detail.list", "op": "contains", "value": ""}]}},
        {"set": {".endpoint.imei": "4000000000000002"}},
        {"set": {".detail": {"imei": "4000000000000002"}}},
        {"set": {".event": "4000000000000002"}, "gate": "count"},
        {"set": {".event": "4000000000000002"}, "redact": [{"field": ".event", "with": "last4"}]},
        {"set": {".event": "4000000000000002"}, "encrypt": [{"field": ".event", "key": "k"}]},
        {"set": {".detail": {"a": 1.5}}},
    ],
)
def test_what_is_odd_and_right_is_taken(changes: Any) -> None:
    PipelineConfig.model_validate({"from": "raw", "schema": "event", **changes})


@pytest.mark.parametrize(
    ("labels", "requiring"),
    [
        ([], {"success"}),
        (["success", "fail"], {"success", "fail"}),
        (["bootup", "success"], {"success"}),
        (["approved", "declined"], {"approved", "declined"}),
    ],
)
def test_success_and_fail_require_what_is_encrypted_and_where_there_are_none_all_routes(
    labels: list[str], requiring: set[str]
) -> None:
    routes = {label: [{"field": ".id", "op": "equal", "value": n}] for n, label in enumerate(labels)}
    assert (
        PipelineConfig.model_validate({"from": "raw", "schema": "event", "routes": routes}).requiring_routes()
        == requiring
    )
