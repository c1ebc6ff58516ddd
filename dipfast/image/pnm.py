"""Netpbm: PBM, PGM, PPM and PAM of 1 to 16 bits, one picture a file, as text or bytes; read only.

They are parsed here, because Pillow reduces colours of more than 8 bits to 8.
"""

import re
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipfast.errors import ItemError
from dipfast.image.samples import stretched
from dipfast.image.source import Header, Stored

_HEAD = 1 << 16  # largest length of a header with its comments, in bytes
_SPACE = re.compile(rb"(?:\s|#[^\n\r]*(?:[\n\r]|\Z))*")
_NUMBER = re.compile(rb"[0-9]{1,9}")
_SAMPLES = {1: 1, 2: 1, 3: 3, 4: 1, 5: 1, 6: 3}  # samples of a pixel, by the digit of the magic number


class _Layout(NamedTuple):
    """What the header says."""

    width: int
    height: int
    samples: int
    most: int  # the value of white
    kind: int  # the digit of the magic number
    start: int  # place of the samples in the file

    @property
    def bits(self) -> int:
        return self.most.bit_length()


def header(file: BinaryIO) -> Header:
    """Read the header; raise ItemError if it is broken, or claims more than 4 samples a pixel or 16 bits."""
    file.seek(0)
    found = _layout(file.read(_HEAD))
    colours = 1 if found.samples < 3 else 3
    return Header("pnm", found.width, found.height, colours, found.samples > colours, 8 if found.bits <= 8 else 16)


def decode(data: bytes) -> Stored:
    """Decode the samples; the file's own range from 0 to its maximum is spread over 8 or 16 bits."""
    found = _layout(data[:_HEAD])
    count = found.width * found.height * found.samples
    values = _plain(data[found.start :], found, count) if found.kind <= 3 else _raw(data, found, count)
    samples = values.reshape(found.height, found.width, found.samples)
    if found.kind in (1, 4):  # in a bitmap, 1 is black
        samples = 1 - samples
    bilevel = found.most == 1 and found.samples == 1
    return Stored(_spread(samples, found.most), "bilevel" if bilevel else "gray" if found.samples < 3 else "rgb")


def _layout(head: bytes) -> _Layout:
    kind = head[1] - ord("0")
    if kind == 7:
        return _pam(head)
    at, numbers = 2, []
    for _ in range(2 if kind in (1, 4) else 3):
        at = _SPACE.match(head, at).end()  # type: ignore[union-attr]
        found = _NUMBER.match(head, at)
        if found is None:
            raise ItemError("unreadable", "corrupt Netpbm file: its header should hold width, height and maximum")
        numbers.append(int(found[0]))
        at = found.end()
    width, height, most = (*numbers, 1)[:3]
    return _checked(_Layout(width, height, _SAMPLES[kind], most, kind, at + 1))


def _pam(head: bytes) -> _Layout:
    text, mark, _ = head.partition(b"ENDHDR\n")
    words = {line.split()[0]: line.split()[1] for line in text.splitlines()[1:] if len(line.split()) == 2}
    try:
        sides = [int(words[name][:9]) for name in (b"WIDTH", b"HEIGHT", b"DEPTH", b"MAXVAL")]
    except (KeyError, ValueError):
        sides = []
    if not (mark and sides):
        raise ItemError("unreadable", "corrupt PAM file: its header should hold WIDTH, HEIGHT, DEPTH and MAXVAL")
    if not 1 <= sides[2] <= 4:
        raise ItemError("unsupported", f"a PAM of {sides[2]} samples a pixel")
    width, height, samples, most = sides
    return _checked(_Layout(width, height, samples, most, 7, len(text) + len(mark)))


def _checked(found: _Layout) -> _Layout:
    if not 1 <= found.most <= 65535:
        raise ItemError("unreadable", f"corrupt Netpbm file: its maximum is {found.most}, should be 1 to 65535")
    return found


def _raw(data: bytes, found: _Layout, count: int) -> NDArray[Any]:
    if found.kind == 4:
        row = -(-found.width // 8)
        _check_length(len(data) - found.start, row * found.height, data, found.start)
        packed = np.frombuffer(data, np.uint8, row * found.height, found.start).reshape(found.height, row)
        return np.unpackbits(packed, axis=1, count=found.width)
    dtype = np.dtype(np.uint8 if found.most < 256 else ">u2")
    _check_length(len(data) - found.start, count * dtype.itemsize, data, found.start)
    return np.frombuffer(data, dtype, count, found.start)


def _check_length(there: int, needed: int, data: bytes, start: int) -> None:
    if there < needed:
        raise ItemError("unreadable", f"truncated Netpbm file: {there} bytes of samples of {needed}")
    if re.match(rb"P[1-7]\s", data[start + needed : start + needed + 3]):
        raise ItemError("unsupported", "a Netpbm file of several pictures: only a single one is restored")


def _plain(text: bytes, found: _Layout, count: int) -> NDArray[Any]:
    """Return the numbers in a text; those of a bitmap need no spaces between them."""
    text = re.sub(rb"#[^\n\r]*", b" ", text)
    if found.kind == 1:
        digits = np.frombuffer(text, np.uint8)
        values: NDArray[Any] = digits[(digits >= ord("0")) & (digits <= ord("9"))] - ord("0")
    elif re.search(rb"[^0-9\s]|[0-9]{10}", text):
        raise ItemError("unreadable", "corrupt Netpbm file: its text holds more than small numbers")
    else:
        values = np.fromstring(text, np.int64, sep=" ")
    if len(values) < count:
        raise ItemError("unreadable", f"truncated Netpbm file: {len(values)} samples of {count}")
    return values[:count]


def _spread(samples: NDArray[Any], most: int) -> NDArray[Any]:
    """Spread samples of 0 to ``most`` over 8 or 16 bits; raise ItemError for a greater one."""
    if samples.max() > most:
        raise ItemError("unreadable", f"corrupt Netpbm file: a sample of {samples.max()}, its maximum is {most}")
    return stretched(samples, most, 8 if most < 256 else 16)
