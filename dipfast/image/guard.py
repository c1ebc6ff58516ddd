"""What stands between a library and the user: exceptions become item errors, warnings and logs end."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from dipfast.errors import DipfastError, ItemError

_WARNINGS = Lock()  # catch_warnings swaps a global; two of ours at once would leave it swapped


@contextmanager
def failing_as(kind: str, what: str, otherwise: str = "") -> Iterator[None]:
    """Turn whatever a library raises over one file into an ItemError: one line that begins with `what`.

    otherwise: what comes before the words of a library, which are seldom for a user.
    """
    try:
        yield
    except ItemError as error:
        raise ItemError(error.kind, f"{what}: {error}") from error
    except DipfastError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise ItemError(kind, f"{what}: {_line(reason)}") from error
    except MemoryError as error:
        raise ItemError(kind, f"{what}: not enough memory for what its header claims") from error
    except Exception as error:  # decoders raise anything: SyntaxError, zlib.error …
        raise ItemError(kind, f"{what}: {otherwise}{_line(str(error) or type(error).__name__)}") from error


@contextmanager
def without_warnings() -> Iterator[None]:
    """Pillow warns of EXIF that it cannot parse, which concerns nobody: dipfast carries the bytes."""
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def without_logs(name: str) -> Iterator[None]:
    """Libraries log what they find odd, as tifffile does; Python prints it where logging is not set up."""

    def drop(record: logging.LogRecord) -> bool:
        return False

    logger = logging.getLogger(name)
    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)


def _line(text: str) -> str:
    return " ".join(text.split())[:200]
