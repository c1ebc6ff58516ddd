"""Every error that dipfast raises on purpose, and the exit code that each one means.

A message is one line for a person: the argument, the rule, the value, and the place.
"""

from __future__ import annotations


class DipfastError(Exception):
    """Base of them all. Raised itself only for what is dipfast's own fault."""

    exit_code = 1


class UsageError(DipfastError):
    """A wrong argument, option or manifest."""

    exit_code = 2


class ManifestError(UsageError):
    """All that is wrong with a manifest, one line each: ``file:line:column: what``."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


class NothingMatchedError(DipfastError):
    """A folder, glob or manifest that names no image."""

    exit_code = 4


class MachineError(DipfastError):
    """This machine cannot do what was asked: a device, an engine or a library is missing."""

    exit_code = 5


class GateError(DipfastError):
    """A gate was missed: parity, --min-psnr, --fail-under."""

    exit_code = 6


class ItemError(DipfastError):
    """One item cannot be done. The others go on.

    ``kind`` is a short stable slug for machines (``unreadable``, ``too-large``, ``non-finite`` …).
    """

    exit_code = 3

    def __init__(self, kind: str, message: str) -> None:
        self.kind = kind
        super().__init__(message)

    def __reduce__(
        self,
    ) -> tuple[type[ItemError], tuple[str, str]]:  # an exception with two arguments does not survive pickling by itself
        return type(self), (self.kind, str(self))
