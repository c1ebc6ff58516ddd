"""The pictures behind a frontier's numbers: one file for each that was returned, and sheets that lay them side by side.

Sheets are at 1:1. They hold what their folder holds, so that runs which name the same folder come onto one sheet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from cases import Case
from dipfast.metrics import psnr

FIRST = ("truth", "damaged")
GAP, LABEL = 8, 34  # pixels between pictures, and above each for two lines


class Gallery:
    """A folder of pictures, a folder in it for each case."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def hang(self, case: Case, name: str, picture: np.ndarray) -> None:
        """``picture`` [C, H, W] in [0, 1] that ``name`` returned, and the case's own two, as PNG files of 8 bits."""
        folder = self.folder / f"{_plain(case.damage)} {_plain(Path(case.name).stem)}"
        folder.mkdir(parents=True, exist_ok=True)
        guide = case.problem.guide[0].numpy()
        for word, pixels in (("truth", case.clean), ("damaged", guide), (name, picture)):
            _image(pixels).save(folder / f"{_plain(word)}.png")

    def lay_out(self) -> Iterator[Path]:
        """One sheet for each case, beside its folder; yields their files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for folder in sorted(path for path in self.folder.iterdir() if path.is_dir()):
            file = self.folder / f"{folder.name}.png"
            sheet(folder).save(file)
            yield file


def sheet(folder: Path) -> Image.Image:
    """The PNG files of ``folder`` in rows of at most six, the truth first, each under its name and its PSNR."""
    files = sorted(folder.glob("*.png"), key=lambda file: (file.stem not in FIRST, file.stem != FIRST[0], file.name))
    pictures = [(file.stem, Image.open(file).convert("RGB")) for file in files]
    width, height = pictures[0][1].size
    columns = min(6, len(pictures))
    rows = -(-len(pictures) // columns)
    canvas = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + LABEL + GAP)), "white")
    draw = ImageDraw.Draw(canvas)
    for i, (name, picture) in enumerate(pictures):
        x, y = GAP + i % columns * (width + GAP), i // columns * (height + LABEL + GAP)
        canvas.paste(picture, (x, y + LABEL))
        score = "" if name == FIRST[0] else f"{psnr(_pixels(picture), _pixels(pictures[0][1])):.2f} dB"
        draw.multiline_text((x, y + 4), f"{name}\n{score}", fill="black")
    return canvas


def _image(pixels: np.ndarray) -> Image.Image:
    levels = (255 * np.clip(pixels, 0, 1)).round().astype(np.uint8)
    return Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0))


def _pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, dtype=np.float32).transpose(2, 0, 1) / 255


def _plain(name: str) -> str:
    """A file's name: what no file system likes is left out."""
    return re.sub(r"[^\w.,+=\[\] -]+", "-", name)
