"""Named settings: what `preset: fast | balanced | best | paper` stands for, by task.

Each entry is a partial manifest (`generator` and `fit`; for the paper's denoising the task too); what it leaves out
is the schema's default. `paper` is the notebooks of Ulyanov et al. (CVPR 2018) to the letter; where they used different
settings for different pictures of one task, the picture is named here and the others are in `manifests/paper/`. The
reasons for the other three, with their numbers, are in LOG.md.
"""

from __future__ import annotations

import copy
from typing import Any

Tree = dict[str, Any]

PAPER_NET: Tree = {"type": "skip", "channels": [128] * 5, "skip_channels": 4, "bias": True}
PAPER_FIT: Tree = {
    "optimizer": {"type": "adam", "lr": 0.01},
    "stop": {"type": "fixed"},
    "rollback_db": None,
    "precision": "fp32",
}


def _paper_denoise(task: Tree) -> Tree:
    """Return the settings for F16. The notebook raises the jitter from 1/30 to 1/20 for sigma 50."""
    sigma = task.get("noise", {}).get("sigma", 25)
    jitter = 1 / 20 if isinstance(sigma, (int, float)) and sigma >= 50 else 1 / 30
    fit = {**PAPER_FIT, "steps": 3000, "reg_noise_std": jitter, "average": 0.99, "rollback_db": 5.0}
    found = {"generator": PAPER_NET, "fit": fit}
    if task.get("noise", {}).get("type") == "gaussian":
        found["task"] = {"type": "denoise", "noise": {"type": "gaussian", "clipped": False}}
    return found


def _paper_jpeg(task: Tree) -> Tree:
    """Return the settings for the snail."""
    generator = {
        **PAPER_NET,
        "channels": [8, 16, 32, 64, 128],
        "skip_channels": [0, 0, 0, 4, 4],
        "input": {"type": "noise", "depth": 3},
    }
    fit = {**PAPER_FIT, "steps": 2400, "reg_noise_std": 1 / 30, "average": 0.99, "rollback_db": 5.0}
    return {"generator": generator, "fit": fit, "task": {"type": "jpeg", "quality": None}}


def _paper_inpaint(task: Tree) -> Tree:
    """Return the settings for text over Kate and the peppers."""
    generator = {**PAPER_NET, "skip_channels": 128, "upsample": "nearest"}
    return {"generator": generator, "fit": {**PAPER_FIT, "steps": 6001, "reg_noise_std": 0.03, "average": None}}


def _paper_superres(task: Tree) -> Tree:
    """Return the settings for the zebra: x4, and the stronger jitter and longer fit from x8 on."""
    large = task.get("scale", 4) >= 8
    fit = {**PAPER_FIT, "steps": 4000 if large else 2000, "reg_noise_std": 0.05 if large else 0.03, "average": None}
    return {"generator": PAPER_NET, "fit": fit, "task": {"type": "superres", "keep_given": False}}


PAPER = {
    "denoise": _paper_denoise,
    "jpeg": _paper_jpeg,
    "inpaint": _paper_inpaint,
    "superres": _paper_superres,
}

# The fits with Muon: one narrow net in phases; the presets differ in how many seeds are averaged.
NET: Tree = {"channels": [32] * 5, "skip_channels": 4, "upsample": "nearest"}
MUON: Tree = {"optimizer": {"type": "muon", "lr": 0.01}, "average": "auto"}
SEEDS = {"fast": 1, "balanced": 2, "best": 8}
BLIND_SEEDS = {"fast": 1, "balanced": 4, "best": 8}
STEPS = {"denoise": 200, "jpeg": 300, "inpaint": 300, "superres": 180}  # salt and pepper, pixels as they are
# The net sees the noisy picture, and is judged where it is blind: as far around a value as the noise is shared.
BLIND_INPUT: Tree = {"input": {"type": "image", "blind": 0.1, "reach": "auto"}}
RECORRUPTED_INPUT: Tree = {"input": {**BLIND_INPUT["input"], "recorrupt": 0.7}}  # needs the noise to be Gaussian
# What a codec left is not on the same grid in the picture that the net sees and in the one that it is held against.
RECOMPRESSED_INPUT: Tree = {"input": {"type": "image", "recompress": True}}
# Where no noise is to be kept out, the net sees a rough answer: the small picture enlarged, or small holes filled.
ROUGH_INPUT: Tree = {"input": {"type": "image", "noise": {"depth": 32, "scale": 0.4}}}
ROUGH_FIT: Tree = {"reg_noise_std": 0.13}
BLIND_FIT: Tree = {"steps": 400, "reg_noise_std": 0.0, "optimizer": {"type": "muon", "lr": 0.04}}
# A small denoiser is fitted on windows, first at smaller sizes, and its answer helps to filter the noisy picture.
PILOT_NET: Tree = {"channels": [32] * 2, "skip_channels": 4, "upsample": "nearest"}
PILOT_FIT: Tree = {
    "windows": {"count": 16, "side": 64, "optional": True},
    "optimizer": {"type": "muon", "lr": 0.04},
    "reg_noise_std": 0.0,
    "average": "auto",
    "stop": {"type": "auto"},
}
PILOTS: dict[str, Tree] = {
    "fast": {"steps": 15},
    "balanced": {"steps": 60, "windows": {"count": 32, "side": 64, "optional": True}},
    "best": {"steps": 120, "seeds": 4, "windows": {"count": 64, "side": 64, "optional": True}},
}
REFINE: dict[str, Tree] = {"fast": {"stride": 7}, "balanced": {}, "best": {"neighbours": 64, "window": 37, "stride": 4}}


def preset(name: str, task: Tree) -> Tree:
    """Return the partial settings of preset ``name`` for a task given as a plain mapping with at least its type."""
    kind = task.get("type", "denoise")
    if name == "paper":
        return copy.deepcopy(PAPER[kind](task))
    generator, fit = NET, {"steps": STEPS[kind], "stop": {"type": "auto"}, "seeds": SEEDS[name], **MUON}
    noise = task.get("noise", {}).get("type", "gaussian")
    if kind == "denoise" and noise != "salt-pepper":
        blind = RECORRUPTED_INPUT if noise == "gaussian" else BLIND_INPUT
        generator, fit = PILOT_NET | blind, PILOT_FIT | PILOTS[name]
        return copy.deepcopy({"generator": generator, "fit": fit, "refine": REFINE[name]})
    if kind == "jpeg" and task.get("quality", "auto") is not None:
        generator, fit = NET | RECOMPRESSED_INPUT, fit | BLIND_FIT | {"seeds": BLIND_SEEDS[name]}
    elif kind in ("inpaint", "superres"):
        generator, fit = NET | ROUGH_INPUT, fit | ROUGH_FIT
    return copy.deepcopy({"generator": generator, "fit": fit})
