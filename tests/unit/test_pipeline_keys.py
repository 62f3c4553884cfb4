"""Promises: keys that are not right are refused, none is lost by a reload, and no message, repr or pickle shows material."""

import base64
import copy
import io
import json
import logging
import pickle
from collections.abc import Callable
from typing import Any

import orjson
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.traceback import Traceback

from pipeline.ciphers import BatchedCfb
from pipeline.dead_letters import Sealer
from pipeline.keys import SIZES, Key, Keys, KeysError, Material, UnknownKey, key_bytes, parse_keys
from pipeline.tokens import BatchedTokens, SearchTokens

SECRET = "6B58703273357638792F423F4528482C"
BASE64 = base64.b64encode(SECRET.encode()).decode()
OTHER = "3t6w9z$C&F)J@NcRfUjXn2r5u8x/A?D("
SHOWN = (SECRET, BASE64.rstrip("="), SECRET.encode().hex())
"""All the ways in which the key might be seen."""
SAMPLE = "6B58703273357638792F423F4528482B"


def version(text: str = SECRET, id_: str = "1", state: str = "active") -> dict[str, str]:
    return {"id": id_, "state": state, "text": text}


def test_versions_by_state_and_id() -> None:
    made = base64.b64encode(bytes(range(32))).decode()
    keys = parse_keys(
        {
            "card-number": [
                version(id_="2025-03", state="decrypt-only"),
                {"id": "2026-11", "state": "active", "base64": made},
            ],
            "dead-letters": [version(OTHER)],
        }
    )
    assert keys.active("card-number").material == bytes(range(32))
    assert keys.find("card-number", "2025-03").material == SECRET.encode()
    assert keys.names == ["card-number", "dead-letters"]
    assert "card-number" in keys
    assert "card-exp" not in keys
    with pytest.raises(UnknownKey, match=r"2024-01.*put it back into the key file"):
        keys.find("card-number", "2024-01")
    with pytest.raises(UnknownKey, match="sluice keys new"):
        keys.active("card-exp")


@pytest.mark.parametrize("size", SIZES)
def test_the_lengths_of_aes_are_keys_and_text_is_taken_as_it_is(size: int) -> None:
    key = parse_keys({"k": [version(OTHER[:size])]}).active("k")
    assert (len(key.material), key.material) == (size, OTHER[:size].encode())


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({}, "holds no keys"),
        ([], "holds no keys"),
        (None, "holds no keys"),
        ({"k": []}, "k: must be a list"),
        ({"k": SECRET}, "k: must be a list"),
        ({SECRET + "!": []}, "a key's name cannot be used"),
        ({"k": [SECRET]}, r"k\[0\]: must be a mapping"),
        ({"k": [version(SECRET + "x")]}, "k.*holds 33 bytes.*openssl rand -base64 32"),
        ({"k": [version(SECRET[:-1] + "é")]}, "holds 33 bytes"),
        ({"k": [version(SECRET[:17])]}, "holds 17 bytes; it needs 16, 24 or 32"),
        ({"k": [version("\ud800" * 16)]}, "is not text"),
        ({"k": [{"id": "1", "state": "active", "base64": BASE64[:-4]}]}, r"k\[0\].base64: holds 30 bytes"),
        ({"k": [{"id": "1", "state": "active", "base64": SECRET + "!==="}]}, "is not base64"),
        ({"k": [{"id": "1", "state": "active", "base64": BASE64, "text": SECRET}]}, "either base64 or text"),
        ({"k": [{"id": "1", "state": "active", "text": int(SECRET, 16)}]}, "either base64 or text"),
        ({"k": [{"id": 1, "state": "active", "text": SECRET}]}, r"k\[0\].id: must be text in quotes"),
        ({"k": [version(id_="a:b")]}, r"k\[0\].id"),
        ({"k": [version(state="retired")]}, "active or decrypt-only"),
        ({"k": [version(state="decrypt-only")]}, "0 versions are active"),
        ({"k": [version(id_=i) for i in "12"]}, "2 versions are active"),
        ({"k": [version(state=s) for s in ("active", "decrypt-only")]}, "stands twice"),
        ({"k": [{**version(), SECRET: 1}]}, "not known"),
        ({"k": [version(SAMPLE)]}, "sample key of the workshop.*openssl rand -base64 32"),
        ({"k": [version(SAMPLE.lower())]}, "sample key"),
        (
            {"k": [{"id": "1", "state": "active", "base64": base64.b64encode(bytes.fromhex(SAMPLE)).decode()}]},
            "sample key of the workshop.*openssl rand -base64 16",
        ),
        ({"k": [version("xxxxxxxxxxxxxxxx")]}, "all its bytes are equal"),
        ({"k": [{"id": "1", "state": "active", "base64": base64.b64encode(bytes(24)).decode()}]}, "are equal"),
        ({"one": [version()], "two": [version(id_="2")]}, "two/2: is the same key as one/1.*sluice keys new FILE two"),
        (
            {"one": [version()], "two": [{"id": "2", "state": "active", "base64": BASE64}]},
            "two/2: is the same key as one/1",
        ),
    ],
)
def test_what_is_wrong_is_named_without_the_material(data: Any, expected: str) -> None:
    with pytest.raises(KeysError, match=expected) as caught:
        parse_keys(data)
    for shown in (*SHOWN, BASE64[:-4], SAMPLE):
        assert shown not in str(caught.value)


@pytest.mark.parametrize(
    ("weak", "said"), [(SAMPLE, "is the sample key of the workshop"), ("x" * 32, "all its bytes are equal")]
)
def test_what_a_weak_key_once_encrypted_stays_readable_and_is_warned_about(weak: str, said: str) -> None:
    old = version(weak, id_="old", state="decrypt-only")
    keys = parse_keys({"k": [version(), old], "another": [version(OTHER), old]})
    assert keys.find("k", "old").material == keys.find("another", "old").material == weak.encode()
    told = zip(("k", "another"), keys.warnings, strict=True)
    assert all(warning.startswith(f"{name}/old: {said}") for name, warning in told)
    assert weak not in str(keys.warnings)


def test_all_problems_at_once() -> None:
    with pytest.raises(KeysError) as caught:
        parse_keys({"a": [], "b": [{"id": "1", "state": "x", "text": "short"}]})
    assert len(caught.value.problems) == 3


def test_a_key_may_be_renamed_by_giving_its_old_id_too() -> None:
    keys = parse_keys({"k": [version(id_="2026"), version(id_="1", state="decrypt-only")]})
    assert keys.find("k", "1").material == keys.active("k").material


YAML_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.sampled_from([SECRET, BASE64, "active", "1"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "state", "base64", "text", "k", "dead-letters"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(YAML_LIKE)
def test_any_content_is_keys_or_a_list_of_problems(data: Any) -> None:
    problems: list[str] = []
    try:
        keys = parse_keys(data)
    except KeysError as error:
        problems = error.problems
        keys = Keys.none()
    assert bool(problems) != bool(keys.names)
    assert not any(shown in str(problems) for shown in SHOWN)
    assert all(keys.active(name).active for name in keys.names)


# Lengths


@pytest.mark.parametrize(
    ("algorithm", "size"),
    [
        ("AES-128-CFB", 16), ("AES-192-OFB", 24), ("AES-256-GCM", 32), ("AES-256-GCM-SIV", 32),
        ("AES-GCM", None), ("HMAC-SHA256", None),
    ],
)  # fmt: skip
def test_an_algorithm_says_how_long_its_key_is(algorithm: str, size: int | None) -> None:
    assert key_bytes(algorithm) == size


def test_a_key_of_another_length_than_its_algorithm_needs_is_refused_and_both_are_named() -> None:
    keys = Keys([Key("card", "7", bytes(range(16)))])
    assert keys.demand("card", "AES-128-CFB") is keys.active("card")
    assert keys.demand("card", "HMAC-SHA256") is keys.active("card")
    with pytest.raises(KeysError) as caught:
        keys.demand("card", "AES-256-GCM")
    said = str(caught.value)
    assert "card/7 has 16 bytes, which is AES-128, and AES-256-GCM needs 32" in said
    assert "--bytes 32" in said
    with pytest.raises(UnknownKey):
        keys.demand("other", "AES-256-GCM")


def test_what_has_to_be_the_same_tomorrow_takes_no_data_key() -> None:
    def unwrap(name: str, id_: str) -> Key:
        raise AssertionError

    keys = Keys([Key("card", "wrapped", bytes(range(32)))], unwrap)
    keys.demand("card", "AES-256-GCM")
    with pytest.raises(KeysError, match="replaced every day, and HMAC-SHA256"):
        keys.demand("card", "HMAC-SHA256")


# Reload


def test_new_content_takes_the_place_of_the_old_under_another_version() -> None:
    keys = parse_keys({"card": [version()]})
    keys.demand("card", "AES-256-GCM")
    before = keys.version
    keys.replace(
        parse_keys({"card": [version(OTHER, "2"), version(state="decrypt-only")], "more": [version(OTHER[::-1])]})
    )
    assert keys.version != before
    assert (keys.active("card").id, keys.find("card", "1").active) == ("2", False)
    assert "more" in keys


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"other": [version(OTHER)]}, "card: is in use, and not there any more; put it back"),
        ({"card": [version(OTHER[:16], "2")]}, "card/2 has 16 bytes.*AES-256-GCM needs 32"),
    ],
)
def test_content_that_does_not_do_what_is_in_demand_changes_nothing(data: Any, expected: str) -> None:
    keys = parse_keys({"card": [version()], "exp": [version(OTHER[::-1])]})
    keys.demand("card", "AES-256-GCM")
    with pytest.raises(KeysError, match=expected):
        keys.replace(parse_keys(data))
    assert (keys.version, keys.names, keys.active("card").id) == (0, ["card", "exp"], "1")


def test_uses_are_counted_by_version_and_taken_once() -> None:
    keys = parse_keys({"card": [version()]})
    first = keys.active("card")
    keys.used(first, 3)
    keys.replace(parse_keys({"card": [version(OTHER, "2")]}))
    keys.used(first, 4)  # of a batch that was under way
    keys.used(keys.active("card"), 5)
    assert keys.take_uses() == {("card", "1"): 7, ("card", "2"): 5}
    assert keys.take_uses() == {}


# Nothing shows material


def holders() -> list[Any]:
    key = Key("card", "1", SECRET.encode())
    keys = Keys([key, Key("dead-letters", "1", OTHER.encode())])
    return [
        key.material,
        key,
        keys,
        Sealer(keys),
        BatchedTokens("AES-256-GCM", key, b"bound"),
        SearchTokens(key),
        BatchedCfb(key),
    ]


@pytest.mark.parametrize("show", [repr, str, format, "{!r:>5}".format, "%s".__mod__, "%r".__mod__, ascii, vars])
def test_no_text_of_what_holds_a_key_shows_it(show: Callable[[Any], Any]) -> None:
    for holder in holders():
        if show is vars and not hasattr(holder, "__dict__"):
            continue
        assert not any(shown in str(show(holder)) for shown in SHOWN), type(holder)


@pytest.mark.parametrize(
    "copier",
    [copy.copy, copy.deepcopy, *(lambda one, p=p: pickle.dumps(one, p) for p in range(pickle.HIGHEST_PROTOCOL + 1))],
)
def test_a_key_is_neither_copied_nor_pickled(copier: Callable[[Any], Any]) -> None:
    material, key, keys, *_ = holders()
    for one in (material, key, [key], {"key": material}):
        if copier is copy.copy and isinstance(one, list | dict):
            continue
        with pytest.raises(TypeError, match="stays in this process"):
            copier(one)
    if copier is not copy.copy:
        with pytest.raises(TypeError, match="stays in this process"):
            copier(keys)


@pytest.mark.parametrize("dump", [json.dumps, orjson.dumps, yaml.safe_dump])
def test_no_dump_takes_a_key(dump: Callable[[Any], Any]) -> None:
    material, key, keys, *_ = holders()
    for one in (material, key, keys):
        with pytest.raises((TypeError, yaml.YAMLError)):
            dump({"key": one})


def test_material_is_bytes_to_ciphers_and_to_nobody_else() -> None:
    material = Material(SECRET.encode())
    assert material == SECRET.encode()
    assert bytes(material) == SECRET.encode()
    assert repr(material) == "<32 bytes of a key>"


def test_a_log_line_does_not_show_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        for holder in holders():
            logging.getLogger("sluice").debug("%s %r", holder, [holder])
    assert caplog.records
    assert not any(shown in caplog.text for shown in SHOWN)


def test_a_traceback_with_variables_does_not_show_it() -> None:
    """As rich prints it: with the local variables of every frame, and what they hold."""

    def fails(key: Key, material: Material, keys: Keys, holders: list[Any]) -> None:
        raise RuntimeError(f"{len(holders)} {key} {material}")

    material, key, keys, *_ = everything = holders()
    printed = []
    for fail in (
        lambda: fails(key, material, keys, everything),
        lambda: keys.demand("card", "AES-128-GCM"),
        lambda: keys.replace([Key("card", "2", SECRET[:16].encode())]),
        lambda: parse_keys(yaml.safe_load(f"card: [{{id: 1, state: active, text: '{SECRET}'}}]")),
        lambda: parse_keys(yaml.safe_load(f"card: [{{id: '1', state: active, base64: '{BASE64}x'}}]")),
    ):
        keys.demand("card", "AES-256-GCM")
        with pytest.raises((KeysError, RuntimeError)) as caught:
            fail()
        out = io.StringIO()
        shown = Traceback.from_exception(
            caught.type, caught.value, caught.tb.tb_next, show_locals=True, locals_max_string=None, locals_max_length=None,
            extra_lines=0,
        )  # fmt: skip
        Console(file=out, width=200, no_color=True).print(shown)
        printed.append(out.getvalue())
    assert "locals" in printed[0]
    assert "<32 bytes of a key>" in printed[0]
    for text in printed:
        lines = [line for line in text.splitlines() if "lambda: " not in line]  # the source of this test
        assert not any(shown in "".join(lines) for shown in SHOWN), text
