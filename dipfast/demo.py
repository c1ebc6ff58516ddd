"""`dipfast demo`: real photographs, damaged with a seed, as the files and the manifest that a user would have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dipfast import tasks
from dipfast.errors import UsageError
from dipfast.files import write_atomic
from dipfast.image import Image, read, write
from dipfast.samples import locate

SIDE = 160
EXAMPLES: dict[str, dict[str, Any]] = {
    "astronaut": {"type": "gaussian", "sigma": 25},
    "chelsea": {"type": "jpeg", "quality": 10},
    "rocket": {"type": "scratches", "fraction": 0.15},
    "coffee": {"type": "downsample", "scale": 4, "kernel": "lanczos2"},
}
MANIFEST = """\
# Four damaged photographs and how to restore them: dipfast run {folder}/manifest.yaml
version: 1
output: ./restored
defaults:
  preset: fast
items:
  - path: astronaut.png
    task: {{type: denoise, noise: {{type: gaussian, sigma: 25}}}}
    reference: clean/{{name}}.png
  - path: chelsea.png
    task: {{type: jpeg}}
    reference: clean/{{name}}.png
  - path: rocket.png
    task: {{type: inpaint, mask: rocket_mask.png, known: white}}
    reference: clean/{{name}}.png
  - path: coffee.png
    task: {{type: superres, scale: 4}}
    reference: clean/{{name}}.png
"""


def write_demo(folder: Path) -> Path:
    """Write the pictures, a mask, the clean originals and the manifest into ``folder``; its path is returned.

    Raises UsageError where the folder holds a manifest already or cannot be written.
    """
    manifest = folder / "manifest.yaml"
    if manifest.exists():
        raise UsageError(f"DIR {folder}: holds a manifest.yaml already; name another folder or remove it")
    try:
        for name, damage in EXAMPLES.items():
            _write_example(folder, name, {"seed": 0, "crop": SIDE, **damage})
        write_atomic(manifest, MANIFEST.format(folder=folder).encode())
    except OSError as error:
        raise UsageError(f"DIR {folder}: cannot be written ({error.strerror or error})") from None
    return manifest


def _write_example(folder: Path, name: str, damage: dict[str, Any]) -> None:
    sample = read(locate(f"sample:{name}"))
    damaged = tasks.degrade(damage, sample.pixels)
    _write(folder / f"{name}.png", damaged.observed, sample)
    _write(folder / "clean" / f"{name}.png", damaged.clean, sample)
    if damaged.known is not None:
        _write(folder / f"{name}_mask.png", damaged.known.astype(np.float32), sample)


def _write(path: Path, pixels: np.ndarray, sample: Image) -> None:
    write(path, pixels, sample.source)
