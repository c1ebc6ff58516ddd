"""The page: whole for every run there may be, closed to hostile names, and with the right pictures in it."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageCms
from test_summary import done, failed, pending, record

from dipfast.files import sha256_of
from dipfast.image import from_array, write
from dipfast.record import Record
from dipfast.report import markdown, page, summarize, write_report
from dipfast.store.folder import RunFolder
from dipfast.store.rows import Row

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\udce9\u202e|`[x](javascript:y)"


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def put(path: Path, array: np.ndarray) -> None:
    image = from_array(array)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, image.pixels, image.source)


def flat(value: float, height: int = 20, width: int = 30, dtype: Any = np.uint8) -> np.ndarray:
    return np.full((height, width, 3), value * np.iinfo(dtype).max, dtype)


def restored(folder: RunFolder, before: np.ndarray, after: np.ndarray, name: str = "dog.png", **changes: Any) -> Row:
    """A done item with its input and its image on disk."""
    source = folder.root.parent / "in" / name
    put(source, before)
    put(folder.images / name, after)
    given = {"path": str(source), "sha256": sha256_of(source), "width": before.shape[1], "height": before.shape[0]}
    return Row(str(source), name, name, "done", record(name, input=given, **changes))


def report(folder: RunFolder, rows: list[Row], **options: Any) -> str:
    write_report(folder, rows, summarize(rows, 60.0), **options)
    return (folder.root / "report.html").read_text("utf-8")


def shown(html: str, which: str = "after") -> list[Pillow.Image]:
    """The embedded pictures of one class, decoded."""
    uris = re.findall(rf'<img class="{which}[^"]*" src="data:image/\w+;base64,([^"]+)"', html)
    return [Pillow.open(io.BytesIO(base64.b64decode(uri))) for uri in uris]


def level(picture: Pillow.Image) -> float:
    return float(np.asarray(picture.convert("L")).mean())


class Tags(HTMLParser):
    """The elements of a page, and whether each one that was opened was closed."""

    VOID = ("meta", "img", "input")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [failed(), failed("b.png", kind=None, reason=None)],
        [pending()],
        [done("missing.png")],
        [Row("a", "a", "a", "done", {})],
        [done(), failed(), pending(), done("b.png", metrics={}, losses=[])],
    ],
    ids=["empty", "failures", "pending", "no image", "empty record", "mixed"],
)
def test_every_run_has_a_whole_page(folder, rows) -> None:
    html = report(folder, rows)
    assert Tags(html).open == []
    assert "None" not in html
    assert "None" not in (folder.root / "report.md").read_text()


def test_the_page_shows_before_and_after(folder) -> None:
    html = report(folder, [restored(folder, flat(0.2), flat(0.8))])
    (before,), (after,) = shown(html, "before"), shown(html)
    assert level(before) == pytest.approx(51, abs=1)
    assert level(after) == pytest.approx(204, abs=1)
    assert before.size == after.size == (30, 20)


def test_sixteen_bit_outputs_are_shown_with_their_own_brightness(folder) -> None:
    row = restored(folder, flat(0.2, dtype=np.uint16), flat(0.8, dtype=np.uint16))
    html = report(folder, [row])
    assert level(shown(html)[0]) == pytest.approx(204, abs=1)
    assert level(shown(html, "before")[0]) == pytest.approx(51, abs=1)


def test_what_goes_into_super_resolution_is_enlarged(folder) -> None:
    settings = {"task": {"type": "superres", "scale": 4}}
    html = report(folder, [restored(folder, flat(0.2, 8, 10), flat(0.8, 32, 40), settings=settings)])
    assert shown(html, "before")[0].size == shown(html)[0].size == (40, 32)
    assert "before, enlarged" in html
    assert "superres (scale 4)" in html


def test_large_pictures_are_shrunk(folder) -> None:
    html = report(folder, [restored(folder, flat(0.2, 700, 1400), flat(0.8, 700, 1400))])
    assert shown(html, "before")[0].size == shown(html)[0].size == (768, 384)


def test_a_damaged_input_is_shown_not_its_clean_source(folder) -> None:
    settings = {"task": {"type": "denoise"}, "degrade": {"type": "gaussian"}}
    row = restored(folder, flat(0.2), flat(0.8), "dog.tif", settings=settings)
    assert shown(report(folder, [row]), "before") == []
    put(folder.damaged / "dog.png", flat(0.5))
    assert level(shown(report(folder, [row]), "before")[0]) == pytest.approx(127, abs=1)


def test_an_input_that_is_gone_or_changed_is_not_shown(folder) -> None:
    row = restored(folder, flat(0.2), flat(0.8))
    put(Path(row.path), flat(0.9))
    html = report(folder, [row])
    assert (shown(html, "before"), len(shown(html))) == ([], 1)
    assert "the file changed after the run" in html
    Path(row.path).unlink()
    assert "is not there any more" in report(folder, [row])


def test_an_image_that_cannot_be_read_is_said_to_be_so(folder) -> None:
    row = restored(folder, flat(0.2), flat(0.8))
    (folder.images / "dog.png").write_bytes(b"rubbish")
    html = report(folder, [row])
    assert "Its image cannot be shown" in html
    assert "<img" not in html


def test_transparent_pixels_are_shown_on_white(folder) -> None:
    hidden = np.zeros((20, 30, 4), np.uint8)
    html = report(folder, [restored(folder, hidden, hidden)])
    assert level(shown(html)[0]) == 255


def test_a_profile_comes_along(folder) -> None:
    row = restored(folder, flat(0.2), flat(0.8))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Pillow.fromarray(flat(0.8)).save(folder.images / "dog.png", icc_profile=profile)
    assert shown(report(folder, [row]))[0].info["icc_profile"] == profile


def test_hostile_names_and_reasons_are_text(folder) -> None:
    evil = record(why=EVIL, ran={"device": EVIL, "torch": EVIL})
    rows = [Row(EVIL, EVIL, "1", "done", evil), failed(EVIL, EVIL, EVIL), pending(EVIL)]
    html = report(folder, rows, title=EVIL, compare=(RunFolder(folder.root.parent / "<b>"), rows))
    tags = Tags(html).seen
    assert [tag for tag, _ in tags if tag == "script"] == ["script"]
    assert not {tag for tag, _ in tags} & {"b", "img"}
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]
    assert "\u202e" not in html


def test_hostile_names_are_text_in_markdown(folder) -> None:
    rows = [Row(EVIL, EVIL, "1", "done", record()), failed(EVIL, EVIL, EVIL), pending(EVIL)]
    report(folder, rows)
    text = (folder.root / "report.md").read_text("utf-8")
    assert "<script" not in text.replace("\\<", "")
    assert "[x](javascript" not in text.replace("\\[", "")
    for line in text.splitlines():
        if line.startswith("| ") and "alert" in line:
            assert len(re.findall(r"(?<!\\)\|", line)) in (2, 4, 12)


def test_the_page_allows_itself_no_network(folder) -> None:
    html = report(folder, [restored(folder, flat(0.2), flat(0.8))])
    policy = next(tag["content"] for _, tag in Tags(html).seen if tag.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:; ")
    links = [value for _, tag in Tags(html).seen for name, value in tag.items() if name in ("src", "href")]
    assert all(link.startswith(("data:image/", "images/", "#")) for link in links)


def test_only_so_many_images_get_a_card_and_the_others_are_listed(folder, monkeypatch) -> None:
    monkeypatch.setattr(page, "MAX_CARDS", 2)
    html = report(folder, [done(f"{n}.png") for n in range(5)])
    assert html.count('<article class="card">') == 2
    assert "the first 2 of 5" in html
    assert "3 images without a picture here" in html
    assert all(f'href="images/{n}.png"' in html for n in range(5))


def test_a_card_says_what_was_done(folder) -> None:
    html = report(folder, [restored(folder, flat(0.2), flat(0.8))])
    for fact in ("300 of 400, the answer from step 240", "20.00 → 28.00 dB", "+8.00 dB", "cpu, eager, fp32"):
        assert fact in html
    assert "10.0 s (fit 9.0 s)" in html
    assert "answer, step 240" in html


def test_a_card_says_that_smaller_sizes_were_fitted_first(folder) -> None:
    ran = {"coarse": [{"size": [128, 128], "steps": 40}, {"size": [64, 64], "steps": 40}]}
    assert "300 of 400, behind those at 2 smaller sizes, the answer" in report(folder, [done(ran=ran)])


@pytest.mark.parametrize(
    ("task", "found", "words"),
    [
        (
            {"type": "denoise", "noise": {"type": "gaussian", "sigma": "auto"}},
            {"sigma": 24.505, "sigma_source": "estimated"},
            "denoise (gaussian, sigma 24.5 estimated)",
        ),
        (
            {"type": "denoise", "noise": {"type": "gaussian", "sigma": 25}},
            {"sigma": 25.0, "sigma_source": "given", "noise_shared_by": "channels"},
            "denoise (gaussian, sigma 25, shared by channels)",
        ),
        (
            {"type": "denoise", "noise": {"type": "poisson", "peak": 30}},
            {"noise_shared_by": "none"},
            "denoise (poisson, peak 30)",
        ),
        ({"type": "inpaint"}, {"unknown_fraction": 0.5}, "inpaint (50 % unknown)"),
        ({"type": "superres", "scale": 4}, {}, "superres (scale 4)"),
        ({"type": "jpeg"}, {}, "jpeg"),
        ({}, {}, None),
    ],
)
def test_a_task_is_told_with_what_was_found(task, found, words) -> None:
    assert page.task_words({"settings": {"task": task}, "facts": found}) == words


def test_without_html_there_is_only_markdown(folder) -> None:
    written = write_report(folder, [done()], summarize([done()], 1.0), html=False)
    assert written == [folder.root / "report.md"]
    assert not (folder.root / "report.html").exists()


def test_markdown_links_the_images_relatively(folder) -> None:
    report(folder, [done("a b/dög.png")])
    text = (folder.root / "report.md").read_text("utf-8")
    assert "| [a b/dög.png](images/a%20b/d%C3%B6g.png) | denoise | fast | 100 × 50 | 300 | 240 |" in text


def test_two_runs_are_compared_by_output_name(folder) -> None:
    other = [done("b.png", metrics={"psnr": 27.0}, seconds={"total": 30.0}), done("c.png"), failed("d.png")]
    html = report(folder, [done("a.png"), done("b.png")], compare=(RunFolder(Path("/other")), other))
    text = (folder.root / "report.md").read_text()
    assert "| b.png | 28.00 | 27.00 | +1.00 | 10.0 s | 30.0 s | 3.00× |" in text
    assert "| a.png | 28.00 | – | – | 10.0 s | – | – |" in text
    assert "| c.png | – | 28.00 | – | – | 10.0 s | – |" in text
    assert "| mean of both | 28.00 | 27.00 | +1.00 | 10.0 s | 30.0 s | 3.00× |" in text
    assert "d.png" not in text
    assert "+1.00" in html


def test_equal_pictures_are_said_beside_the_means_of_both_runs(folder) -> None:
    equal = {"psnr_before": 20.0, "psnr": None}
    ours = [done("a.png", metrics=equal), done("b.png", metrics=equal), done("c.png")]
    other = [done("a.png"), done("b.png", metrics=equal), done("c.png", metrics={"psnr": 27.0})]
    report(folder, ours, compare=(RunFolder(Path("/other")), other))
    text = (folder.root / "report.md").read_text()
    assert "| a.png | ∞ | 28.00 | +∞ |" in text
    assert "| b.png | ∞ | ∞ | +0.00 |" in text
    assert "| mean of both, of 1 image, and 2 identical | 28.00 | 27.00 | +1.00 |" in text


@pytest.mark.parametrize("others", [0, 2])
def test_a_page_says_which_pictures_equal_their_references(folder, others: int) -> None:
    equal = {"psnr_before": 20.0, "psnr": None, "ssim_before": 0.5, "ssim": 1.0}
    rows = [restored(folder, flat(0.2), flat(0.8), metrics=equal), *(done(f"{i}.png") for i in range(others))]
    html = report(folder, rows)
    text = (folder.root / "report.md").read_text()
    assert "20.00 → ∞" in html and "20.00 → ∞" in text
    assert "+∞" in html
    words = "mean of 2 images, and 1 identical" if others else "1 identical"
    assert words in html and words in text
    assert ("PSNR, mean of 2" in html) == bool(others)


def test_a_card_has_what_a_brief_record_leaves_out(folder) -> None:
    row = restored(folder, flat(0.2), flat(0.8))
    assert row.record is not None
    vouched = {
        "output": {"sha256": "", "paths": ["dog.png"]},
        "generator": {"sha256": "", "path": "generators/a.safetensors"},
    }
    folder.commit(row.record | vouched)
    record = Record.from_json(row.record | vouched)
    assert record is not None
    html = report(folder, [replace(row, known=record.short())])
    assert '<svg class="curve"' in html
    assert "300 of 400" in html


def test_runs_of_one_name_are_told_apart_by_their_paths(folder) -> None:
    report(folder, [done()], compare=(RunFolder(Path("/other/run")), [done()]))
    assert "PSNR dB, /other/run" in (folder.root / "report.md").read_text()


def test_the_same_run_gives_the_same_page(folder) -> None:
    rows = [restored(folder, flat(0.2), flat(0.8)), failed()]
    summary = summarize(rows, 1.0)
    first, second = (page.as_html(folder, "a run", rows, summary, None) for _ in range(2))
    assert first == second


def test_a_report_lists_so_many_items_and_counts_the_others(folder, monkeypatch) -> None:
    monkeypatch.setattr(page, "MAX_LISTED", 2)
    monkeypatch.setattr(markdown, "MAX_LISTED", 2)
    monkeypatch.setattr(page, "MAX_CARDS", 0)
    rows = [
        Row(f"{state}{i}", f"{state}{i}.png", None, state, {})
        for state in ("done", "failed", "pending")
        for i in range(5)
    ]
    write_report(folder, rows, summarize(rows))
    for name in ("report.html", "report.md"):
        text = (folder.root / name).read_text()
        assert text.count("… and 3 more, in results.csv") == 3
        assert text.count("pending1") == 1
        assert "pending2" not in text


@pytest.mark.parametrize(("share", "is_told"), [(0.7, True), (0.0, True), (1, False), (None, False)])
def test_a_strength_that_is_not_1_is_told(folder, share: float | None, is_told: bool, monkeypatch) -> None:
    output = {"paths": ["dog.png"], "sha256": ""} | ({} if share is None else {"strength": share})
    row = done("dog.png", output=output)
    html, text = report(folder, [row]), (folder.root / "report.md").read_text()
    assert ("of the change is applied" in html) == (", strength " in text) == is_told
    if share == 0.7:
        assert "70 % of the change is applied" in html and "denoise, strength 0.7" in text
    monkeypatch.setattr(page, "MAX_CARDS", 0)
    assert (", strength " in report(folder, [row])) == is_told
