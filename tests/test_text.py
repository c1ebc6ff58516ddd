"""Words, numbers and the loss curve."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipfast.report.curve import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, curve
from dipfast.text import change, duration, image_link, markdown, number, printable, reason_of

ANYTHING = st.text(st.characters(codec=None, categories=None))


@given(ANYTHING)
def test_printable_text_is_one_line_of_unicode(text) -> None:
    shown = printable(text)
    shown.encode("utf-8")
    assert shown.splitlines() in ([], [shown])
    assert printable(shown) == shown


@given(ANYTHING)
def test_a_markdown_cell_stays_one_cell(text) -> None:
    cell = markdown(text).replace("\\\\", "").replace("\\|", "").replace("\\<", "").replace("\\`", "")
    assert not set("|<`\n") & set(cell)


@pytest.mark.parametrize("text", ["dög 猫 \u3000 a\u202fb.png", "plain.png", ""])
def test_what_can_be_seen_stays_as_it_is(text) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0, "0 s"),
        (0.0421, "0.042 s"),
        (1, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (252.4, "4 min 12 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations_read_well(seconds, text) -> None:
    assert duration(seconds) == text


def test_a_change_without_its_beginning_is_its_end() -> None:
    assert change(20.24, 28.06, 1, " dB") == "20.2 → 28.1 dB"
    assert change(None, 28.06, 1, " dB") == "28.1 dB"
    assert change(20.0, None, 1) == "–"
    assert number(-0.256, 2, " dB", sign=True) == "−0.26 dB"


def test_a_reason_does_not_say_the_path_again() -> None:
    assert reason_of("/a/b.png: it is empty", "/a/b.png") == "it is empty"
    assert reason_of(None, None) == "no reason was given"


def test_a_link_keeps_to_the_images() -> None:
    assert image_link('a b/"><\udce9?#.png') == "images/a%20b/%22%3E%3C%E9%3F%23.png"


def test_a_tenfold_fall_is_a_straight_line_on_the_log_scale() -> None:
    drawn = curve([[100, 1.0], [200, 0.1], [300, 0.01]], 300, 200)
    middle = (LEFT + (WIDTH - LEFT - RIGHT) * 2 / 3, TOP + (HEIGHT - TOP - BOTTOM) / 2)
    assert (drawn.chosen.x, drawn.chosen.y) == pytest.approx(middle, abs=0.1)
    assert drawn.line.split()[1] == f"{drawn.chosen.x},{drawn.chosen.y}"
    assert drawn.chosen.label == "200"
    assert [tick.label for tick in drawn.losses] == ["0.01", "0.1", "1"]
    assert [tick.label for tick in drawn.steps] == ["0", "300"]


def test_what_a_log_scale_cannot_show_is_left_out() -> None:
    nan = float("nan")
    drawn = curve([[1, 0.5], [2, 0.0], [3, -1.0], [4, nan], [5, None], "no", [6], [7, 0.25]], None, 99)
    assert len(drawn.line.split()) == 2
    assert drawn.chosen is None


@pytest.mark.parametrize("losses", [None, [], [[1, 0.5]], "x", [[1, 0.0], [2, 0.0]]])
def test_too_few_losses_are_no_curve(losses) -> None:
    assert curve(losses, 3, 1) is None


@given(st.lists(st.tuples(st.integers(1, 10**7), st.floats(1e-12, 1e12)), min_size=2, unique_by=lambda point: point[0]))
def test_the_curve_stays_in_its_frame(points) -> None:
    drawn = curve(points, None, points[0][0])
    for x, y in (point.split(",") for point in drawn.line.split()):
        assert LEFT <= float(x) <= WIDTH - RIGHT
        assert TOP <= float(y) <= HEIGHT - BOTTOM
    assert 1 <= len(drawn.losses) <= 5
