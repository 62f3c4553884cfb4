"""Which offset of a partition may be committed: never past its first unsettled record. Pure; one object a partition."""

from collections import deque


class Span:
    """The offsets `[start, end)` of one partition, begun and not yet settled."""

    __slots__ = ("end", "note", "settled", "start")

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.settled = False
        self.note = ""

    def __repr__(self) -> str:
        return f"Span({self.start}, {self.end}, settled={self.settled})"


class Watermark:
    """The first offset of a partition that is not settled, as spans begin in order and settle in any order.

    A span begins where the one before it ended, so offsets that hold no record (transaction markers, compacted records)
    belong to the span behind them and never block or jump the watermark.
    """

    def __init__(self, offset: int, note: str = "") -> None:
        """`offset`: where reading starts, which is what is committed. `note`: the commit metadata that stands there."""
        self.offset = offset
        self.note = note
        self._end = offset
        self._open: deque[Span] = deque()

    def begin(self, end: int) -> Span:
        """Take the offsets from the end of the last span up to `end` (exclusive) into work.

        Raises ValueError when `end` lies at or before that: the same records would be in work twice.
        """
        if end <= self._end:
            raise ValueError(f"a span must end behind {self._end}, this one ends at {end}")
        span = Span(self._end, end)
        self._open.append(span)
        self._end = end
        return span

    def settle(self, span: Span, note: str = "") -> None:
        """All that the span's records led to is acknowledged. `note` becomes the commit metadata once the watermark is there.

        Raises ValueError for a span that is settled already or was begun elsewhere.
        """
        if span.settled or not any(span is one for one in self._open):
            raise ValueError(f"{span!r} is not open here")
        span.settled = True
        span.note = note
        while self._open and self._open[0].settled:
            passed = self._open.popleft()
            self.offset = passed.end
            self.note = passed.note

    @property
    def unsettled(self) -> int:
        """How many spans are open."""
        return len(self._open)
