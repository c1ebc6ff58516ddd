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


def primary_properties(file: BinaryIO) -> list[Box]:
    """The properties of an AVIF's or HEIF's primary picture, in its own order; none where its boxes are broken."""
    inside = {box.kind: box for outer in boxes(file) if outer.kind == b"meta" for box in boxes(file, _full(outer))}
    shared = {box.kind: box for box in boxes(file, inside[b"iprp"])} if b"iprp" in inside else {}
    if b"pitm" not in inside or not {b"ipco", b"ipma"} <= shared.keys():
        return []
    body = inside[b"pitm"].body(file, 8)
    primary = int.from_bytes(body[4:8] if body[:1] > b"\0" else body[4:6], "big")
    every = list(boxes(file, shared[b"ipco"]))
    indices = _associated(shared[b"ipma"].body(file), primary)
    return [every[index - 1] for index in indices if 0 < index <= len(every)]


def _full(box: Box) -> Box:
    """A box whose body begins with a version and flags, without them."""
    return Box(box.kind, box.at + 4, max(0, box.length - 4))


def _associated(body: bytes, item: int) -> list[int]:
    """The numbers of an item's properties in an `ipma` box, from 1."""
    name, size = (4 if body[:1] > b"\0" else 2), (2 if body[3:4] > b"\0" and body[3] & 1 else 1)
    at = 8
    for _ in range(int.from_bytes(body[4:8], "big")):
        found = int.from_bytes(body[at : at + name], "big")
        count = body[at + name] if at + name < len(body) else 0
        at += name + 1
        if at >= len(body):
            break
        if found == item:
            most = 0x7FFF if size == 2 else 0x7F  # the highest bit says that a reader must know the property
            parts = (body[start : start + size] for start in range(at, at + count * size, size))
            return [int.from_bytes(part, "big") & most for part in parts]
        at += count * size
    return []
