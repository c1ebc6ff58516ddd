"""Arrays become images and come back with the same dtype, shape and alpha; padding is undone at any size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipfast.errors import ItemError, UsageError
from dipfast.image import cut, encode, from_array, pad, to_array

RNG = np.random.default_rng(0)
SIDES = st.integers(1, 70)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, ">u2", np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1), (4, 5), (4, 5, 1), (4, 5, 2), (4, 5, 3), (4, 5, 4)])
def test_what_went_in_comes_out(shape, dtype):
    array = (RNG.random(shape) * (1 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max)).astype(dtype)
    image = from_array(array)
    assert image.pixels.shape == ((3 if len(shape) == 3 and shape[2] > 2 else 1), *shape[:2])
    assert image.pixels.dtype == np.float32
    back = to_array(image.pixels, array)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    np.testing.assert_allclose(back, array, rtol=0, atol=1e-7 if array.dtype.kind == "f" else 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float64])
def test_alpha_is_untouched_by_other_pixels(dtype):
    array = (RNG.random((4, 5, 4)) * (1 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max)).astype(dtype)
    back = to_array(np.zeros((3, 4, 5), np.float32), array)
    np.testing.assert_array_equal(back[..., 3], array[..., 3])
    assert (back[..., :3] == 0).all()


def test_a_larger_result_keeps_the_form():
    back = to_array(np.zeros((1, 8, 10), np.float32), np.zeros((4, 5, 2), np.uint16))
    assert (back.shape, back.dtype) == ((8, 10, 2), np.uint16)


def test_views_are_read_as_they_look_and_not_written_to():
    array = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    view = array[::-2, ::-1]
    view.flags.writeable = False
    np.testing.assert_array_equal(to_array(from_array(view).pixels, view), view)


def test_arrays_can_be_encoded():
    image = from_array(np.zeros((4, 5), np.float64))
    assert encode(image.pixels, image.source, "png").startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        ([[0.5]], "numpy array, not list"),
        (np.zeros((4, 5), np.int64), "not int64"),
        (np.zeros((4, 5), bool), "not bool"),
        (np.zeros((4, 5), np.uint32), "not uint32"),
        (np.zeros(4), r"\[4\]"),
        (np.zeros((1, 4, 5, 3)), r"\[1, 4, 5, 3\]"),
        (np.zeros((4, 5, 5)), r"\[4, 5, 5\]"),
        (np.zeros((4, 0)), r"\[4, 0\]"),
        (np.full((4, 5), 1.5), r"\[1.5, 1.5\]"),
        (np.full((4, 5), -0.1), "-0.1"),
        (np.full((4, 5), np.nan), "nan"),
        (np.full((4, 5), np.inf), "inf"),
    ],
)
def test_other_arrays_are_a_usage_error_that_names_the_value(array, reason):
    with pytest.raises(UsageError, match=reason):
        from_array(array)


def test_channels_that_differ_are_a_usage_error():
    with pytest.raises(UsageError, match=r"\[3, H, W\], not \[1, 4, 5\]"):
        to_array(np.zeros((1, 4, 5), np.float32), np.zeros((4, 5, 3), np.uint8))


def test_nan_is_never_handed_back():
    with pytest.raises(ItemError, match="NaN"):
        to_array(np.full((1, 4, 5), np.nan, np.float32), np.zeros((4, 5)))


@given(height=SIDES, width=SIDES, multiple=st.sampled_from([1, 2, 8, 32]), minimum=st.integers(1, 80))
def test_cut_undoes_pad_at_any_size(height, width, multiple, minimum):
    pixels = np.arange(height * width, dtype=np.float32).reshape(1, height, width)
    padded = pad(pixels, multiple, minimum)
    for side, before in zip(padded.shape[1:], (height, width), strict=True):
        assert side % multiple == 0
        assert side - multiple < max(before, minimum) <= side
    np.testing.assert_array_equal(cut(padded, height, width), pixels)
    assert padded.dtype == np.float32


def test_the_reflection_leaves_the_edge_out_and_repeats():
    assert pad(np.array([[1, 2, 3]]), (1, 8)).tolist() == [[1, 2, 3, 2, 1, 2, 3, 2]]


def test_a_single_pixel_fills_the_whole():
    assert (pad(np.full((3, 1, 1), 0.5, np.float32), 32) == 0.5).all()


def test_sides_may_have_multiples_of_their_own():
    assert pad(np.zeros((3, 5, 5)), (4, 16), minimum=10).shape == (3, 12, 16)


def test_what_fits_is_not_copied():
    pixels = np.zeros((3, 64, 32))
    assert pad(pixels, 32) is pixels


@pytest.mark.parametrize("arguments", [(0, 1), (32, 0), ((4, -4), 1)])
def test_impossible_multiples_are_a_usage_error(arguments):
    with pytest.raises(UsageError):
        pad(np.zeros((3, 4, 4)), *arguments)


@pytest.mark.parametrize("size", [(5, 4), (4, 0), (-1, 4)])
def test_a_cut_beyond_the_image_is_a_usage_error(size):
    with pytest.raises(UsageError):
        cut(np.zeros((3, 4, 4)), *size)
