"""Fuzzing with atheris: what reads hostile bytes may raise what it says it raises, and nothing else.

``python bench/fuzz.py manifest|image|generator|record [FOLDER] [-max_total_time=300]``: libFuzzer's options. atheris is
not among the project's requirements: ``pip install atheris``. What it finds belongs into the tests.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["dipfast", "yaml", "tifffile", "PIL"]):
    import imagecodecs
    import numpy as np
    import tifffile
    import torch
    from PIL import Image

    from dipfast import files
    from dipfast.errors import DipfastError, ItemError, UsageError
    from dipfast.files import write_atomic
    from dipfast.generators import Card, build, from_bytes, to_bytes
    from dipfast.image import Limits, probe, read
    from dipfast.manifest import parse
    from dipfast.report import write_report, write_summary
    from dipfast.settings.generator import NoiseInput, SkipGenerator
    from dipfast.store.folder import RunFolder
    from dipfast.store.rows import rows_of

PNG = b"\x89PNG\r\n\x1a\n"
RECORD = """\
{"id": "a", "version": 1, "output": {"sha256": "0", "paths": ["a.png"], "uncertainty": {"path": "u", "sha256": "0"}},
"generator": {"path": "generators/a.safetensors", "sha256": "0", "samples": [{"path": "s", "sha256": "0"}],
"checkpoints": [{"path": "c", "sha256": "0", "step": 1}], "seeds": [{"path": "d", "sha256": "0", "number": 2}]},
"settings": {"task": {"type": "denoise"}, "fit": {"steps": 3}}, "seconds": {"total": 1.5}, "steps": 3,
"event": "failed", "input": {"path": "a.png", "sha256": "0", "width": 3, "height": 4}, "metrics": {"psnr": 1.0},
"losses": [1, 0.5], "path": "a.png", "kind": "x", "reason": "y", "files": {"records/a.json": [1, 2]}}
"""
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
        pairs = zip(loaded.items, again.items, strict=True)
        assert again.items == tuple(replace(item, place=other.place) for item, other in pairs)


def image(data: bytes) -> None:
    """Any bytes as an image."""
    file = Path(FOLDER, "x")
    file.write_bytes(_repaired(data) if data.startswith(PNG) else data)
    for look in (probe, read):
        reason = ""
        try:
            look(file, LIMITS)
        except ItemError as error:
            reason = str(error)
        assert "\n" not in reason, reason


def _repaired(data: bytes) -> bytes:
    """A PNG with right checksums: a fuzzer does not guess them, and libpng should see what it makes."""
    out, at = bytearray(data), 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        out[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big") if end + 4 <= len(data) else b""
        at = end + 4
    return bytes(out)


def generator(data: bytes) -> None:
    """Any bytes as a fitted generator."""
    with suppress(UsageError):
        from_bytes(data)


def record(data: bytes) -> None:
    """Any bytes as the record, the ledger and the list of items of a run, which is then told of."""
    files._sync_folder = lambda folder: None  # a disk's patience is not what is tested
    os.fsync = lambda fd: None
    run = RunFolder(Path(FOLDER, "run"))
    write_atomic(run.root / "items.jsonl", b'{"path": "a.png", "output": "a.png", "id": "a"}\n')
    for name in ("records/a.json", "ledger/cpu-0.jsonl", ".index/run.jsonl", ".index/run.records.jsonl"):
        write_atomic(run.root / name, data)
    rows = rows_of(run)
    write_report(run, rows, write_summary(run, rows))
    write_atomic(run.root / "items.jsonl", data)
    with suppress(DipfastError):
        rows_of(run)


def seeds(folder: Path) -> None:
    """Small whole files of every format and mode, for the fuzzer to start from."""
    for name in TARGETS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "manifest" / "whole").write_text(MANIFEST)
    (folder / "record" / "whole").write_text(RECORD.replace("\n", " "))
    config = SkipGenerator(channels=(4,), input=NoiseInput(depth=2))
    card = Card("a", config, {}, 0, 0, 1, (8, 8), (8, 8), "fp32")
    (folder / "generator" / "whole").write_bytes(to_bytes(build(config, 1, 0), torch.zeros(1), card))
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (9, 11, 4), dtype=np.uint8)
    block = Image.Exif()
    block[0x0112], block[0x010E] = 6, "words"
    for format in ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "TGA", "PPM", "JPEG2000"):
        for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK"):
            with suppress(OSError, ValueError, KeyError):
                out = io.BytesIO()
                Image.fromarray(rgba).convert(mode).save(out, format, exif=block, icc_profile=bytes(140))
                (folder / "image" / f"{format}-{mode}").write_bytes(out.getvalue())
    for name, array in {"gray": rgba[..., 0], "rgb": rgba[..., :3].copy(), "rgba": rgba}.items():
        for container in (False, True):
            data = imagecodecs.jpegxl_encode(array, lossless=True, usecontainer=container)
            (folder / "image" / f"JXL-{name}-{container}").write_bytes(data)
    with suppress(ImportError):
        from pillow_heif import from_pillow

        for mode in ("L", "RGB", "RGBA"):
            out = io.BytesIO()
            from_pillow(Image.fromarray(rgba).convert(mode)).save(out, exif=block.tobytes())
            (folder / "image" / f"HEIF-{mode}").write_bytes(out.getvalue())
    deep: dict[str, np.ndarray] = {"u16": rgba.astype(np.uint16), "f32": rgba[..., 0] / np.float32(255)}
    for name, values in deep.items():
        for compression in (None, "zlib", "lzw"):
            out = io.BytesIO()
            tifffile.imwrite(out, values, compression=compression)
            (folder / "image" / f"TIFF-{name}-{compression}").write_bytes(out.getvalue())


TARGETS = {"manifest": manifest, "image": image, "generator": generator, "record": record}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(__doc__)
    target = sys.argv.pop(1)
    FOLDER = tempfile.mkdtemp(prefix="dipfast-fuzz-")
    given = [one for one in sys.argv[1:] if not one.startswith("-")]
    corpus = Path(given[0] if given else FOLDER, "corpus")
    seeds(corpus)
    options = [one for one in sys.argv[1:] if one.startswith("-")]
    atheris.Setup([sys.argv[0], str(corpus / target), "-max_len=8192", *options], TARGETS[target])
    atheris.Fuzz()
