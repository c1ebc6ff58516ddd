"""Colour spaces: descriptions without an ICC profile, the profile or PNG chunk of the same meaning, and conversions.

Descriptions without a profile are code points of ITU-T H.273 (AVIF, HEIF, PNG's cICP, JPX), gamma and chromaticities
(PNG's gAMA and cHRM, TIFF's tags), and EXIF's name for Adobe RGB. Colours without any description are sRGB. The
transfer curves of video (BT.709, BT.601, BT.2020) are taken as sRGB's, as browsers do. PQ and HLG get no profile,
because they leave the brightness of white open; only a PNG's chunk can name them.
"""

import struct
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from dipfast.errors import ItemError

Chromaticities = tuple[float, ...]  # CIE x and y of white, red, green and blue

_D65, _C = (0.3127, 0.3290), (0.310, 0.316)
_PRIMARIES: dict[int, tuple[str, Chromaticities]] = {
    1: ("sRGB", (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)),
    4: ("BT.470 M", (*_C, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08)),
    5: ("BT.470 BG", (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06)),
    6: ("BT.601", (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070)),
    7: ("SMPTE 240M", (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070)),
    8: ("film", (*_C, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049)),
    9: ("BT.2020", (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046)),
    11: ("DCI-P3", (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)),
    12: ("Display P3", (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)),
    22: ("EBU 3213", (*_D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077)),
}
_SRGB_LIKE = (1, 2, 6, 7, 11, 12, 13, 14, 15)  # transfer code points taken as sRGB's; 2 is 'unspecified'
_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0, 17: 2.6}  # by transfer code point
_CURVES = {16: "PQ", 18: "HLG"}  # by transfer code point: curves for light brighter than white
SRGB = _PRIMARIES[1][1]
ADOBE_RGB = (*_D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
ADOBE_GAMMA = 563 / 256
_NEAR = 0.002  # chromaticities that differ by less are the same
_SRGB_GAMMA = 2.2  # the gamma by which files approximate sRGB's curve
_CURVE_POINTS = 1024  # of sRGB's curve in a profile
_DATE = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)  # a fixed date, so that the same space gives the same profile
_SPACES = {"gray": b"GRAY", "rgb": b"RGB ", "cmyk": b"CMYK"}  # names in an ICC profile's header


class Space(NamedTuple):
    """A colour space that is not sRGB."""

    chromaticities: Chromaticities  # empty where they are unknown
    gamma: float | None  # exponent from samples to light; None for sRGB's curve, 0 for a curve that gets no profile
    codes: tuple[int, int] | None  # primaries and transfer by H.273, where the file has those
    name: str  # for messages


def of_codes(primaries: int, transfer: int) -> Space | None:
    """Return the space of two code points of H.273; None for sRGB and for unspecified ones."""
    name, chromaticities = _PRIMARIES.get(primaries, (f"primaries {primaries}", ()))
    if primaries == 2:
        name, chromaticities = _PRIMARIES[1]
    if chromaticities == SRGB and transfer in _SRGB_LIKE:
        return None
    gamma = None if transfer in _SRGB_LIKE else _GAMMAS.get(transfer, 0.0)
    if gamma is not None:
        name += f", {f'gamma {gamma:g}' if gamma else _CURVES.get(transfer, f'curve {transfer}')}"
    return Space(chromaticities, gamma, (primaries, transfer), name)


def of_gamma(chromaticities: Chromaticities | None, gamma: float | None) -> Space | None:
    """Return the space of chromaticities and gamma, each None where unknown; None for sRGB or nearly sRGB."""
    corners = SRGB if chromaticities is None or np.allclose(chromaticities, SRGB, atol=_NEAR) else chromaticities
    if corners == SRGB and (gamma is None or abs(gamma / _SRGB_GAMMA - 1) < 0.02):
        return None
    name = "sRGB's primaries" if corners == SRGB else "primaries of its own"
    return Space(corners, gamma, None, name if gamma is None else f"{name}, gamma {gamma:.3g}")


def matters(space: Space, colours: str) -> bool:
    """Return whether ``colours``, gray or rgb, of the space differ from sRGB's; primaries do not matter to gray."""
    return colours == "rgb" or space.gamma is not None


def profile(space: Space, colours: str) -> bytes | None:
    """Return an ICC profile of the space for ``colours``, gray or rgb; None for PQ, HLG and impossible primaries."""
    if not space.chromaticities or space.gamma == 0 or not matters(space, colours):
        return None
    white, corners = space.chromaticities[:2], space.chromaticities[2:]
    curve = {"transferfunction": _srgb_curve()} if space.gamma is None else {"gamma": space.gamma}
    try:
        made = imagecodecs.cms_profile(colours, whitepoint=white, primaries=corners, **curve)
    except (RuntimeError, ValueError):
        return None
    return bytes(made[:24]) + _DATE + bytes(made[36:])


def png_chunk(space: Space) -> bytes:
    """Return the body of the cICP chunk that names the space; empty without code points."""
    return bytes([*space.codes, 0, 1]) if space.codes and max(space.codes) < 256 else b""


def _srgb_curve() -> np.ndarray:
    """Return sRGB's curve from samples to light (IEC 61966-2-1), [points] uint16."""
    value = np.linspace(0, 1, _CURVE_POINTS)
    light = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return np.rint(light * 65535).astype(np.uint16)


def fits(icc: bytes | None, space: str) -> bool:
    """Return whether the profile's header says that it describes ``space``: gray, rgb or cmyk."""
    return icc is not None and len(icc) > 128 and icc[16:20] == _SPACES[space]


def to_rgb(samples: NDArray[Any], space: str, icc: bytes | None) -> NDArray[Any]:
    """Convert gray [H, W, 1] or cmyk [H, W, 4], uint8 or uint16, to sRGB [H, W, 3] of the same dtype.

    The conversion uses the profile if it is one of that space. Without one, gray is repeated, and CMYK becomes
    (1 - ink) (1 - key). Raises ItemError of kind unsupported for a profile that cannot be used, rather than to guess.
    """
    if fits(icc, space):
        return _through(samples, space, icc or b"")
    if space == "gray":
        return np.repeat(samples, 3, axis=2)
    full = int(np.iinfo(samples.dtype).max)
    light = full - samples.astype(np.uint32)
    mixed = (light[..., :3] * light[..., 3:] + full // 2) // full  # 65535² fits in 32 bits
    return mixed.astype(samples.dtype)


def _through(samples: NDArray[Any], space: str, icc: bytes) -> NDArray[Any]:
    """Convert samples to sRGB by a profile."""
    samples = np.ascontiguousarray(samples[..., 0] if space == "gray" else samples)
    srgb = imagecodecs.cms_profile("srgb")
    try:
        return np.asarray(imagecodecs.cms_transform(samples, icc, srgb, colorspace=space, outcolorspace="rgb"))
    except RuntimeError as error:
        raise ItemError("unsupported", f"the {space} ICC profile cannot be used: {error}") from error
