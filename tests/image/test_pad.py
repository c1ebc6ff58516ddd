"""Padding by reflection to what a generator needs, and the cut that undoes it, at any size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipfast.errors import UsageError
from dipfast.image import cut, pad

sides = st.integers(1, 70)


@given(height=sides, width=sides, multiple=st.sampled_from([1, 2, 8, 32]), minimum=st.integers(1, 80))
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
