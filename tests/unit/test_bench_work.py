"""The benchmark's work by hand is real work: it decrypts, in both forms, and nothing stays in clear."""

import base64
import copy
import itertools
from typing import Any

import orjson
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from hypothesis import given
from hypothesis import strategies as st

from sluice.bench.work import FIELDS, IV_FIELDS, KEY, encrypt_batch, transform_batch, transform_one
from sluice.devices import Fleet


def _decrypted(card: dict[str, str]) -> dict[str, str]:
    clear = {}
    for field, iv_field in zip(FIELDS, IV_FIELDS, strict=True):
        iv = base64.b64decode(card[iv_field], validate=True)
        decryptor = Cipher(algorithms.AES(KEY), CFB(iv)).decryptor()
        clear[field] = decryptor.update(base64.b64decode(card[field], validate=True)).decode()
    return clear


texts = st.text(st.characters(codec="utf-8"), max_size=70)


@given(st.lists(st.fixed_dictionaries(dict.fromkeys(FIELDS, texts)), min_size=1, max_size=8))
def test_batched_encryption_is_plain_cfb_for_every_length(cards: list[dict[str, Any]]) -> None:
    encrypted = copy.deepcopy(cards)
    encrypt_batch(encrypted)
    assert [_decrypted(card) for card in encrypted] == cards
    ivs = [card[iv_field] for card in encrypted for iv_field in IV_FIELDS]
    assert len(set(ivs)) == 5 * len(cards)


def test_both_ways_agree_on_everything_but_the_ivs() -> None:
    values = [message.value or b"" for message in itertools.islice(Fleet(1).events(), 3000)]
    one_by_one, batched = [transform_one(value) for value in values], transform_batch(values)
    seen = set()
    for (route, record), (other_route, other), value in zip(one_by_one, batched, values, strict=True):
        assert route == other_route
        seen.add(route)
        assert "buffer" not in record
        if "transaction" in record:
            clear = orjson.loads(value)["transaction"]["cc"]
            assert _decrypted(record["transaction"].pop("cc")) == clear
            assert _decrypted(other["transaction"].pop("cc")) == clear
        assert record == other
    assert seen == {0, 1, 2}
