"""`sample:NAME`: the photographs that scikit-image carries in its own wheel, free and without a download."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from dipfast.errors import UsageError

PREFIX = "sample:"
FILES = {
    "astronaut": "astronaut.png",
    "brick": "brick.png",
    "camera": "camera.png",
    "cell": "cell.png",
    "chelsea": "chelsea.png",
    "coffee": "coffee.png",
    "coins": "coins.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "hubble": "hubble_deep_field.jpg",
    "ihc": "ihc.png",
    "moon": "moon.png",
    "motorcycle": "motorcycle_left.png",
    "page": "page.png",
    "retina": "retina.jpg",
    "rocket": "rocket.jpg",
    "text": "text.png",
}


def locate(path: str) -> str:
    """The file or address behind ``path``: a sample's, or the path itself. Raises UsageError for no sample."""
    if not path.startswith(PREFIX):
        return path
    name = path.removeprefix(PREFIX)
    if name not in FILES:
        raise UsageError(f"path {path}: there is no sample {name!r}; there are {', '.join(FILES)}")
    package = importlib.util.find_spec("skimage")  # found, not imported: scikit-image takes a second to load
    if package is None or package.origin is None:
        raise UsageError(f"path {path}: scikit-image is not installed")
    return str(Path(package.origin).parent / "data" / FILES[name])
