"""A set of ids is a set, and small."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from stream.id_set import FEW, IdSet

OFFSETS = st.integers(0, 2**40) | st.integers(0, 200_000) | st.integers(65_530, 65_540)


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 2), OFFSETS)))
def test_it_holds_what_a_set_holds(ids: list[tuple[str, int, int]]) -> None:
    ours, model = IdSet(), set[tuple[str, int, int]]()
    for one in ids:
        assert (one in ours) == (one in model)
        assert ours.add(one) == (one not in model)
        model.add(one)
        assert one in ours
    assert len(ours) == len(model)


def test_a_block_that_fills_up_keeps_what_was_in_it() -> None:
    ids = IdSet()
    offsets = [offset * 7 % 65_536 for offset in range(2 * FEW)]
    assert all(ids.add(("a", 0, offset)) for offset in offsets)
    assert not any(ids.add(("a", 0, offset)) for offset in offsets)
    assert sum(("a", 0, offset) in ids for offset in range(65_536)) == len(ids) == 2 * FEW
    assert ("a", 1, offsets[0]) not in ids
    assert ("a", 0, offsets[0] + 65_536) not in ids


def test_ids_take_few_bytes_each_whether_they_lie_dense_or_far_apart() -> None:
    for step, most in ((1, 0.1), (50, 0.8)):
        tracemalloc.start()
        ids = IdSet()
        for offset in range(0, 200_000 * step, step):
            ids.add(("raw.events", 3, offset))
        took = tracemalloc.get_traced_memory()[0] / 1e6
        tracemalloc.stop()
        assert len(ids) == 200_000
        assert took < most
