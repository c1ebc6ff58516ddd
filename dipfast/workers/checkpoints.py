"""The checkpoint of one item's fit, as a file of the run."""

from __future__ import annotations

from contextlib import suppress

import safetensors
import safetensors.torch
from torch import Tensor

from dipfast.store.folder import RunFolder


class Shelf:
    """Where the fit of item ``id`` is kept between processes: a `dipfast.fit.Checkpoint`."""

    def __init__(self, folder: RunFolder, id: str) -> None:
        self.folder, self.path = folder, f"checkpoints/{id}.safetensors"

    def load(self) -> dict[str, Tensor] | None:
        """What another process saved; None where that was nothing that can be read."""
        try:
            return safetensors.torch.load(self.folder.read(self.path))
        except (OSError, safetensors.SafetensorError):
            return None

    def save(self, tensors: dict[str, Tensor]) -> None:
        """Write the file whole or not at all. A disk that cannot take it costs no fit."""
        with suppress(OSError):
            self.folder.put(self.path, safetensors.torch.save(tensors))
