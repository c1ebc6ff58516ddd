"""What a file says of its colours without an ICC profile, and an ICC profile or a PNG's chunk that says the same.

Such descriptions are code points of ITU-T H.273 (AVIF, HEIF, PNG's cICP, JPX), gamma and chromaticities (PNG's gAMA and
cHRM, TIFF's tags), and EXIF's name for Adobe RGB. sRGB needs none: it is what is meant where nothing is said. The
curves of video (BT.709, BT.601, BT.2020) are taken for sRGB's, as browsers do. Does not know what the brightness of PQ
and HLG would be in a profile: only a PNG's chunk names them.
"""

import struct
from typing import NamedTuple

import imagecodecs
import numpy as np

Chromaticities = tuple[float, ...]  # x and y of white, red, green and blue

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
_SRGB_LIKE = (1, 2, 6, 7, 11, 12, 13, 14, 15)  # transfers; 2 is 'not said'
_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0, 17: 2.6}
_CURVES = {16: "PQ", 18: "HLG"}  # for light brighter than white
SRGB = _PRIMARIES[1][1]
ADOBE_RGB = (*_D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
ADOBE_GAMMA = 563 / 256
_NEAR = 0.002  # chromaticities that close are the same
_SRGB_GAMMA = 2.2  # what sRGB's curve is called where it must be called a gamma
_STEPS = 1024  # of a curve in a profile
_DATE = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)  # the same input gives the same profile


class Space(NamedTuple):
    """Colours that are not sRGB.

    gamma: the exponent that turns samples to light; None for sRGB's curve, 0 for one that no profile here has. codes:
    primaries and transfer by H.273, where that is how the file said it. name: for people.
    """

    chromaticities: Chromaticities
    gamma: float | None
    codes: tuple[int, int] | None
    name: str


def of_codes(primaries: int, transfer: int) -> Space | None:
    """The space of two code points of H.273; None for sRGB, and where nothing is said."""
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
    """The space of a gamma and chromaticities, where they are said; None for sRGB or nearly sRGB."""
    corners = SRGB if chromaticities is None or np.allclose(chromaticities, SRGB, atol=_NEAR) else chromaticities
    if corners == SRGB and (gamma is None or abs(gamma / _SRGB_GAMMA - 1) < 0.02):
        return None
    name = "sRGB's primaries" if corners == SRGB else "primaries of its own"
    return Space(corners, gamma, None, name if gamma is None else f"{name}, gamma {gamma:.3g}")


def matters(space: Space, colours: str) -> bool:
    """Whether gray or rgb of a space is other than sRGB's: gray has no primaries."""
    return colours == "rgb" or space.gamma is not None


def profile(space: Space, colours: str) -> bytes | None:
    """The ICC profile of a space, for gray or rgb; None where there is none, as for PQ, HLG and impossible corners."""
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
    """The body of the cICP chunk that names a space; empty where no code points do."""
    return bytes([*space.codes, 0, 1]) if space.codes and max(space.codes) < 256 else b""


def _srgb_curve() -> np.ndarray:
    value = np.linspace(0, 1, _STEPS)
    light = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return np.rint(light * 65535).astype(np.uint16)
