"""The benches of whole fits, on tiny ones: cases, stop criteria on a trajectory, the frontier."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

import frontier
import stop
from cases import make_case, parse_damage, settings_of
from contenders import parse_contender, watched
from dipfast.errors import UsageError
from dipfast.fit import fit
from dipfast.metrics import psnr
from dipfast.tasks.operators import Clipping, Identity
from frontier import bench_frontier
from methods import METHODS, METHODS_UNCLIPPED, nlm
from plot import frontier_svg
from standings import print_standing
from stop import bench_stop

TINY = ("generator.channels=[8,8]", "fit.precision=fp32")


@pytest.fixture
def file(tmp_path: Any) -> str:
    y, x = np.mgrid[0:48, 0:48] / 47
    pixels = np.stack((x, y, 0.5 + 0.4 * np.sin(9 * x * y)), axis=-1)
    path = tmp_path / "ramp.png"
    Image.fromarray((255 * pixels).round().astype(np.uint8)).save(path)
    return str(path)


@pytest.mark.parametrize("damage", ["gaussian:25", "poisson:30", "jpeg:10", "missing:0.5", "superres:4"])
def test_a_case_is_damaged_alike_for_one_seed(file: str, damage: str) -> None:
    one, again, other = (make_case(file, damage, 32, seed) for seed in (0, 0, 1))
    assert one.clean.shape == (3, 32, 32)
    assert np.array_equal(one.problem.target, again.problem.target)
    assert damage.startswith(("jpeg", "superres")) or not np.array_equal(one.problem.target, other.problem.target)
    assert psnr(one.problem.guide[0].numpy(), one.clean) < 45


@pytest.mark.parametrize(
    "word",
    ["gaussian", "gaussian:loud", "gaussian:-3", "jpeg:nan", "jpeg:500", "superres:0", "superres:inf", "fog:3", ""],
)
def test_a_damage_that_is_none_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="--damage should be like gaussian:25"):
        parse_damage(word)


def test_a_crop_larger_than_the_picture_is_refused(file: str) -> None:
    with pytest.raises(UsageError, match=r"--crop is 64, but .* is 48×48"):
        make_case(file, "gaussian:25", 64, 0)


def test_settings_are_the_presets_with_changes() -> None:
    task = parse_damage("gaussian:25")[1]
    asked = settings_of(task, "paper", ["generator.channels=[16,16]", "fit.steps=7"], seed=3, crop=32)
    config, plan = asked.generator, asked.fit
    assert (config.channels, plan.steps, plan.seed, plan.optimizer.type) == ((16, 16), 7, 3, "adam")
    with pytest.raises(UsageError, match=r"fit\.steps"):
        settings_of(task, "fast", ["fit.steps=-1"], seed=0, crop=32)
    with pytest.raises(UsageError, match="--crop should be a multiple of 32 and at least 64 for this net, is 32"):
        settings_of(task, "paper", [], seed=0, crop=32)


def test_the_papers_problem_knows_nothing_of_clipping(file: str) -> None:
    case = make_case(file, "gaussian:25", 32, 0)
    assert isinstance(case.under("paper", ()).operator, Identity)
    assert isinstance(case.under("fast", ()).operator, Clipping)
    assert isinstance(case.under("fast", ("task.noise.clipped=false",)).operator, Identity)


@pytest.fixture
def odd(tmp_path: Any) -> str:
    """A picture whose sides are no multiples of anything that a network needs, with black and white in it."""
    y, x = np.mgrid[0:67, 0:75]
    pixels = np.stack((255 * (x // 9 % 2), 255 * (y // 9 % 2), 255 * (x + y) // 140), axis=-1)
    path = tmp_path / "odd.png"
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return str(path)


def test_noise_of_papers_is_neither_clipped_nor_rounded(odd: str) -> None:
    clipped, free = (make_case(odd, f"{kind}:50", None, 3) for kind in ("gaussian", "gaussian-unclipped"))
    seen = free.problem.target[0].numpy()
    assert seen.min() < -0.3 and seen.max() > 1.3
    assert np.array_equal(seen, free.damaged.observed) and free.problem.outlying is None
    assert np.array_equal(seen.clip(0, 1), clipped.damaged.observed)
    assert isinstance(free.problem.operator, Identity) and isinstance(clipped.problem.operator, Clipping)
    assert psnr(seen, free.clean) == pytest.approx(20 * np.log10(255 / 50), abs=0.1)
    assert free.digest != make_case(odd, "gaussian-unclipped:50", None, 4).digest


@pytest.mark.parametrize("damage", ["gaussian-unclipped:25", "missing:0.5"])
def test_a_whole_picture_is_padded_by_reflection_for_the_net_alone(odd: str, damage: str) -> None:
    case = make_case(odd, damage, None, 0)
    assert case.clean.shape == (3, 67, 75)
    problem = case.under("fast", ["generator.channels=[8,8,8]", "fit.windows=null", "refine=null"])
    assert problem.shape == (3, 72, 80)
    padded = problem.target[0].numpy()
    assert np.array_equal(case.cut(padded), case.problem.target[0].numpy())
    assert np.array_equal(padded[:, 67:, :75], case.cut(padded)[:, 65:60:-1])


def test_whole_pictures_are_scored_without_their_padding(odd: str, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [f"plain: fast fit.steps=3 fit.windows=null refine=null {' '.join(TINY)}", "fast fit.steps=2 fit.coarse=0"]
    contenders = [parse_contender(text) for text in (*texts, "nlm", "nlm+ridge", "nlm+clipping", "bm3d+clipping")]
    result = bench_frontier(contenders, [odd], ["gaussian-unclipped:25"], whole=True, keep=Path(odd).parent / "kept")
    assert [row["contender"] for row in result["rows"]] == ["plain", texts[1], "nlm", "nlm+ridge"]
    assert result["crop"] is None and result["rows"][0]["before"] == pytest.approx(20.17, abs=0.15)
    sizes = {np.asarray(Image.open(file)).shape for file in (Path(odd).parent / "kept").glob("*/*.png")}
    assert sizes == {(67, 75, 3)}
    print_standing(result, Console(width=200))
    assert "gaussian-unclipped:25, returned pictures of the whole size" in capsys.readouterr().out


def test_whole_pictures_and_crops_exclude_each_other(odd: str) -> None:
    with pytest.raises(UsageError, match="--crop 64 and --whole exclude each other"):
        bench_frontier([parse_contender("nlm")], [odd], crop=64, whole=True)


def test_every_criterion_is_held_against_the_peak_of_one_trajectory(file: str) -> None:
    sets = (*TINY, "fit.average=auto")
    damages = ["gaussian:25", "missing:0.5", "jpeg:10"]
    result = bench_stop([file], damages, crop=32, preset="fast", steps=40, sets=sets)
    first, second, third = result["trajectories"]
    every = {"ema-variance", "windowed-variance", "all steps", "auto"}
    assert set(first["chosen"]) == every | {"discrepancy", "held-out", "sure"}
    assert set(second["chosen"]) == every | {"held-out"}  # nothing is known of the noise
    assert set(third["chosen"]) == every | {"blocks"}  # too small to measure how it was quantised
    for trajectory, taken in ((first, "ema-variance"), (second, "all steps"), (third, "blocks")):
        assert trajectory["chosen"]["auto"] == trajectory["chosen"][taken]
    for trajectory in result["trajectories"]:
        for name, chosen in trajectory["chosen"].items():
            assert 1 <= chosen["step"] <= 40
            if name not in ("held-out", "sure"):
                assert chosen["psnr"] <= trajectory["peak"][0] + 1e-6
        assert trajectory["chosen"]["all steps"]["psnr"] == trajectory["last"]
        assert trajectory["peaks"]["auto"][0] == pytest.approx(trajectory["peak"][0], abs=1e-4)
    row = next(r for r in result["criteria"] if (r["damage"], r["criterion"]) == ("gaussian:25", "all steps"))
    assert row["distance_worst"] == pytest.approx(first["peak"][0] - first["last"])


def test_contenders_are_read() -> None:
    named = parse_contender("slow: paper fit.steps=9 generator.channels=[8,8]")
    assert (named.name, named.preset, named.sets) == ("slow", "paper", ("fit.steps=9", "generator.channels=[8,8]"))
    assert parse_contender("nlm").preset == "nlm"
    for bad in ("quick", "nlm sigma=3", ""):
        with pytest.raises(UsageError, match="--contender should be"):
            parse_contender(bad)


def test_the_frontier_has_a_row_for_every_fit_and_counts_its_operations(file: str) -> None:
    tiny = f"fit.windows=null refine=null {' '.join(TINY)}"
    texts = [f"a: fast fit.steps=4 {tiny}", f"b: fast fit.steps=8 {tiny}", "nlm"]
    contenders = [parse_contender(text) for text in texts]
    result = bench_frontier(contenders, [file], ["gaussian:25", "jpeg:10"], crop=32, weight_seeds=2)
    assert [row["contender"] for row in result["rows"]] == ["a", "a", "b", "b", "nlm", "a", "a", "b", "b"]
    a, b, other = result["summary"][:3]
    assert b["flops"] == 2 * a["flops"] and (a["steps"], b["steps"]) == (4, 8)
    assert a["spread"] is not None and "flops" not in other


def test_the_peak_is_looked_for_behind_the_stop_too(file: str) -> None:
    case = make_case(file, "gaussian:25", 32, 0)
    asked = settings_of(case.task, "fast", [*TINY, "fit.steps=60", "fit.stop={type: discrepancy, factor: 3}"], 0, 32)
    config, plan = asked.generator, asked.fit
    result, peak = watched(case, config, plan, 0.5)
    assert result.steps < 60 and peak["peak_step"] == result.steps + result.steps // 2
    assert peak["peak"] > psnr(result.image[0].numpy(), case.clean)
    assert torch.equal(result.image, fit(case.problem, config, plan).image)


def test_the_frontier_is_drawn_with_costs_as_points_and_methods_as_lines() -> None:
    rows = [{"damage": "jpeg:10", "contender": "a<b", "psnr": 30.2, "flops": 2e11}]
    rows += [{"damage": "jpeg:10", "contender": "paper", "psnr": 31.0, "flops": 2e13}]
    rows += [{"damage": "jpeg:10", "contender": "nlm", "psnr": 29.0}]
    drawing = ElementTree.fromstring(frontier_svg(rows))
    tag = "{http://www.w3.org/2000/svg}"
    better, cheaper = drawing.iter(f"{tag}circle")  # the better first, whose label stays where it is
    assert float(cheaper.attrib["cx"]) < float(better.attrib["cx"])
    assert float(cheaper.attrib["cy"]) > float(better.attrib["cy"])
    assert len([line for line in drawing.iter(f"{tag}line") if line.attrib["class"] == "line"]) == 1
    assert {"a<b", "paper", "nlm"} <= {text.text for text in drawing.iter(f"{tag}text")}


@pytest.mark.parametrize(("damage", "methods"), [("gaussian", METHODS), ("gaussian-unclipped", METHODS_UNCLIPPED)])
def test_ridge_regression_makes_more_of_nlm(odd: str, damage: str, methods: Any) -> None:
    case = make_case(odd, f"{damage}:25", None, 0)
    plain = methods["nlm+clipping" if damage == "gaussian" else "nlm"](case.damaged.observed, 25 / 255)
    found = methods["nlm+ridge"](case.damaged.observed, 25 / 255)
    assert found.shape == case.clean.shape and found.min() >= 0 and found.max() <= 1
    assert psnr(found, case.clean) > psnr(plain, case.clean) + 1


def test_ridge_regression_undoes_clipping_where_there_was_some(tmp_path: Path) -> None:
    y, x = np.mgrid[0:67, 0:75]
    dark = np.where((x // 9 + y // 9) % 2 == 0, 10, 60).astype(np.uint8)
    Image.fromarray(dark).save(tmp_path / "dark.png")
    clipped, free = (
        make_case(str(tmp_path / "dark.png"), f"{kind}:50", None, 0) for kind in ("gaussian", "gaussian-unclipped")
    )
    assert not set(METHODS_UNCLIPPED) & {"nlm+clipping", "bm3d+clipping"}
    for case, right, wrong in ((clipped, METHODS, METHODS_UNCLIPPED), (free, METHODS_UNCLIPPED, METHODS)):
        better, worse = (
            psnr(methods["nlm+ridge"](case.damaged.observed, 50 / 255), case.clean) for methods in (right, wrong)
        )
        assert better > worse


def test_nlm_removes_noise(file: str) -> None:
    case = make_case(file, "gaussian:25", 32, 0)
    observed = case.problem.target[0].numpy()
    gray, truth = observed.mean(0, keepdims=True), case.clean.mean(0, keepdims=True)
    assert psnr(nlm(observed, 25 / 255), case.clean) > psnr(observed, case.clean) + 2
    assert psnr(nlm(gray, 25 / 255 / 3**0.5), truth) > psnr(gray, truth) + 1


@pytest.mark.parametrize(
    "verb", [["stop", "--steps", "3"], ["frontier", "--contender", f"fast fit.steps=2 {' '.join(TINY)}"]]
)
def test_the_verbs_print_json_with_raw_samples(file: str, verb: list[str]) -> None:
    sets = [word for text in TINY for word in ("--set", text)] if verb[0] == "stop" else []
    app = {"stop": stop.app, "frontier": frontier.app}[verb[0]]
    done = CliRunner().invoke(app, [*verb[1:], file, "--crop", "32", *sets, "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["benchmark"] == verb[0] and result["machine"]["torch"]
    assert result["trajectories" if verb[0] == "stop" else "rows"]
