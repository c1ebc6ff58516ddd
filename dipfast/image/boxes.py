"""Boxes of ISO base media files: what JPEG 2000, JPEG XL, AVIF and HEIF keep their parts in."""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple


class Box(NamedTuple):
    """A box's name, where its body begins, and how long that is."""

    kind: bytes
    at: int
    length: int

    def body(self, file: BinaryIO, most: int = -1) -> bytes:
        """Its bytes, or the first ``most`` of them."""
        file.seek(self.at)
        return file.read(self.length if most < 0 else min(most, self.length))


def boxes(file: BinaryIO, within: Box | None = None) -> Iterator[Box]:
    """The boxes of a file, or of another box's body; only those that lie in it whole."""
    at, end = (0, file.seek(0, 2)) if within is None else (within.at, within.at + within.length)
    while at + 8 <= end:
        file.seek(at)
        head = file.read(16)
        length, start = int.from_bytes(head[:4], "big"), 8
        if length == 1 and len(head) == 16:
            length, start = int.from_bytes(head[8:], "big"), 16
        stop = end if length == 0 else at + length
        if stop > end or stop < at + start:
            return
        yield Box(head[4:8], at + start, stop - at - start)
        at = stop
