"""Writing is atomic, in the format of the file's name, and never loses anything silently."""

import os
import stat
from pathlib import Path

import numpy as np
import pytest

from dipfast.errors import ItemError, UsageError
from dipfast.files import write_atomic
from dipfast.image import (
    Source,
    check_output,
    encode,
    format_of,
    from_array,
    probe,
    to_array,
    write,
)

PIXELS = np.full((3, 4, 5), 0.25, np.float32)
EIGHT, SIXTEEN, FLOAT = (Source("png", "rgb", depth) for depth in (8, 16, 32))


@pytest.mark.parametrize("extension", ["png", "jpg", "jpeg", "tif", "tiff", "webp", "avif", "PNG"])
def test_the_extension_names_the_format(tmp_path, extension):
    path = tmp_path / f"x.{extension}"
    write(path, PIXELS, EIGHT)
    assert probe(path).format == format_of(path)


@pytest.mark.parametrize("name", ["x.gif", "x", "x.png.part"])
def test_another_extension_is_a_usage_error(tmp_path, name):
    with pytest.raises(UsageError, match=r"\.png, \.jpg"):
        write(tmp_path / name, PIXELS, EIGHT)


@pytest.mark.parametrize("extension", ["jpg", "webp", "avif"])
@pytest.mark.parametrize("source", [SIXTEEN, FLOAT])
def test_a_depth_that_the_format_cannot_hold_is_refused_until_it_is_chosen(tmp_path, source, extension):
    path = tmp_path / f"x.{extension}"
    for refuse in (lambda: write(path, PIXELS, source), lambda: check_output(source, path)):
        with pytest.raises(ItemError, match=r"output\.bit_depth: 8.*\.png or \.tif") as caught:
            refuse()
        assert caught.value.kind == "unsupported"
    check_output(source, path, bit_depth=8)
    write(path, PIXELS, source, bit_depth=8)
    assert probe(path).bit_depth == 8


@pytest.mark.parametrize("bit_depth", [1, 32, "8", None])
def test_a_depth_that_does_not_exist_is_a_usage_error(bit_depth):
    with pytest.raises(UsageError, match="source, 8 or 16"):
        encode(PIXELS, EIGHT, "png", bit_depth=bit_depth)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_not_finite_are_never_written(tmp_path, value):
    pixels = PIXELS.copy()
    pixels[1, 2, 3] = value
    with pytest.raises(ItemError) as caught:
        write(tmp_path / "x.png", pixels, EIGHT)
    assert caught.value.kind == "non-finite"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pixels", [PIXELS[:2], PIXELS[0], PIXELS[:, :0], PIXELS.astype(np.uint8)])
def test_wrong_pixels_are_a_usage_error(pixels):
    with pytest.raises(UsageError, match=r"\[1 \| 3, H, W\]"):
        encode(pixels, EIGHT, "png")


def test_values_are_clipped_and_rounded_to_nearest():
    pixels = np.array([[[-1.0, 0.4999 / 255, 0.5001 / 255, 2.0]]], np.float32)
    source = from_array(np.zeros((1, 4), np.uint8)).source
    assert to_array(pixels, source).tolist() == [[0, 0, 1, 255]]


def test_a_failing_encoder_leaves_the_old_file(tmp_path):
    (tmp_path / "x.webp").write_bytes(b"old")
    with pytest.raises(ItemError, match="cannot be encoded as webp") as caught:
        write(tmp_path / "x.webp", np.zeros((3, 1, 20_000), np.float32), EIGHT)
    assert caught.value.kind == "unwritable"
    assert (tmp_path / "x.webp").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x.webp"]


def test_a_failing_disk_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "x.png").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ItemError, match=r"x\.png: No space left"):
        write(tmp_path / "x.png", PIXELS, EIGHT)
    assert (tmp_path / "x.png").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


def test_a_reader_never_sees_a_part(tmp_path, monkeypatch):
    seen = []
    replace = Path.replace
    target = tmp_path / "x.png"
    write_atomic(target, b"old")

    def watched(source, destination):
        seen.append((target.read_bytes(), source.read_bytes()))
        replace(source, destination)

    monkeypatch.setattr(Path, "replace", watched)
    write_atomic(target, b"new")
    assert seen == [(b"old", b"new")]
    assert target.read_bytes() == b"new"


def test_folders_are_made_and_permissions_are_the_user_s(tmp_path):
    path = tmp_path / "a" / "b" / "x.png"
    write(path, PIXELS, EIGHT)
    (tmp_path / "plain").write_bytes(b"")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_folder_in_the_way_is_an_item_error(tmp_path):
    (tmp_path / "x.png").mkdir()
    with pytest.raises(ItemError) as caught:
        write(tmp_path / "x.png", PIXELS, EIGHT)
    assert caught.value.kind == "unwritable"
