"""`dipfast demo`: real photographs, damaged with a seed, as the files and the manifest that a user would have."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dipfast import tasks
from dipfast.errors import UsageError
from dipfast.files import write_atomic
from dipfast.image import encode, read
from dipfast.samples import locate
from dipfast.settings.task import AddGaussian, CompressJpeg, Degradation, Scratch, Shrink

SIDE = 160
EXAMPLES: dict[str, Degradation] = {
    "astronaut": AddGaussian(sigma=25, crop=SIDE),
    "chelsea": CompressJpeg(quality=10, crop=SIDE),
    "rocket": Scratch(crop=SIDE),
    "coffee": Shrink(scale=4, crop=SIDE),
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

    Raises UsageError where another file has one of their names, before anything is written, or where the folder
    cannot be written.
    """
    manifest = folder / "manifest.yaml"
    if manifest.exists():
        raise UsageError(f"DIR {folder}: holds a manifest.yaml already; name another folder or remove it")
    files: dict[Path, bytes] = {}
    for name, damage in EXAMPLES.items():
        files |= {folder / path: data for path, data in _example(name, damage).items()}
    try:
        for path, data in files.items():
            if path.exists() and path.read_bytes() != data:
                raise UsageError(f"DIR {folder}: holds another {path.relative_to(folder)} already; name another folder")
        for path, data in files.items():
            write_atomic(path, data)
        write_atomic(manifest, MANIFEST.format(folder=folder).encode())
    except OSError as error:
        raise UsageError(f"DIR {folder}: cannot be written ({error.strerror or error})") from None
    return manifest


def _example(name: str, damage: Degradation) -> dict[str, bytes]:
    """The files of one example: the damaged picture, the clean one, and where pixels were lost, their mask."""
    sample = read(locate(f"sample:{name}"))
    damaged = tasks.degrade(damage, sample.pixels)
    pictures = {f"{name}.png": damaged.observed, f"clean/{name}.png": damaged.clean}
    if damaged.known is not None:
        pictures[f"{name}_mask.png"] = damaged.known.astype(np.float32)
    return {path: encode(pixels, sample.source, "png") for path, pixels in pictures.items()}
