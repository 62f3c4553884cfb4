"""A set of `sluice-id`s that takes little memory, for those who look through a whole topic for what they have seen before."""

from array import array
from bisect import bisect_left
from collections import defaultdict

BLOCK = 1 << 16
"""Offsets that are kept together."""
FEW = BLOCK // 16
"""Up to so many of a block are a sorted list of two bytes each; of more, every offset of the block is one bit."""


class IdSet:
    """Origins of records: topic, partition and offset. At most two bytes for each, and some 300 for every 65,536 offsets that
    one of them is among."""

    def __init__(self) -> None:
        self._blocks: dict[tuple[str, int], dict[int, array[int] | bytearray]] = defaultdict(dict)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, origin: tuple[str, int, int]) -> bool:
        topic, partition, offset = origin
        block = self._blocks.get((topic, partition), {}).get(offset // BLOCK)
        if block is None:
            return False
        low = offset % BLOCK
        if isinstance(block, bytearray):
            return bool(block[low >> 3] >> (low & 7) & 1)
        at = bisect_left(block, low)
        return at < len(block) and block[at] == low

    def add(self, origin: tuple[str, int, int]) -> bool:
        """Take one in. False if it was in it before."""
        if origin in self:
            return False
        topic, partition, offset = origin
        blocks, number, low = self._blocks[topic, partition], offset // BLOCK, offset % BLOCK
        block = blocks.get(number)
        if block is None:
            block = blocks[number] = array("H")
        if not isinstance(block, bytearray):
            block.insert(bisect_left(block, low), low)
            if len(block) > FEW:
                blocks[number] = _as_bits(block)
        else:
            block[low >> 3] |= 1 << (low & 7)
        self._count += 1
        return True


def _as_bits(block: "array[int]") -> bytearray:
    bits = bytearray(BLOCK // 8)
    for low in block:
        bits[low >> 3] |= 1 << (low & 7)
    return bits
