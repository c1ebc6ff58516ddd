"""What `bench frontier` makes of its rows: spreads, distances, rows of earlier runs, pictures side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cases import make_case
from dipfast.errors import UsageError
from dipfast.metrics import psnr
from dipfast.tasks.operators import Clipping
from frontier import app
from gallery import GAP, LABEL, Gallery
from methods import METHODS, unclipped
from plot import frontier_svg
from standings import join, read_results, references, summarize


def row(contender: str, picture: str, psnr: float, noise: int = 0, weight: int = 0, **more: Any) -> dict[str, Any]:
    about = {"damage": "gaussian:25", "before": 20.0, "ssim": 0.8, "seconds": 1.0}
    seeds = {"noise_seed": noise, "weight_seed": weight}
    return about | {"contender": contender, "picture": picture, "psnr": psnr} | seeds | more


def result(*rows: dict[str, Any], crop: int = 128, **named: str) -> dict[str, Any]:
    names = dict.fromkeys(row["contender"] for row in rows)
    contenders = [{"name": name, "preset": named.get(name, name), "sets": []} for name in names]
    return {"benchmark": "frontier", "crop": crop, "contenders": contenders, "machine": {}, "rows": list(rows)}


def test_spreads_tell_seeds_of_noise_from_seeds_of_weights() -> None:
    values = {(0, 0): 30.0, (0, 1): 30.2, (1, 0): 31.0, (1, 1): 31.2}
    rows = [row("a", "x", value, noise, weight) for (noise, weight), value in values.items()]
    rows += [row("a", "y", value + 2, noise, weight) for (noise, weight), value in values.items()]
    (found,) = summarize(rows)
    assert found["psnr"] == pytest.approx(31.6) and (found["pictures"], found["fits"]) == (2, 8)
    assert found["spread_weights"] == pytest.approx(0.2 / 2**0.5)
    assert found["spread_noise"] == pytest.approx(1 / 2**0.5)
    for key in ("spread", "spread_of_mean"):
        assert found[key] == pytest.approx(np.std(list(values.values()), ddof=1))
    assert summarize(rows[:1])[0]["spread"] is None


def test_distances_are_taken_picture_by_picture() -> None:
    rows = [row("bm3d", "x", 30, noise=0), row("bm3d", "x", 32, noise=1), row("bm3d", "y", 28)]
    rows += [row("fast", "x", 31, noise=0), row("fast", "x", 32, noise=1), row("fast", "y", 27), row("fast", "z", 1)]
    fast = summarize(rows, {"bm3d": "bm3d", "original": "nobody"})[1]
    assert fast["against"] == {"bm3d": {"mean": -0.25, "worst": -1, "worst_picture": "y", "pictures": 2}}


def test_the_original_is_its_own_loop_or_else_the_unchanged_preset() -> None:
    paper, changed = ({"name": n, "preset": "paper", "sets": sets} for n, sets in (("p", []), ("q", ["fit.steps=1"])))
    loop = {"name": "o", "preset": "original", "sets": ["steps=1800"]}
    assert references([loop, paper, changed]) == {"original": "o"}
    assert references([paper, changed]) == {"original": "p"}
    assert references([changed]) == {}
    assert references([paper, changed | {"name": "original"}]) == {"original": "original"}


def test_earlier_rows_join_where_the_case_is_the_same() -> None:
    now = result(row("fast", "x", 30, case="1"), row("fast", "y", 31, case="2"))
    there = result(row("bm3d", "in/a/folder/x", 29, case="1"), row("bm3d", "z", 1), row("fast", "x", 0, case="1"))
    found = join(now, [("a.json", there)])
    assert [(r["contender"], r["picture"], r["psnr"]) for r in found["rows"]] == [
        ("fast", "x", 30),
        ("fast", "y", 31),
        ("bm3d", "x", 29),
    ]
    assert found["joined"] == [{"file": "a.json", "machine": {}, "left_out": 1}]
    fast, bm3d = found["summary"]
    assert fast["against"]["bm3d"]["mean"] == 1 and (bm3d["pictures"], bm3d["pictures_of_all"]) == (1, 2)
    alone = join(result(), [("a.json", there), ("b.json", now)])
    assert len(alone["rows"]) == 4 and {r["picture"] for r in alone["rows"]} == {"x", "y", "z"}


def test_what_does_not_agree_is_refused() -> None:
    now = result(row("fast", "x", 30, case="1"))
    with pytest.raises(UsageError, match=r"--with a\.json: its crop is 256, should be 128"):
        join(now, [("a.json", result(row("bm3d", "x", 30), crop=256))])
    with pytest.raises(UsageError, match=r"--with a\.json: its crop is whole, should be 128"):
        join(now, [("a.json", result(row("bm3d", "x", 30)) | {"crop": None})])
    with pytest.raises(UsageError, match=r"--with a\.json: its x with gaussian:25 is another picture or damage"):
        join(now, [("a.json", result(row("bm3d", "x", 30, case="2")))])
    with pytest.raises(UsageError, match=r"--with a\.json: fast is another contender there"):
        join(now, [("a.json", result(row("fast", "x", 30), fast="balanced"))])


def test_a_file_that_is_no_earlier_run_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    with pytest.raises(UsageError, match="cannot be read"):
        read_results([file])
    for text in ('{"benchmark": "stop"}', "[]"):
        file.write_text(text)
        with pytest.raises(UsageError, match=r"should be what `python bench/frontier\.py --json` printed"):
            read_results([file])


def test_the_spread_over_seeds_is_drawn() -> None:
    rows = [{"damage": "jpeg:10", "contender": "a", "psnr": 30.0, "flops": 2e11, "spread": 0.5}]
    drawing = ElementTree.fromstring(frontier_svg(rows))
    (bar,) = (line for line in drawing.iter("{http://www.w3.org/2000/svg}line") if line.attrib["class"] == "spread")
    (dot,) = drawing.iter("{http://www.w3.org/2000/svg}circle")
    assert float(bar.attrib["y2"]) < float(dot.attrib["cy"]) < float(bar.attrib["y1"])
    assert bar.attrib["x1"] == dot.attrib["cx"]


def test_what_clipping_does_to_a_mean_is_undone() -> None:
    truth, sigma = torch.rand(3, 16, 16), 25 / 255
    mean = Clipping(torch.tensor(sigma))(truth).numpy()
    assert np.abs(unclipped(mean, sigma) - truth.numpy()).max() < 1e-3
    assert np.abs(mean - truth.numpy()).max() > 0.01
    assert np.array_equal(unclipped(np.array([0.0, 1.0]), sigma), [0, 1])  # means that no picture has


def test_a_method_gains_by_it_where_the_picture_is_dark(tmp_path: Path) -> None:
    y, x = np.mgrid[0:32, 0:32]
    dark = np.where((x // 8 + y // 8) % 2 == 0, 0, 40).astype(np.uint8)
    Image.fromarray(dark).save(tmp_path / "dark.png")
    case = make_case(str(tmp_path / "dark.png"), "gaussian:50", 32, 0)
    plain, undone = (METHODS[name](case.problem.target[0].numpy(), 50 / 255) for name in ("nlm", "nlm+clipping"))
    assert psnr(undone, case.clean) > psnr(plain, case.clean) + 1


def test_pictures_are_laid_side_by_side_at_their_own_size(tmp_path: Path) -> None:
    case = make_case("sample:astronaut", "gaussian:25", 32, 0)
    for name, level in (("fast", 0.2), ("a/b: c", 0.4)):
        Gallery(tmp_path / "out").hang(case, name, np.full((3, 32, 32), level, np.float32))
    (file,) = Gallery(tmp_path / "out").lay_out()
    assert file.name == "gaussian-25 sample-astronaut.png"
    names = {path.stem for path in (tmp_path / "out" / file.stem).iterdir()}
    assert names == {"truth", "damaged", "fast", "a-b- c"}
    sheet = np.asarray(Image.open(file))
    assert sheet.shape == (LABEL + 32 + GAP, 4 * (32 + GAP) + GAP, 3)
    places = [sheet[LABEL : LABEL + 32, GAP + i * (32 + GAP) :][:, :32] for i in range(4)]
    assert np.array_equal(places[0], (255 * case.clean).round().astype(np.uint8).transpose(1, 2, 0))
    assert [int(place[0, 0, 0]) for place in places[2:]] == [102, 51]  # by name, behind the truth and the damaged


def test_a_second_run_joins_the_first_and_its_sheet(tmp_path: Path) -> None:
    shared = ["--crop", "32", "--pictures", str(tmp_path / "out"), "--json"]
    saved = ["--save", str(tmp_path / "first.json")]
    first = CliRunner().invoke(app, [*shared, "sample:astronaut", "--contender", "nlm", *saved])
    assert json.loads((tmp_path / "first.json").read_text()) == json.loads(first.stdout)
    again = [*shared, "--with", str(tmp_path / "first.json")]
    second = CliRunner().invoke(app, [*again, "sample:astronaut", "--contender", "nlm+clipping"])
    assert second.exit_code == 0, second.output
    assert [row["contender"] for row in json.loads(second.stdout)["summary"]] == ["nlm+clipping", "nlm"]
    joined = json.loads(CliRunner().invoke(app, again).stdout)  # nothing is run
    assert [row["contender"] for row in joined["summary"]] == ["nlm"] and joined["crop"] == 32
    assert len(list((tmp_path / "out").glob("*/nlm*.png"))) == 2
    table = CliRunner().invoke(app, again[:4] + again[5:]).stdout
    assert "gaussian:25" in table and "nlm" in table


def test_labels_of_a_drawing_are_out_of_each_others_way_and_a_better_step_has_a_ring() -> None:
    rows = summarize(
        [
            row("balanced", "x", 31.0, flops=6e11, peak=31.0),
            row("best", "x", 31.05, flops=7e11, peak=31.0),
            row("other", "x", 25.0, flops=5e13, peak=30.0),
            row("bm3d", "x", 30.9),
            row("bm3d+clipping", "x", 30.9),
        ]
    )
    drawing = ElementTree.fromstring(frontier_svg(rows))
    names = {"balanced", "best", "other", "bm3d", "bm3d+clipping"}
    texts = [node for node in drawing.iter() if node.tag.endswith("text") and node.text in names]
    places = [(float(node.get("x", 0)), float(node.get("y", 0)), len(node.text or "")) for node in texts]
    assert len(places) == 5
    for number, (x, y, letters) in enumerate(places):
        for left, above, others in places[number + 1 :]:
            assert abs(y - above) >= 12 or x >= left + 6 * others or left >= x + 6 * letters
    assert [node.get("class") for node in drawing.iter()].count("ring") == 1
