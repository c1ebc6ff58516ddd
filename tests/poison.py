"""A folder of hostile files, made from nothing, and what must become of each in a real run.

``python -m tests.poison DIR`` plants it, runs `dipfast run` over it and prints a line for each file. Not one may hang
the run, fail without a reason of one line, write outside the run's folder, or take another file with it.
"""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from PIL import Image, ImageCms

HEIGHT, WIDTH = 12, 16
PIXELS = np.random.default_rng(7).integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
RGB, RGBA, GRAY = PIXELS[..., :3], PIXELS, PIXELS[..., 0]
NAMES = {
    "spaces": "  two  spaces ",
    "quotes": "a'b\"c`d",
    "percent": "100%20%s%n",
    "dash": "-rf",
    "newline": "one\ntwo",
    "tab and bell": "\t\a",
    "escape": "\x1b[2J\x1b]0;title\a",
    "right to left": "abc\u202egnp",
    "emoji": "👩‍🔬🦠",
    "nfc": "nfc/Å\u00e9",
    "nfd": "nfd/A\u030ae\u0301",
    "invalid utf-8": "caf\udce9\udcff",
    "markup": "<script>alert(1)<",
    "formula": "=cmd|' C'!A1",
    "braces": "{name}{0}{{",
    "star": "[*?]",
    "yaml": "!!python: &a *b #c",
    "backslash": "..\\..\\up",
    "colon": "C:up",
    "dots": "...",
    "255 bytes": "x" * 251,
}


@dataclass(frozen=True)
class Poison:
    """One file: its path from the folder, and how its item must end.

    ``kind``: None where it must be done, else the kind of its failure; ``says``: part of the reason; ``holds``: width,
    height, bit depth, colours and alpha of the picture of one that is done.
    """

    name: str
    kind: str | None = None
    says: str = ""
    holds: tuple[int, int, int, int, bool] = (WIDTH, HEIGHT, 8, 3, False)
    ending: str = "png"

    @property
    def output(self) -> str:
        """The path of its picture in the run's images folder. Bytes that are no UTF-8 are spelled out."""
        stem = self.name.rpartition(".")[0]
        return "".join(f"%{ord(c) - 0xDC00:02X}" if "\udc80" <= c <= "\udcff" else c for c in stem) + "." + self.ending


def plant(folder: Path) -> list[Poison]:
    """Write the whole corpus into ``folder`` and say what must become of it."""
    folder.mkdir(parents=True)
    return [
        poison
        for make in (bombs, cuts, liars, no_files, sizes, unusable, odd_parts, modes, names)
        for poison in make(folder)
    ]


def saved(format: str, array: np.ndarray | Image.Image, **options: object) -> bytes:
    """A file by Pillow."""
    out = io.BytesIO()
    picture = array if isinstance(array, Image.Image) else Image.fromarray(array)
    picture.save(out, format, **options)
    return out.getvalue()


def tiff(array: np.ndarray, **options: object) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, array, **{"photometric": "rgb" if array.ndim == 3 else "minisblack", **options})
    return out.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int = WIDTH, height: int = HEIGHT, rows: bytes | None = None, *extra: bytes) -> bytes:
    """An RGB PNG with any header, any filtered ``rows``, and further chunks before them."""
    rows = b"".join(b"\0" + row.tobytes() for row in RGB) if rows is None else rows
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def patched(data: bytes, at: int, body: bytes) -> bytes:
    return data[:at] + body + data[at + len(body) :]


def retagged(data: bytes, **values: object) -> bytes:
    """A TIFF with other values of tags, by tifffile's names."""
    file = io.BytesIO(data)
    with tifffile.TiffFile(file, mode="r+b") as opened:
        for name, value in values.items():
            opened.pages[0].tags[name].overwrite(value)
        return file.getvalue()


WHOLE: dict[str, bytes] = {
    "png": saved("PNG", RGB),
    "jpg": saved("JPEG", RGB),
    "webp": saved("WEBP", RGB),
    "avif": saved("AVIF", RGB),
    "tif": tiff(RGB, compression="zlib"),
    "jxl": bytes(imagecodecs.jpegxl_encode(RGB, lossless=True)),
    "jp2": bytes(imagecodecs.jpeg2k_encode(RGB, level=0, codecformat="jp2")),
    "bmp": saved("BMP", RGB),
    "gif": saved("GIF", GRAY),
    "tga": saved("TGA", RGB),
    "ppm": saved("PPM", RGB),
}
FOOTER = {"tga": 26}  # bytes at the end that say nothing of the picture


def put(folder: Path, name: str, data: bytes, **expected: object) -> Poison:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return Poison(name, **expected)  # type: ignore[arg-type]


def bombs(folder: Path) -> Iterator[Poison]:
    """Small files that claim, or unpack to, far more than there is."""
    claims = {"kind": "too-large", "says": "max_pixels"}
    yield put(folder, "bomb.png", png(100_000, 100_000, bytes(99)), **claims)
    yield put(folder, "bomb_rows.png", png(9000, 7000, bytes(99)), kind="unreadable")
    at = WHOLE["jpg"].index(b"\xff\xc0") + 5
    yield put(folder, "bomb.jpg", patched(WHOLE["jpg"], at, struct.pack(">HH", 65000, 65000)), **claims)
    yield put(folder, "bomb.tif", retagged(WHOLE["tif"], ImageWidth=60_000, ImageLength=60_000), **claims)
    canvas = struct.pack("<4sI", b"VP8X", 10) + bytes(4) + b"\xff\xff\xfe" * 2
    yield put(folder, "bomb.webp", b"RIFF" + struct.pack("<I", 4 + len(canvas)) + b"WEBP" + canvas, **claims)
    at = WHOLE["avif"].index(b"ispe") + 8
    yield put(folder, "bomb.avif", patched(WHOLE["avif"], at, struct.pack(">II", 60_000, 60_000)), kind="unreadable")
    huge = (3 << 1) | ((2**30 - 1) << 3) | (1 << 33) | (1 << 36)  # a square of 2**30
    yield put(folder, "bomb.jxl", b"\xff\x0a" + huge.to_bytes(8, "little"), **claims)
    at = WHOLE["jp2"].index(b"\xff\x4f\xff\x51") + 8
    sides = struct.pack(">8I", 60_000, 60_000, 0, 0, 60_000, 60_000, 0, 0)
    yield put(folder, "bomb.jp2", patched(WHOLE["jp2"], at, sides), **claims)
    sides = struct.pack(">8I", 5000, 5000, 0, 0, 1, 1, 0, 0)
    yield put(folder, "bomb_tiles.jp2", patched(WHOLE["jp2"], at, sides), kind="unreadable", says="tiles")
    yield put(folder, "bomb.bmp", patched(WHOLE["bmp"], 18, struct.pack("<ii", 1 << 30, 1 << 30)), **claims)
    runs = patched(patched(WHOLE["bmp"], 28, struct.pack("<HI", 8, 1)), 54, b"\0\2\xff\xff" * 9)
    yield put(folder, "bomb_runs.bmp", patched(runs, 18, struct.pack("<ii", 7000, 7000)), kind="unreadable")
    yield put(folder, "bomb.gif", patched(WHOLE["gif"], 6, b"\xff" * 4), **claims)
    at = WHOLE["gif"].rindex(b",", 0, 13 + 768 + 12) + 5
    left_behind = WHOLE["gif"][: at - 5] + b"!\xf9\4\x08\0\0\0\0" + patched(WHOLE["gif"], at, b"\xff" * 4)[at - 5 :]
    yield put(folder, "bomb_frame.gif", left_behind, **claims)
    yield put(folder, "bomb.tga", patched(WHOLE["tga"], 12, b"\xff" * 4), **claims)
    yield put(folder, "bomb.ppm", b"P6 99999 99999 255\n" + bytes(99), **claims)
    yield put(folder, "bomb_text.ppm", b"P3 9 9 255\n" + b"#" * (1 << 16), kind="unreadable")
    zeros = zlib.compress(bytes((1 << 26) + 4096), 9)
    yield put(
        folder,
        "bomb_icc.png",
        png(WIDTH, HEIGHT, None, chunk(b"iCCP", b"p\0\0" + zeros)),
        kind="unreadable",
        says="ICC",
    )
    yield put(folder, "bomb_text.png", png(WIDTH, HEIGHT, None, *[chunk(b"zTXt", b"t\0\0" + zeros)] * 4))
    yield put(folder, "bomb_pixels.png", png(WIDTH, HEIGHT, bytes(1 << 26)))
    yield put(
        folder,
        "bomb_tile.tif",
        retagged(tiff(GRAY, tile=(16, 16)), TileWidth=65520, TileLength=65520),
        kind="unreadable",
    )
    with (folder / "sparse.png").open("wb") as file:
        file.truncate(1 << 40)
    yield Poison("sparse.png", "too-large", "max_bytes")


def cuts(folder: Path) -> Iterator[Poison]:
    for ending, data in WHOLE.items():
        for share in (5, 50, 95):
            part = data[: (len(data) - FOOTER.get(ending, 0)) * share // 100]
            yield put(folder, f"cut_{share}.{ending}", part, kind="unreadable")
    yield put(folder, "empty.png", b"", kind="unreadable", says="empty")


def liars(folder: Path) -> Iterator[Poison]:
    """Names that say what the bytes do not."""
    yield put(folder, "jpeg.png", WHOLE["jpg"])
    yield put(folder, "png.tif", WHOLE["png"])
    yield put(folder, "whole.jxl", WHOLE["jxl"])
    for ending in ("jp2", "bmp", "tga", "ppm"):
        yield put(folder, f"whole.{ending}", WHOLE[ending])
        yield put(folder, f"{ending}.png", WHOLE[ending])
    yield put(folder, "whole.gif", WHOLE["gif"], holds=(WIDTH, HEIGHT, 8, 1, False))
    yield put(folder, "gif.jpg", WHOLE["gif"], holds=(WIDTH, HEIGHT, 8, 1, False))
    for name, data in {
        "text.png": b"this is text\n" * 9,
        "page.png": b"<!doctype html><script>alert(1)</script>",
        "drawing.png": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "archive.png": b"PK\x03\x04" + bytes(99),
        "pickle.png": b"\x80\x04cposix\nsystem\n(S'touch pwned'\ntR.",
        "shell.png": b"#!/bin/sh\ntouch pwned\n",
        "zeros.png": bytes(4096),
    }.items():
        yield put(folder, name, data, kind="unreadable", says="no image")
    for name, data in {
        "layers.psd": b"8BPS\0\1" + bytes(20),
        "paper.pdf": b"%PDF-1.7\n",
    }.items():
        yield put(folder, name + ".png", data, kind="unsupported", says=name.rpartition(".")[2])


def no_files(folder: Path) -> Iterator[Poison]:
    """What has an image's name and is no file. A pipe must not be waited for, and a device never read."""
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "terminal.png").symlink_to("/dev/tty")
    (folder / "pipe_link.png").symlink_to("pipe.png")
    (folder / "loop_a.png").symlink_to("loop_b.png")
    (folder / "loop_b.png").symlink_to("loop_a.png")
    (folder / "dangling.png").symlink_to("nowhere.png")
    (folder / "up").symlink_to("..")
    with socket.socket(socket.AF_UNIX) as here:
        here.bind(os.path.relpath(folder / "socket.png"))
    for name in ("folder", "pipe", "device", "pipe_link", "socket"):
        yield Poison(f"{name}.png", "unreadable", "not a regular file")
    yield Poison("terminal.png", "unreadable")
    for name in ("loop_a", "loop_b", "dangling", "never_there"):
        yield Poison(f"{name}.png", "unreadable")


def sizes(folder: Path) -> Iterator[Poison]:
    for width, height in ((1, 20_000), (20_000, 1)):
        name = f"{width}x{height}.png"
        yield put(
            folder, name, png(width, height, bytes(height * (1 + 3 * width))), kind="too-large", says="max_aspect"
        )
    for width, height in ((1, 1), (1, 7), (200, 1)):
        name, data = f"{width}x{height}.png", png(width, height, bytes(height * (1 + 3 * width)))
        yield put(folder, name, data, holds=(width, height, 8, 3, False))
    for width, height in ((0, 5), (5, 0), (1 << 31, 1)):
        yield put(folder, f"{width}x{height}.png", png(width, height), kind="too-large" if width > 5 else "unreadable")


def unusable(folder: Path) -> Iterator[Poison]:
    """Sound files of a kind that is not restored, and samples that no fit can use."""
    frames = [Image.fromarray(np.roll(RGB, k, 0)) for k in range(3)]
    for format, ending in (("PNG", "png"), ("WEBP", "webp"), ("AVIF", "avif")):
        data = saved(format, frames[0], save_all=True, append_images=frames[1:], duration=50)
        yield put(folder, f"animated.{ending}", data, kind="unsupported")
    yield put(
        folder, "animated.gif", saved("GIF", frames[0], save_all=True, append_images=frames[1:]), kind="unsupported"
    )
    many = io.BytesIO()
    with tifffile.TiffWriter(many) as file:
        for _ in range(300):
            file.write(GRAY, photometric="minisblack", subfiletype=1)
    yield put(folder, "previews.tif", many.getvalue(), kind="unsupported", says="only a preview")
    yield put(
        folder, "pages.tif", tiff(np.stack([GRAY] * 3), photometric="minisblack"), kind="unsupported", says="3 pages"
    )
    yield put(folder, "lab.tif", saved("TIFF", Image.fromarray(RGB).convert("LAB")), kind="unsupported", says="CIELAB")
    yield put(folder, "signed.tif", tiff(GRAY.astype(np.int32)), kind="unsupported", says="signed")
    yield put(folder, "complex.tif", tiff(GRAY.astype(np.complex64)), kind="unsupported")
    for name, value in (("nan", np.nan), ("inf", np.inf), ("minus_inf", -np.inf)):
        array = GRAY.astype(np.float32)
        array[3, 4] = value
        yield put(folder, f"{name}.tif", tiff(array), kind="non-finite")
    yield put(folder, "nans.tif", tiff(np.full((HEIGHT, WIDTH), np.nan, np.float32)), kind="non-finite")


def odd_parts(folder: Path) -> Iterator[Poison]:
    """Broken or bloated parts around the pixels. What does not hold pixels must not cost them."""
    noise = np.random.default_rng(8).bytes(3000)
    yield put(folder, "icc_noise.png", png(WIDTH, HEIGHT, None, chunk(b"iCCP", b"p\0\0" + zlib.compress(noise))))
    yield put(folder, "icc_noise.jpg", saved("JPEG", RGB, icc_profile=noise))
    yield put(folder, "icc_noise.tif", tiff(RGB, iccprofile=noise))
    yield put(folder, "icc_torn.png", png(WIDTH, HEIGHT, None, chunk(b"iCCP", b"p\0\0" + noise)), kind="unreadable")
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lying = patched(srgb, 0, struct.pack(">I", 1 << 31))
    yield put(folder, "icc_lying.jpg", saved("JPEG", RGB, icc_profile=lying))
    loop = b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x8769, 4, 1, 8) + struct.pack("<I", 8)
    for name, block in {"noise": noise, "loop": loop, "lying": b"MM\0*\0\0\0\x08\xff\xff" + noise}.items():
        yield put(folder, f"exif_{name}.png", png(WIDTH, HEIGHT, None, chunk(b"eXIf", block)))
        yield put(folder, f"exif_{name}.jpg", saved("JPEG", RGB, exif=b"Exif\0\0" + block))
    packed = b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes((1 << 26) + 4096), 9)
    yield put(folder, "bomb_xmp.png", png(WIDTH, HEIGHT, None, chunk(b"iTXt", packed)))
    yield put(folder, "xmp_noise.png", png(WIDTH, HEIGHT, None, chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + noise)))
    yield put(folder, "primaries.png", png(WIDTH, HEIGHT, None, chunk(b"cHRM", bytes(32)), chunk(b"gAMA", b"\xff" * 4)))
    at = WHOLE["avif"].index(b"colrnclx") + 8
    yield put(folder, "codes.avif", patched(WHOLE["avif"], at, b"\xff" * 4))
    geo = [(33550, 12, 3, (0.0, np.nan, np.inf), True), (34735, 3, 3, (1025, 0, 1), True), (33922, 2, 3, b"abc", True)]
    yield put(folder, "geo_broken.tif", tiff(RGB, extratags=geo))
    yield put(folder, "no_end.jpg", WHOLE["jpg"][:-2])
    yield put(folder, "no_end_filled.jpg", WHOLE["jpg"][:-2] + bytes(9999))
    yield put(folder, "cut_filled.jpg", WHOLE["jpg"][:-60] + bytes(9999), kind="unreadable", says="last row")
    yield put(folder, "exif_huge.png", png(WIDTH, HEIGHT, None, chunk(b"eXIf", exif_of(1, 1 << 21))))
    yield put(folder, "exif_huge.jpg", saved("JPEG", RGB, exif=b"Exif\0\0" + exif_of(1, 65_000)))
    yield put(folder, "text_huge.png", png(WIDTH, HEIGHT, None, chunk(b"tEXt", b"Comment\0" + b"x" * (1 << 23))))
    at = WHOLE["png"].index(b"IDAT") + 20
    yield put(folder, "checksum.png", patched(WHOLE["png"], at, b"\xaa\x55"), kind="unreadable", says="checksum")
    at = WHOLE["jpg"].index(b"\xff\xc4") + 5
    yield put(folder, "huffman.jpg", patched(WHOLE["jpg"], at, b"\xff" * 16), kind="unreadable")
    looped = tiff(RGB)
    count = struct.unpack_from("<H", looped, 8)[0]
    yield put(folder, "ifd_loop.tif", patched(looped, 10 + 12 * count, struct.pack("<I", 8)))
    yield put(folder, "ifd_tags.tif", patched(looped, 8, b"\xff\xff"), kind="unreadable")
    yield put(folder, "strip_far.tif", retagged(looped, StripOffsets=1 << 31), kind="unreadable", says="strip")


def exif_of(orientation: int, padding: int = 0) -> bytes:
    """An EXIF block of an orientation, with a description of ``padding`` bytes."""
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    entries += struct.pack(
        "<HHII", 0x9286 if padding else 0x0128, 7 if padding else 3, padding or 1, 38 if padding else 2
    )
    return b"II*\0\x08\0\0\0" + struct.pack("<H", 2) + entries + bytes(4) + b"c" * padding


def modes(folder: Path) -> Iterator[Poison]:
    """Every mode and orientation, sound: size, depth, colours and alpha must come back."""
    picture = Image.fromarray(RGBA)
    for mode, colours in (("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("RGBA", 3)):
        holds = (WIDTH, HEIGHT, 8, colours, mode in ("LA", "RGBA"))
        yield put(
            folder,
            f"mode_{mode}.png",
            saved("PNG", picture.convert("RGB" if mode == "P" else mode).convert(mode)),
            holds=holds,
        )
    data = saved("PNG", picture.convert("RGB").convert("P"), transparency=bytes(range(256)))
    yield put(folder, "mode_P_tRNS.png", data, holds=(WIDTH, HEIGHT, 8, 3, True))
    data = saved("PNG", picture.convert("L"), transparency=7)
    yield put(folder, "mode_L_tRNS.png", data, holds=(WIDTH, HEIGHT, 8, 1, True))
    deep = np.random.default_rng(8).integers(0, 65536, (HEIGHT, WIDTH, 3), dtype=np.uint16)
    yield put(folder, "mode_I16.png", saved("PNG", Image.fromarray(deep[..., 0])), holds=(WIDTH, HEIGHT, 16, 1, False))
    yield put(folder, "mode_rgb16.tif", tiff(deep), holds=(WIDTH, HEIGHT, 16, 3, False))
    for ending, format in (("jpg", "JPEG"), ("tif", "TIFF")):
        yield put(folder, f"mode_CMYK.{ending}", saved(format, picture.convert("RGB").convert("CMYK")), ending="png")
    yield put(folder, "mode_YCbCr.tif", saved("TIFF", picture.convert("YCbCr")), kind="unsupported", says="YCBCR")
    yield put(folder, "mode_jpeg.tif", saved("TIFF", picture.convert("RGB"), compression="jpeg"))
    yield put(folder, "mode_1.tif", saved("TIFF", picture.convert("1")), holds=(WIDTH, HEIGHT, 8, 1, False))
    for name, low, high in (("unit", 0, 1), ("wide", -3, 900)):
        array = np.linspace(low, high, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
        yield put(folder, f"mode_F_{name}.tif", tiff(array), holds=(WIDTH, HEIGHT, 32, 1, False), ending="tif")
    for orientation in range(1, 9):
        sides = (WIDTH, HEIGHT) if orientation < 5 else (HEIGHT, WIDTH)
        data = saved("JPEG", np.roll(RGB, orientation, 0), exif=b"Exif\0\0" + exif_of(orientation))
        yield put(folder, f"orientation_{orientation}.jpg", data, holds=(*sides, 8, 3, False))


def names(folder: Path) -> Iterator[Poison]:
    """Sound pictures under names that some program stumbles over."""
    for stem in NAMES.values():
        yield put(folder, f"names/{stem}.png", WHOLE["png"])
    yield put(folder, f"names/{chr(0xDCFF) * 90}.png", WHOLE["png"], kind="unwritable", says="274 bytes long")


def manifest_of(folder: Path, corpus: list[Poison]) -> str:
    """A manifest that names every file, with the smallest of fits."""
    from dipfast.manifest.paths import url

    rows = [
        {"path": url(f"{folder}/{one.name}") if "/" in one.name else one.name, "relpath": one.name.rpartition("/")[0]}
        | ({"output": {"template": "{relpath}/{name}.tif"}} if one.ending == "tif" else {})
        for one in corpus
    ]
    for row, one in zip(rows, corpus, strict=True):
        if [other.output for other in corpus].count(one.output) > 1:
            row["output"] = {"template": "{relpath}/{name}_{ext}.png"}
    head = {
        "task": {"type": "denoise", "noise": {"type": "gaussian", "sigma": 25}},
        "fit": {"steps": 2, "seeds": 1, "precision": "fp32", "stop": {"type": "fixed"}},
        "generator": {"type": "skip", "channels": [4], "skip_channels": 2, "input": {"type": "noise", "depth": 4}},
    }
    return json.dumps({"version": 1, "root": str(folder), "defaults": head, "items": rows}, indent=1)


def run(folder: Path, manifest: Path, *options: str, seconds: float = 600) -> subprocess.CompletedProcess[str]:
    """The real command, in a process of its own, from an empty folder."""
    command = [
        sys.executable,
        "-m",
        "dipfast.cli",
        "run",
        str(manifest),
        "-o",
        str(folder),
        "--progress",
        "none",
        *options,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environment, check=False)


def outcomes(folder: Path, root: Path, corpus: list[Poison]) -> Iterator[tuple[Poison, str, str, list[str]]]:
    """Of each file: what became of it, the reason, and all that is wrong with that."""
    from dipfast.store.folder import RunFolder
    from dipfast.store.rows import rows_of

    rows = rows_of(RunFolder(folder))
    for one, row in zip(corpus, rows, strict=True):
        reason = row.reason or ""
        wrong = []
        if row.path != f"{root}/{one.name}":
            wrong.append(f"is {row.path!r}")
        if (row.kind or row.status) != (one.kind or "done"):
            wrong.append(f"should be {one.kind or 'done'}")
        if one.kind is not None and (
            one.says not in reason or not reason.startswith(row.path) or _lines(reason, row.path) != 1
        ):
            wrong.append(f"should say {one.says!r} in one line, behind its path")
        if row.status == "done" and (held := _held(folder / "images" / row.output)) != one.holds:
            wrong.append(f"holds {held}, should {one.holds}")
        yield one, row.kind or row.status, reason.removeprefix(row.path).lstrip(": "), wrong


def _lines(reason: str, path: str) -> int:
    return len(reason.removeprefix(path).splitlines())


def _held(path: Path) -> tuple[int, int, int, int, bool]:
    from dipfast.image import probe

    header = probe(path)
    return header.width, header.height, header.bit_depth, header.channels, header.alpha


def main(folder: Path) -> int:
    """Plant, run, and tell of each file. 0 where all is as it should be."""
    corpus = plant(folder / "in")
    manifest = folder / "manifest.json.yaml"
    manifest.write_text(manifest_of(folder / "in", corpus))
    before = tree(folder, but="run")
    result = run(folder / "run", manifest)
    amiss = 0
    for one, ended, reason, wrong in outcomes(folder / "run", folder / "in", corpus):
        amiss += bool(wrong)
        print(f"{one.name!a:40.40} {ended:12} {reason:.90}{'  WRONG: ' + '; '.join(wrong) if wrong else ''}")
    kept = tree(folder, but="run") == before
    print(f"{len(corpus)} files, exit code {result.returncode}, {amiss} not as they should be")
    print(f"outside the run's folder {'nothing changed' if kept else 'SOMETHING CHANGED'}")
    return 0 if result.returncode == 3 and not amiss and kept else 1


def tree(folder: Path, but: str) -> dict[str, tuple[int, int]]:
    """Everything below ``folder`` with size and time, links not followed, one entry at its top left out."""
    found = {}
    for here, folders, files in os.walk(folder):
        if Path(here) == folder:
            folders[:] = [name for name in folders if name != but]
        for name in (*folders, *files):
            status = os.lstat(f"{here}/{name}")
            found[f"{here}/{name}"] = (status.st_size, status.st_mtime_ns)
    return found


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute()))
