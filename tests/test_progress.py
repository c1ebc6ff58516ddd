"""What a run says while it works: exact lines, strict JSON, and never an exception."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from dipfast.progress import Bars, Display, Lines, make_progress

DOG = {"id": "1", "path": "dog.png"}
RECORD = {
    "id": "1",
    "steps": 300,
    "seconds": {"total": 23.41},
    "metrics": {"psnr_before": 20.2, "psnr": 28.1, "ssim": float("nan")},
    "settings": {"fit": {}},
    "losses": [[1, 0.5]],
}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def shown(kind: str, *events: Any) -> str:
    stream = io.StringIO()
    with make_progress(kind, stream) as show:
        for event in events:
            show(event)
    return stream.getvalue()


def progress(step: int, **changes: Any) -> dict[str, Any]:
    return {"event": "progress", **DOG, "step": step, "steps": 300, "loss": 0.00123} | changes


def test_plain_says_a_line_when_an_item_starts_and_ends() -> None:
    text = shown(
        "plain",
        {"event": "started", "jobs": 3, "done": 7},
        {"event": "claimed", **DOG, "worker": "cpu-0"},
        progress(100),
        {"event": "done", **DOG, "record": RECORD, "wall": 24.0},
        {"event": "failed", "id": None, "path": "a.png", "kind": "unreadable", "reason": "a.png: is empty"},
        {"event": "lost", **DOG, "reason": "its worker died (signal SIGKILL), attempt 1 of 3"},
        {"event": "quarantined", **DOG, "kind": "worker-died", "reason": "its worker died"},
        {"event": "cancelled", **DOG},
    )
    assert text.splitlines() == [
        "3 images to do, 7 done before",
        "start dog.png",
        "done dog.png 23.4 s, 300 steps, PSNR 20.2 → 28.1 dB",
        "failed a.png unreadable: is empty",
        "lost dog.png: its worker died (signal SIGKILL), attempt 1 of 3",
        "failed dog.png worker-died: its worker died",
        "cancelled dog.png",
    ]


def test_plain_speaks_of_an_item_at_most_every_ten_seconds() -> None:
    stream, clock = io.StringIO(), Clock()
    show = Lines(stream, clock)
    show({"event": "claimed", **DOG})
    for second in range(25):
        clock.now = float(second)
        show(progress(second * 10))
    assert stream.getvalue().splitlines()[1:] == [
        "dog.png step 100/300, 10 steps/s, loss 0.00123",
        "dog.png step 200/300, 10 steps/s, loss 0.00123",
    ]


def test_a_path_in_the_current_folder_is_shown_from_there(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown("plain", {"event": "claimed", "path": str(tmp_path / "a" / "b.png")}) == "start a/b.png\n"


def test_json_is_one_strict_object_a_line_without_the_bulk() -> None:
    text = shown("json", {"event": "done", **DOG, "record": RECORD, "wall": float("inf")}, progress(1))
    done, step = (json.loads(line, parse_constant=pytest.fail) for line in text.splitlines())
    assert done == {
        "event": "done",
        **DOG,
        "record": {
            "id": "1",
            "steps": 300,
            "seconds": {"total": 23.41},
            "metrics": {"psnr_before": 20.2, "psnr": 28.1, "ssim": None},
        },
        "wall": None,
    }
    assert step == progress(1)


def test_a_picture_that_equals_its_reference_has_infinite_psnr() -> None:
    record = RECORD | {"metrics": {"psnr_before": 20.2, "psnr": None}}
    assert shown("plain", {"event": "done", **DOG, "record": record}).endswith("300 steps, PSNR 20.2 → ∞\n")


def test_none_says_nothing() -> None:
    assert shown("none", {"event": "started", "jobs": 1, "done": 0}) == ""


@pytest.mark.parametrize("kind", ["rich", "plain", "json", "none"])
@pytest.mark.parametrize(
    "event",
    [
        {},
        {"event": "unheard-of"},
        {"event": "started"},
        {"event": "progress"},
        {"event": "done"},
        {"event": "done", "record": None, "path": None},
        {"event": "failed"},
        {"event": "failed", "path": "\udce9\x1b[2J[red]\n.png", "reason": "\ud800"},
        {"event": "progress", "id": "1", "step": "x", "steps": None, "loss": "y"},
        {"event": "progress", "id": "1", "step": 1, "steps": 3, "loss": "y"},
        {"event": "progress", "id": [], "path": {}},
        {"event": "started", "jobs": {}},
    ],
    ids=str,
)
def test_an_odd_event_costs_nothing(kind: str, event: dict[str, Any]) -> None:
    shown(kind, event, event).encode()


@pytest.mark.parametrize("kind", ["rich", "plain", "json"])
def test_a_stream_that_is_gone_costs_nothing(kind: str) -> None:
    stream = io.StringIO()
    with make_progress(kind, stream) as show:
        stream.close()
        show({"event": "started", "jobs": 1, "done": 0})
        show({"event": "failed", **DOG})


def test_a_hostile_name_moves_no_cursor() -> None:
    text = shown("plain", {"event": "claimed", "path": "a\x1b[2J\r\u202e\udce9.png"})
    assert text == "start a\\x1b[2J\\r\\u202e\\udce9.png\n"


def test_auto_is_plain_where_there_is_no_terminal(monkeypatch) -> None:
    stream = io.StringIO()
    assert isinstance(make_progress("auto", stream), Lines)
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(make_progress("auto", stream), Bars)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_progress("auto", stream), Lines)


def test_a_closed_standard_error_is_no_error(monkeypatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    assert type(make_progress("auto")) is Display


def test_another_kind_is_an_error_that_names_the_kinds() -> None:
    with pytest.raises(ValueError, match="auto, rich, plain, json, none, is 'loud'"):
        make_progress("loud")


def bars(width: int = 80) -> tuple[Bars, Clock]:
    clock = Clock()
    display = Bars(io.StringIO(), clock)
    display.console = Console(file=io.StringIO(), width=width)
    return display, clock


def drawn(display: Bars) -> list[str]:
    display.console.print(display.render())
    return display.console.file.getvalue().splitlines()


def test_bars_show_the_run_and_each_item_in_flight() -> None:
    display, clock = bars()
    display({"event": "started", "jobs": 4, "done": 7})
    display({"event": "claimed", **DOG})
    display({"event": "claimed", "id": "2", "path": "x" * 99 + "cat.png"})
    display({"event": "done", "id": "3", "path": "owl.png"})
    for clock.now, step in ((10.0, 0), (20.0, 150)):
        display(progress(step))
    overall, dog, cat = drawn(display)
    assert overall.rstrip().endswith(
        " 1/4 done 7 done before 25.0 s left"
    )  # half an item in 10 s; two at a time, 2.5 to go
    assert dog.startswith("dog.png ")
    assert dog.rstrip().endswith("step 150/300 15 steps/s loss 0.00123")
    assert cat.startswith("…xxx")
    assert "xcat.png " in cat
    assert cat.rstrip().endswith(" starting")


def test_items_that_failed_before_the_start_tell_nothing_about_the_pace() -> None:
    display, clock = bars()
    display({"event": "failed", "path": "bad.png"})
    display({"event": "started", "jobs": 2, "done": 0})
    clock.now = 5.0
    assert display.state.total == 3
    assert display.state.seconds_left() is None
    display({"event": "done", **DOG})
    assert display.state.seconds_left() == 5.0


def test_a_failure_scrolls_by_above_the_bars() -> None:
    text = shown("rich", {"event": "failed", **DOG, "kind": "too-large", "reason": "[bold]9 pixels"})
    assert text.splitlines()[0] == "failed dog.png too-large: [bold]9 pixels"


def test_no_color_takes_the_colours_away(monkeypatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert Bars(io.StringIO(), Clock()).console.no_color
