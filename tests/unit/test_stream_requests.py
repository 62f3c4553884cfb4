"""Promise: a produce request put together in one go is to the byte what aiokafka makes of it level by level."""

from typing import Any, get_args

import pytest
from aiokafka.protocol.produce import ProduceRequest, ProduceRequestStruct
from aiokafka.protocol.struct import Struct
from hypothesis import given
from hypothesis import strategies as st

from stream.requests import _encoded, write_batches_once

VERSIONS = get_args(ProduceRequestStruct)
topics = st.lists(
    st.tuples(
        st.text(max_size=5), st.lists(st.tuples(st.integers(0, 99), st.one_of(st.none(), st.binary())), max_size=3)
    ),
    max_size=3,
)


@pytest.mark.parametrize("version", VERSIONS)
@given(given_topics=topics, acks=st.sampled_from([-1, 0, 1]), timeout=st.integers(0, 2**31 - 1))
def test_requests_of_every_version(version: Any, given_topics: Any, acks: int, timeout: int) -> None:
    made = ProduceRequest(None, acks, timeout, given_topics).build(version)
    assert _encoded(made) == Struct.encode(made)


def test_aiokafka_uses_it_and_it_takes_a_buffer() -> None:
    write_batches_once()
    write_batches_once()
    for version in VERSIONS:
        assert version.encode is _encoded
        made = ProduceRequest(None, -1, 1, [("t", [(0, bytearray(b"batch"))])]).build(version)
        assert type(made.encode()) is bytes
        assert made.encode() == Struct.encode(made)
