"""A JPEG without its end marker is read if its picture is complete, and what follows the picture is ignored."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dipfast.errors import ItemError
from dipfast.image import read, to_array

RNG = np.random.default_rng(0)
Y, X = np.mgrid[0:40, 0:56]
SMOOTH = np.stack([3 * X + 2 * Y, 255 - 4 * X, 5 * Y], axis=2).clip(0, 255).astype(np.uint8)
PICTURES = {"smooth": SMOOTH, "noise": RNG.integers(0, 256, SMOOTH.shape, dtype=np.uint8), "flat": SMOOTH * 0 + 128}
WAYS = {
    "baseline": {},
    "gray": {"mode": "L"},
    "optimized": {"optimize": True},
    "restarts": {"restart_marker_blocks": 2},
    "rows": {"restart_marker_rows": 1},
    "progressive": {"progressive": True},
    "progressive rows": {"progressive": True, "restart_marker_rows": 1},
}
# 24 by 16 gray pixels, 9 x + 5 y modulo 256, in libjpeg-turbo's arithmetic coding
ARITHMETIC = base64.b85decode(
    "|JeWF01!$>Nk#wx0RR9200961|JwjV00smF1_cBL1_cHO2L=cV5DE$j2?`Vr4-60&6c`v66c!d59VH(c8zUSR79cDjBPJ&)Dk&KsEif%8FeNA{"
    "DF4X-3kU!Z02l!Q5di<p00saM5C#9*00;pA002J#{{YgLg$5gS$)U)VyiCpPpPVX7Uwr2*{U4t)0e0709t)KcpuQX|FnUEmQeRh6!^xk)nPGSB"
    "G9q5ps=x!OkF0S2*#"
)


def coded(picture: str, way: str) -> bytes:
    options = dict(WAYS[way])
    out = io.BytesIO()
    Image.fromarray(PICTURES[picture]).convert(options.pop("mode", "RGB")).save(out, "JPEG", quality=85, **options)
    return out.getvalue()


def held(path: Path, data: bytes) -> np.ndarray:
    path.write_bytes(data)
    image = read(path)
    return to_array(image.pixels, image.source)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("picture", PICTURES)
def test_a_jpeg_that_lacks_only_its_end_marker_is_whole(tmp_path: Path, picture: str, way: str) -> None:
    data = coded(picture, way)
    whole = held(tmp_path / "x", data)
    filled = () if data[-3] == 0 else (bytes(5000),)  # a zero at the end of the data looks like padding
    for rest in (b"", b"\xff", bytes(5), *filled, b"\xff\xd8\xff\xe0" + bytes(50), coded("noise", "baseline")):
        np.testing.assert_array_equal(held(tmp_path / "x", data[:-2] + rest), whole)


@pytest.mark.parametrize("way", WAYS)
def test_what_follows_the_end_marker_is_left_out(tmp_path: Path, way: str) -> None:
    data = coded("smooth", way)
    whole = held(tmp_path / "x", data)
    for rest in (
        b"SEFT" + bytes(99),
        coded("noise", "baseline"),
        coded("noise", way)[:-9],
        b"\xff" * 40,
        RNG.bytes(999),
    ):
        np.testing.assert_array_equal(held(tmp_path / "x", data + rest), whole)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("picture", PICTURES)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1), rest=st.sampled_from([b"", b"\xff", bytes(500), coded("noise", "baseline")]))
def test_a_jpeg_that_is_cut_is_refused_or_is_the_whole_picture(
    tmp_path: Path, picture: str, way: str, share: float, rest: bytes
) -> None:
    data = coded(picture, way)
    whole = held(tmp_path / "x", data)
    start = data.index(b"\xff\xda")
    try:
        cut = held(tmp_path / "x", data[: start + int(share * (len(data) - start))] + rest)
    except ItemError:
        return
    np.testing.assert_array_equal(cut, whole)


@pytest.mark.parametrize("way", ["restarts", "rows", "progressive rows"])
def test_a_jpeg_that_is_cut_between_two_restarts_is_refused(tmp_path: Path, way: str) -> None:
    data = coded("smooth", way)
    marks = [at for at in range(len(data) - 1) if data[at] == 0xFF and 0xD0 <= data[at + 1] <= 0xD7]
    assert marks
    for at in marks:
        for end in (at, at + 1, at + 2):
            for rest in (b"", b"\xff\xd9") if way != "progressive rows" else (b"",):
                with pytest.raises(ItemError, match="truncated JPEG"):
                    held(tmp_path / "x", data[:end] + rest)


def test_a_progressive_jpeg_without_its_last_passes_is_refused(tmp_path: Path) -> None:
    data = coded("smooth", "progressive")
    starts = [at for at in range(len(data) - 1) if data[at : at + 2] in (b"\xff\xda", b"\xff\xc4")]
    for at in starts[-6:]:
        for end in (at, at + 2, at + 4):
            with pytest.raises(ItemError, match="truncated JPEG"):
                held(tmp_path / "x", data[:end])


def test_an_arithmetic_coded_jpeg_must_have_its_end_marker(tmp_path: Path) -> None:
    y, x = np.mgrid[0:16, 0:24]
    wanted = (9 * x + 5 * y) % 256
    for rest in (b"", b"trailer", ARITHMETIC):
        assert np.abs(held(tmp_path / "x", ARITHMETIC + rest).astype(int) - wanted).mean() < 3
    with pytest.raises(ItemError, match="no end marker, and it may lack more"):
        held(tmp_path / "x", ARITHMETIC[:-2])


@pytest.mark.parametrize("length", [2, 3, 20])
def test_a_jpeg_of_a_header_alone_is_refused(tmp_path: Path, length: int) -> None:
    with pytest.raises(ItemError):
        held(tmp_path / "x", coded("flat", "baseline")[:length].ljust(3, b"\xff"))
