"""EXIF blocks as bytes: read and reset the orientation, and move the block out of and into a TIFF.

An EXIF block is a small TIFF whose offsets count from its own start. It is edited in place, or whole entries are moved,
because encoding it anew, as Pillow does, loses maker notes and warns of unknown entries. No EXIF is taken from a
BigTIFF, and offsets inside a maker note that is taken out of a TIFF are not corrected.
"""

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

PREFIX = b"Exif\0\0"
# Bytes of a value, by the number of its data type.
_KIND_SIZE = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_ORIENTATION, _STRIP_OFFSETS, _DESCRIPTION = 0x0112, 0x0111, 0x010E
_THUMBNAIL_OFFSET, _THUMBNAIL_BYTES = 0x0201, 0x0202
EXIF, INTEROPERABILITY = 0x8769, 0xA005  # the tags that point to these directories, which name them here
_POINTERS = (EXIF, 0x8825, INTEROPERABILITY)  # the second is GPS
_COLOUR_SPACE, _INDEX, _ADOBE_RGB = 0xA001, 0x0001, 2
# Tags of the first directory that describe the picture, not the layout of its samples: description, make, model,
# software, date, artist, host, copyright and rating, the Exif and GPS directories, and Windows' XP* strings.
_DESCRIPTIVE = {270, 271, 272, 305, 306, 315, 316, 33432, 18246, 18249, 34665, 34853, *range(40091, 40096)}
_LAYOUTS = (b'{"shape"', b"ImageJ", b"<?xml")  # beginnings of descriptions that tell a program about pages and channels


class Entry(NamedTuple):
    """An entry of a directory."""

    tag: int
    kind: int  # number of the data type
    number: int  # of values
    value: bytes
    at: int = 0  # place of the value in the block


def byte_order(block: bytes | bytearray) -> str:
    """Return `struct`'s sign of the byte order, '<' or '>'; raise ValueError if this is no classic TIFF structure."""
    orders = {b"II*\0": "<", b"MM\0*": ">"}
    try:
        return orders[bytes(block[:4])]
    except KeyError:
        raise ValueError("no TIFF header") from None


def orientation(block: bytes | None) -> int:
    """Return the orientation, 1 to 8, and 1 if the block has none or is broken."""
    if block is None:
        return 1
    data = block.removeprefix(PREFIX)
    try:
        entry = {e.tag: e for e in _first(data)[0]}[_ORIENTATION]
        value = _number(data, entry)
    except (ValueError, KeyError, struct.error):
        return 1
    return value if 1 <= value <= 8 else 1


def entries(block: bytes | bytearray) -> dict[tuple[int, int], Entry]:
    """Return the entries of three directories by directory and tag: the first one (0), `EXIF` and `INTEROPERABILITY`.

    Raises ValueError or struct.error for a broken block.
    """
    order = byte_order(block)
    found = {(0, entry.tag): entry for entry in _first(block)[0]}
    for above, pointer in ((0, EXIF), (EXIF, INTEROPERABILITY)):
        if (above, pointer) in found:
            below, _ = _entries(block, order, _number(block, found[above, pointer]))
            found |= {(pointer, entry.tag): entry for entry in below}
    return found


def is_adobe_rgb(block: bytes | None) -> bool:
    """Return whether a camera declares Adobe RGB, which it does by the index R03 in place of a profile."""
    data = (block or b"").removeprefix(PREFIX)
    try:
        found = entries(data)
        space = found.get((EXIF, _COLOUR_SPACE))
        index = found.get((INTEROPERABILITY, _INDEX))
        named = space is not None and _number(data, space) == _ADOBE_RGB
    except (ValueError, struct.error):
        return False
    return named or (index is not None and index.value[:3] == b"R03")


def upright(block: bytes | None) -> bytes | None:
    """Return the block without its `Exif` prefix, with orientation 1, and without its thumbnail, which is outdated.

    The result is None if the block is no TIFF structure.
    """
    data = bytearray((block or b"").removeprefix(PREFIX))
    try:
        order = byte_order(data)
        entries, next_at = _first(data)
        for entry in entries:
            if entry.tag == _ORIENTATION:
                struct.pack_into(order + ("I" if entry.kind == 4 else "H"), data, entry.at, 1)
        _erase_thumbnail(data, order, next_at)
        _first(data)  # in a broken block the directory itself may have been overwritten
    except (ValueError, struct.error):
        return None
    return bytes(data)


def turned(samples: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn and mirror stored samples [H, W, S] by an EXIF orientation of 1 to 8, so that they are upright."""
    if orientation >= 5:
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return samples


def take(tiff: bytes, at: int | None = None) -> bytes | None:
    """Return the descriptive part of a TIFF's directory as an EXIF block; None if it is empty or broken.

    ``at`` is the place of the directory; None for the first one.
    """
    try:
        order = byte_order(tiff)
        found, _ = _first(tiff) if at is None else _entries(tiff, order, at)
        entries = [e for e in found if _is_carried(e)]
        if not entries:
            return None
        body, first = _packed(tiff, order, entries, at=8)
    except (ValueError, struct.error):
        return None
    return tiff[:4] + struct.pack(order + "I", first) + body


def graft(tiff: bytes, block: bytes) -> bytes:
    """Return a TIFF of one page with the EXIF block in it.

    The block comes first and unchanged, so that all offsets in it, also those inside maker notes, stay right; then
    comes the TIFF, and after it a new directory. Raises ValueError if the byte orders differ.
    """
    order = byte_order(tiff)
    if byte_order(block) != order:
        raise ValueError("EXIF and TIFF differ in byte order")
    shift = len(block) + len(block) % 2
    image = {e.tag: _shifted(e, shift, order) for e in _first(tiff)[0]}
    described = {e.tag: e for e in _first(block)[0] if _is_carried(e)}
    at = shift + len(tiff) + len(tiff) % 2
    directory = _directory(order, list((described | image).values()), at)
    head = block[:4] + struct.pack(order + "I", at) + block[8:]
    return head + bytes(len(block) % 2) + tiff + bytes(len(tiff) % 2) + directory


def _first(block: bytes | bytearray) -> tuple[list[Entry], int]:
    order = byte_order(block)
    return _entries(block, order, struct.unpack_from(order + "I", block, 4)[0])


def _entries(block: bytes | bytearray, order: str, at: int) -> tuple[list[Entry], int]:
    """Return the entries of the directory at ``at``, and the place of its pointer to the next directory.

    Only the first entry of a tag counts, only values inside the block, and only as many as the block has bytes, so that
    a few wrong bytes cannot become gigabytes.
    """
    (count,) = struct.unpack_from(order + "H", block, at)
    found: dict[int, Entry] = {}
    room = len(block)
    for start in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, n = struct.unpack_from(order + "HHI", block, start)
        size = _KIND_SIZE.get(kind, 0) * n
        where = start + 8 if size <= 4 else struct.unpack_from(order + "I", block, start + 8)[0]
        if 0 < size <= min(room, len(block) - where) and tag not in found:
            found[tag] = Entry(tag, kind, n, bytes(block[where : where + size]), where)
            room -= size
    return list(found.values()), at + 2 + 12 * count


def _number(block: bytes | bytearray, entry: Entry) -> int:
    codes = {1: "B", 3: "H", 4: "I", 13: "I"}
    if entry.kind not in codes:
        raise ValueError(f"tag {entry.tag} is no integer")
    return int(struct.unpack_from(byte_order(block) + codes[entry.kind], entry.value)[0])


def _erase_thumbnail(data: bytearray, order: str, next_at: int) -> None:
    if len(data) < next_at + 4:
        return
    (second,) = struct.unpack_from(order + "I", data, next_at)
    struct.pack_into(order + "I", data, next_at, 0)
    if not 0 < second < len(data) - 2:
        return
    place = {e.tag: _number(data, e) for e in _entries(data, order, second)[0] if e.kind in (3, 4)}
    start = place.get(_THUMBNAIL_OFFSET, 0)
    stop = min(len(data), start + place.get(_THUMBNAIL_BYTES, 0))
    if start >= 8:
        data[start:stop] = bytes(max(0, stop - start))


def _is_carried(entry: Entry) -> bool:
    return entry.tag in _DESCRIPTIVE and not (entry.tag == _DESCRIPTION and entry.value.startswith(_LAYOUTS))


def _packed(block: bytes, order: str, entries: Sequence[Entry], at: int, above: int = 0) -> tuple[bytes, int]:
    """Return the bytes, to be put at ``at``, of a directory after its subdirectories, and the directory's place."""
    body, kept = b"", []
    for entry in entries:
        if entry.tag in _POINTERS and above < len(_POINTERS):
            below = _entries(block, order, _number(block, entry))[0]
            packed, where = _packed(block, order, below, at + len(body), above + 1)
            body += packed
            entry = Entry(entry.tag, 4, 1, struct.pack(order + "I", where))
        kept.append(entry)
    return body + _directory(order, kept, at + len(body)), at + len(body)


def _directory(order: str, entries: Sequence[Entry], at: int) -> bytes:
    """Return the bytes, to be put at ``at``, of a directory followed by its longer values, with no next directory."""
    head, tail = struct.pack(order + "H", len(entries)), b""
    values_at = at + 2 + 12 * len(entries) + 4
    for tag, kind, count, value, _ in sorted(entries):
        field = value.ljust(4, b"\0")
        if len(value) > 4:
            field = struct.pack(order + "I", values_at + len(tail))
            tail += value + bytes(len(value) % 2)
        head += struct.pack(order + "HHI", tag, kind, count) + field
    return head + bytes(4) + tail


def _shifted(entry: Entry, shift: int, order: str) -> Entry:
    if entry.tag != _STRIP_OFFSETS:
        return entry
    code = "H" if entry.kind == 3 else "I"
    offsets = [n + shift for n in struct.unpack(f"{order}{entry.number}{code}", entry.value)]
    return Entry(entry.tag, 4, entry.number, struct.pack(f"{order}{entry.number}I", *offsets))
