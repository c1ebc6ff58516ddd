"""Boxes of the ISO base media format, the containers of JPEG 2000, JPEG XL, AVIF and HEIF."""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple


class Box(NamedTuple):
    """A box of a file."""

    kind: bytes  # its name of four letters
    at: int  # place of its body in the file
    length: int  # of its body in bytes

    def body(self, file: BinaryIO, most: int = -1) -> bytes:
        """Read the body, or its first ``most`` bytes if ``most`` is not negative."""
        file.seek(self.at)
        return file.read(self.length if most < 0 else min(most, self.length))


def boxes(file: BinaryIO, within: Box | None = None) -> Iterator[Box]:
    """Yield the boxes of a file, or of the body of the box ``within``, up to the first that is cut off."""
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
    """Return the property boxes of the primary picture of an AVIF or HEIF in its order; none if the file is broken."""
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
    """Return a full box without the version and flags at the beginning of its body."""
    return Box(box.kind, box.at + 4, max(0, box.length - 4))


def _associated(body: bytes, item: int) -> list[int]:
    """Return the numbers, from 1, of the properties of an ``item`` by the ``body`` of an `ipma` box."""
    name, size = (4 if body[:1] > b"\0" else 2), (2 if body[3:4] > b"\0" and body[3] & 1 else 1)
    at = 8
    for _ in range(int.from_bytes(body[4:8], "big")):
        found = int.from_bytes(body[at : at + name], "big")
        count = body[at + name] if at + name < len(body) else 0
        at += name + 1
        if at >= len(body):
            break
        if found == item:
            most = 0x7FFF if size == 2 else 0x7F  # without the highest bit, which marks essential properties
            parts = (body[start : start + size] for start in range(at, at + count * size, size))
            return [int.from_bytes(part, "big") & most for part in parts]
        at += count * size
    return []
