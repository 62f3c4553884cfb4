"""Promise: an object that stays as it is written is taken exactly when it would be taken parsed, and says the same."""

import json
import random
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.config import PipelineConfig
from pipeline.keys import Keys
from pipeline.paths import InvalidPath, resolve
from pipeline.pipeline import Pipeline, Processed
from pipeline.references import Tables
from schemas.codec import Codec
from schemas.refused import Refused
from schemas.subjects import load
from schemas.values import MAX_DEPTH
from tests.raw import Raw

NUMBERS = [
    "0", "-0", "7", "1.50", "-12.5", "123456789012345678", "9223372036854775807", "-9223372036854775808", "9223372036854775808",
    "1" * 19, "1" * 400, "-" + "9" * 20, "0." + "1" * 30, "1e5", "1E-7", "-2.5e-07", "12.5e-3", "4.111111111111111e15", "1e-300",
    "1e308", "1e309", "-1.5e400", "1e999999999999999999999", "1e-999999999999999999999", "41111111111111110e-1", "01", "1.", "1e",
    "-", "NaN", "Infinity",
]  # fmt: skip
TEXTS = [
    "", "a", "Zoë", "1e5", "12e999", "[{", "8988303000000000001", "x: 1234567890123456789", "quota", "V1, {a} b", "\0", "\n", '"',
    "\\", "\U0001f600", "€", "\u2028",
]  # fmt: skip
blanks = st.sampled_from(["", "", "", " ", "  ", "\n", "\t", "\r\n"])


@st.composite
def values(draw: st.DrawFn, levels: int = 3) -> str:
    """JSON as somebody might write it, with what is nearly JSON among it."""
    kind = draw(st.sampled_from(["number", "text", "word", *(["array", "object", "object"] if levels else [])]))
    if kind == "number":
        return draw(st.sampled_from(NUMBERS))
    if kind == "text":
        return text(draw)
    if kind == "word":
        return draw(st.sampled_from(["null", "true", "false", "nul"]))
    held = [draw(values(levels - 1)) for _ in range(draw(st.integers(0, 3)))]
    if kind == "object":
        held = [f"{text(draw)}{draw(blanks)}:{draw(blanks)}{one}" for one in held]
    inside = (draw(blanks) + "," + draw(blanks)).join(held)
    return f"[{draw(blanks)}{inside}{draw(blanks)}]" if kind == "array" else f"{{{draw(blanks)}{inside}{draw(blanks)}}}"


def text(draw: st.DrawFn) -> str:
    chosen = draw(st.sampled_from(TEXTS) | st.text(max_size=4))
    return json.dumps(chosen, ensure_ascii=draw(st.booleans()))


def parsed(line: bytes) -> Any:
    return json.loads(line, parse_float=Decimal, parse_int=int)


def outcome(codec: Codec, value: bytes) -> Any:
    try:
        return parsed(codec.encode(codec.decode(value)))
    except Refused as why:
        return why.reason, why.path


WRITTEN, PLAIN = Codec(load("event"), unread=["detail"]), Codec(load("event"))


def both(lines: Sequence[bytes]) -> None:
    """Assert that both codecs make the same of these, each and together: that which leaves objects as they are, and that which
    parses."""
    written, plain = WRITTEN, PLAIN
    written.drift.clear()
    plain.drift.clear()
    assert [outcome(written, line) for line in lines] == [outcome(plain, line) for line in lines]
    (some, refused), (others, also) = written.decode_batch(lines), plain.decode_batch(lines)
    assert [parsed(written.encode(one)) for one in some] == [parsed(plain.encode(one)) for one in others]
    assert [(at, str(why)) for at, why in refused] == [(at, str(why)) for at, why in also]
    assert written.drift == plain.drift
    assert written.encode_lines(some).count(b"\n") == len(some)


@given(st.lists(values(), max_size=6))
@example(['{"quota":{"autoRefill":1,"volume":"1.5"}}', '{"quota":"much"}', "{}"])
@example(["[9223372036854775807]", "{\n}"])
@example(['{"a":1,"a":2}', "null", '{"detail":{"quota":[]}}'])
@example(['{"a":' * (MAX_DEPTH - 2) + "{}" + "}" * (MAX_DEPTH - 2), "[]"])
@example(['{"a":' * (MAX_DEPTH - 1) + "{}" + "}" * (MAX_DEPTH - 1), "{}"])
@example(['{"a":' * 5000 + "1" + "}" * 5000, "{}"])
@example(['{"a":[' + "[]," * 200 + "0]}", "{}"])
def test_both_take_the_same_and_make_the_same_of_it(details: list[str]) -> None:
    both([b'{"id":%d,"detail":%s}' % (at, one.encode("utf-8", "surrogatepass")) for at, one in enumerate(details)])


@given(values(), st.integers(0, 200), st.binary(max_size=2))
def test_both_take_the_same_of_what_is_broken(detail: str, at: int, damage: bytes) -> None:
    whole = detail.encode("utf-8", "surrogatepass")
    both([b'{"id":1,"detail":%s}' % (whole[: at % (len(whole) + 1)] + damage + whole[at % (len(whole) + 1) + 1 :])])


def process(*details: str, **settings: Any) -> Processed:
    config = PipelineConfig.model_validate({"from": "raw", "schema": "event", **settings})
    made = Pipeline("p", config, Keys.none(), Tables())
    return made.process([Raw(b'{"id":1,"detail":%s}' % one.encode()) for one in details])


ODD = '{"b":1.50,"a":{"Zoë 12.e":[-0]},"a":{}}'


def test_no_path_leads_to_what_stays_as_it_is_written() -> None:
    with pytest.raises(InvalidPath):
        resolve(".detail.b", Codec(load("event"), unread=["detail"]).type)


def test_what_is_not_kept_is_not_there() -> None:
    assert process(ODD, keep=[".id"]).values == [b'{"id":1}']


def test_what_no_rule_looks_into_goes_out_in_the_very_bytes_it_came_in() -> None:
    assert process(ODD, "null").values == [b'{"id":1,"detail":%s}' % one for one in (ODD.encode(), b"null")]


@pytest.mark.parametrize(
    "settings",
    [
        {"drop": [".detail.c"]},
        {"drop": ['["detail"].a.b']},
        {"keep": [".id", ".detail.b", ".detail.a"]},
        {"match": "all", "routes": {"success": [{"any": [{"not": {"field": ".detail.c", "op": "exists"}}]}]}},
        {"sample": {"one_in": 2, "always": [{"field": '["detail"].b', "op": "exists"}]}},
    ],
)
def test_what_a_rule_looks_into_is_parsed(settings: dict[str, Any]) -> None:
    assert process(ODD, **settings).values == [b'{"id":1,"detail":{"b":1.50,"a":{}}}']


@pytest.mark.parametrize(
    "detail", ['{"a":"\\u0034111111111111111"}', '{"a":41111111111111110e-1}', '{"a":\n4111111111111111}']
)
def test_no_card_number_hides_in_how_it_is_written(detail: str) -> None:
    done = process("{}", detail)
    assert [(at, str(why)) for at, why in done.dead] == [(1, "card-number-in-clear at .detail")]


@pytest.mark.parametrize("field", ['"imei":"%s"', '"imei": "%s"', '"device_imei"  :  %s '])
def test_other_kinds_of_numbers_are_known_with_blanks_too(field: str) -> None:
    assert not process("{%s}" % (field % "378282246310005")).dead
    assert process("{%s}" % (field.replace("imei", "number") % "378282246310005")).dead


def test_an_id_is_known_as_a_value_of_its_own_with_blanks_too() -> None:
    config = PipelineConfig.model_validate({"from": "raw", "schema": "event"})
    made = Pipeline("p", config, Keys.none(), Tables())
    card = 4111111111111111
    assert not made.process([Raw(b'{"id":%d,"detail":{"event"  : %d }}' % (card, card))]).dead
    assert made.process([Raw(b'{"id":1,"detail":{"event"  : %d }}' % card)]).dead


def test_a_card_number_under_a_key_that_stands_twice_is_found_and_named() -> None:
    done = process('{"a":"4111 1111 1111 1111","a":"x"}')
    assert [(at, str(why)) for at, why in done.dead] == [(0, "card-number-in-clear at .detail")]


@pytest.mark.parametrize(
    "written", ['{"a": 1, "b": [1.50, null]}', '{ "a":1,"b":[1.50,null] }', '{\n "a":1,\r\n\t"b":[1.50,null]}']
)
def test_blanks_between_values_do_not_go_out(written: str) -> None:
    assert process(written, '{"c":"d e"}').values == [
        b'{"id":1,"detail":{"a":1,"b":[1.50,null]}}',
        b'{"id":1,"detail":{"c":"d e"}}',
    ]


def test_of_many_only_those_are_parsed_that_have_to_be() -> None:
    draw = random.Random(1)
    details = [f'{{"n":{draw.randrange(9 * 10**18)},"u":"{draw.getrandbits(128):032x} {at}"}}' for at in range(3000)]
    special = {
        100: '{"n":\t1}', 200: '{"quota":{"autoRefill":true}}', 201: '{"n":9223372036854775807}', 700: '{"n":1e5}',
        1500: '{"n":1 }', 2999: '{"x":"\\u00e9"}',
    }  # fmt: skip
    given_details = [special.get(at, one) for at, one in enumerate(details)]
    codec = Codec(load("event"), unread=["detail"])
    batch, refused = codec.decode_batch([b'{"detail":%s}' % one.encode() for one in given_details])
    assert not refused
    assert [at for at, record in enumerate(batch) if type(record.detail) is dict] == sorted(special)
    assert codec.encode(batch[200]) == b'{"detail":{"quota":{"auto_refill":true}}}'
