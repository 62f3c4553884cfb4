"""The committed offset never passes the first unsettled record, whatever the order of settlement and the gaps in the log."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from stream.offsets import Span, Watermark


class WatermarkAgainstModel(RuleBasedStateMachine):
    """The model keeps every offset of the log by itself, with what became of it."""

    @initialize(start=st.integers(0, 1000))
    def begin_at(self, start: int) -> None:
        self.start = start
        self.watermark = Watermark(start, "first")
        self.end = start
        self.settled: set[int] = set()
        self.open: list[Span] = []
        self.notes = {start: "first"}

    @rule(records=st.integers(1, 5), gap=st.integers(0, 4))
    def begin(self, records: int, gap: int) -> None:
        """A span of some records, perhaps behind offsets that hold none: markers of transactions, compacted records."""
        before, self.end = self.end, self.end + gap + records
        span = self.watermark.begin(self.end)
        assert (span.start, span.end) == (before, self.end)
        self.open.append(span)

    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        if self.open:
            span = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
            self.watermark.settle(span, f"note-{span.end}")
            self.settled.update(range(span.start, span.end))
            self.notes[span.end] = f"note-{span.end}"

    @rule(back=st.integers(0, 3))
    def records_are_never_in_work_twice(self, back: int) -> None:
        with pytest.raises(ValueError, match="behind"):
            self.watermark.begin(self.end - back)

    @invariant()
    def everything_before_the_watermark_is_settled_and_nothing_more_could_be_committed(self) -> None:
        first_unsettled = next((o for o in range(self.start, self.end) if o not in self.settled), self.end)
        assert self.watermark.offset == first_unsettled
        assert self.watermark.note == self.notes[first_unsettled]
        assert self.watermark.unsettled == sum(span.end > first_unsettled for span in self.open) + sum(
            1 for end in self.notes if end > first_unsettled and end != self.start
        )


TestWatermark = WatermarkAgainstModel.TestCase


def test_a_span_settles_once() -> None:
    watermark = Watermark(0)
    first, _ = watermark.begin(5), watermark.begin(7)
    watermark.settle(first)
    with pytest.raises(ValueError, match="not open"):
        watermark.settle(first)


def test_a_span_of_another_partition_does_not_settle_here() -> None:
    watermark = Watermark(0)
    watermark.begin(5)
    with pytest.raises(ValueError, match="not open"):
        watermark.settle(Span(0, 5))
    assert watermark.offset == 0
