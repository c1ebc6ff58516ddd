"""Fuzzing with atheris: the manifest loader and the image reader may raise what they say they raise, and nothing else.

``python bench/fuzz.py manifest|image [FOLDER] [-max_total_time=300]``: libFuzzer's options, on files in memory. atheris
is not among the project's requirements: ``pip install atheris``. What it finds belongs into the tests.
"""

from __future__ import annotations

import io
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["dipfast", "yaml", "tifffile", "PIL"]):
    import numpy as np
    import tifffile
    from PIL import Image

    from dipfast.errors import DipfastError, ItemError
    from dipfast.image import Limits, probe, read
    from dipfast.manifest import parse

LIMITS = Limits(max_pixels=1 << 20, max_bytes=1 << 20)
MANIFEST = """\
version: 1
root: .
output: out
defaults:
  task: {type: denoise, noise: {type: gaussian, sigma: 25}}
  fit: {steps: 3000, optimizer: {type: adam, lr: 1e-2}, seed: 0, stop: {type: ema-variance}}
  generator: {type: skip, channels: [8, 8], input: {type: noise, depth: 32}}
  input: {max_pixels: 64M, formats: [png, jpeg]}
  output: {template: "{relpath}/{name}.png", bit_depth: source}
items:
  - "a.png"
  - &x {path: dog.png, task: {type: inpaint, mask: "{name}_mask.png"}}
  - {path: lr.png, task: {type: superres, scale: 4}, reference: "hr/{stem}.png", relpath: q}
  - *x
export: {formats: [onnx]}
"""


def manifest(data: bytes) -> None:
    """Any bytes as a manifest, and a manifest that holds back as the same one."""
    with suppress(DipfastError):
        loaded = parse(data, "fuzz.yaml", FOLDER)
        again = parse(loaded.resolved(), "again.yaml", FOLDER)
        assert again.items == tuple(
            loaded.items[i].__class__(**_placed(loaded, again, i)) for i in range(len(loaded.items))
        )


def _placed(loaded: object, again: object, i: int) -> dict[str, object]:
    """An item with the place that it has in the other manifest."""
    item = loaded.items[i]  # type: ignore[attr-defined]
    names = type(item).__dataclass_fields__
    return {name: getattr(item, name) for name in names} | {"place": again.items[i].place}  # type: ignore[attr-defined]


def image(data: bytes) -> None:
    """Any bytes as an image."""
    file = Path(FOLDER, "x")
    file.write_bytes(data)
    for look in (probe, read):
        try:
            look(file, LIMITS)
        except ItemError as error:
            assert "\n" not in str(error), str(error)


def seeds(folder: Path) -> None:
    """Small whole files of every format and mode, for the fuzzer to start from."""
    (folder / "manifest").mkdir(parents=True, exist_ok=True)
    (folder / "image").mkdir(exist_ok=True)
    (folder / "manifest" / "whole").write_text(MANIFEST)
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (9, 11, 4), dtype=np.uint8)
    block = Image.Exif()
    block[0x0112], block[0x010E] = 6, "words"
    for format in ("PNG", "JPEG", "WEBP", "AVIF", "TIFF"):
        for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK"):
            with suppress(OSError, ValueError, KeyError):
                out = io.BytesIO()
                Image.fromarray(rgba).convert(mode).save(out, format, exif=block, icc_profile=bytes(140))
                (folder / "image" / f"{format}-{mode}").write_bytes(out.getvalue())
    for name, array in {"u16": rgba.astype(np.uint16), "f32": rgba[..., 0] / np.float32(255)}.items():
        for compression in (None, "zlib", "lzw"):
            out = io.BytesIO()
            tifffile.imwrite(out, array, compression=compression)
            (folder / "image" / f"TIFF-{name}-{compression}").write_bytes(out.getvalue())


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in ("manifest", "image"):
        sys.exit(__doc__)
    target = sys.argv.pop(1)
    FOLDER = tempfile.mkdtemp(prefix="dipfast-fuzz-")
    given = [one for one in sys.argv[1:] if not one.startswith("-")]
    corpus = Path(given[0] if given else FOLDER, "corpus")
    seeds(corpus)
    options = [one for one in sys.argv[1:] if one.startswith("-")]
    atheris.Setup(
        [sys.argv[0], str(corpus / target), "-max_len=8192", *options], {"manifest": manifest, "image": image}[target]
    )
    atheris.Fuzz()
