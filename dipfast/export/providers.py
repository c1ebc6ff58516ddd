"""A model on onnxruntime, on exactly the execution provider that was asked for: never another in silence."""

from __future__ import annotations

from typing import Any

import numpy as np

from dipfast.errors import MachineError, UsageError
from dipfast.threads import asked_threads, cores

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
# For parity: no TF32, and the kernels that the model's own precision asks for.
OPTIONS: dict[str, dict[str, Any]] = {
    "cpu": {},
    "cuda": {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"},
    "tensorrt": {},
}
INSTALL = {"cpu": "pip install 'dipfast[cpu]'", "cuda": "pip install 'dipfast[gpu]'"}


class Session:
    """One model, ready to run. ``provider`` is what really runs it."""

    def __init__(self, model: bytes, provider: str = "cpu", threads: int | None = None):
        ort = runtime(provider)
        options = ort.SessionOptions()
        options.log_severity_level = 3  # it warns of the latent's default, which is meant
        options.intra_op_num_threads = threads or asked_threads() or cores()
        options.inter_op_num_threads = 1
        if provider != "cpu":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        asked = PROVIDERS[provider]
        try:
            self._session = ort.InferenceSession(model, options, providers=[(asked, OPTIONS[provider])])
        except Exception as error:  # onnxruntime has no common type of its own for them
            raise MachineError(f"onnxruntime cannot run the model on {asked}: {str(error).splitlines()[0]}") from None
        self._session.disable_fallback()
        self.provider: str = self._session.get_providers()[0]
        if self.provider != asked:
            raise MachineError(f"onnxruntime ran {self.provider} where {asked} was asked for")
        self._device = "cpu" if provider == "cpu" else "cuda"
        self._binding = self._session.io_binding()
        self.takes_pictures = bool(self._session.get_inputs())  # and has no default

    def render(self, latent: np.ndarray | None = None) -> np.ndarray:
        """Render ``latent`` [B, D, H, W] float32, or the fitted one, to pictures [B, C, H, W] float32.

        Raises UsageError where the model's latent is baked in, or has another shape, and where a denoiser is given
        no picture.
        """
        if latent is None and self.takes_pictures:
            raise UsageError("the model is a denoiser, which holds no picture: give it one")
        if latent is not None:
            self._check(latent)
            picture: np.ndarray = self._session.run(["image"], {"latent": np.ascontiguousarray(latent, np.float32)})[0]
            return picture
        self._binding.bind_output("image", self._device)  # weights and latent lie on the device already
        self._session.run_with_iobinding(self._binding)
        picture = self._binding.copy_outputs_to_cpu()[0]
        return picture

    def _check(self, latent: np.ndarray) -> None:
        declared = [*self._session.get_inputs(), *self._session.get_overridable_initializers()]
        if not declared:
            raise UsageError("the model's latent is baked in; export it without --bake-latent to give another")
        sides = zip(latent.shape[1:], declared[0].shape[1:], strict=True)
        if any(isinstance(asked, int) and asked != side for side, asked in sides):
            raise UsageError(
                f"latent should be {declared[0].shape}, is {list(latent.shape)}: statistics of one size are folded in, "
                "and `sizes` of `dipfast variants` renders others"
            )


def runtime(provider: str) -> Any:
    """Return the module onnxruntime, where it has ``provider``. Raises UsageError or MachineError."""
    if provider not in PROVIDERS:
        raise UsageError(f"provider should be one of {', '.join(PROVIDERS)}, is {provider!r}")
    hint = INSTALL.get(provider, INSTALL["cuda"])
    try:
        import onnxruntime
    except ImportError:
        raise MachineError(f"onnxruntime is not installed: {hint}") from None
    available = onnxruntime.get_available_providers()
    if PROVIDERS[provider] not in available:
        raise MachineError(f"this onnxruntime has no {PROVIDERS[provider]} (it has {', '.join(available)}): {hint}")
    if provider != "cpu":
        onnxruntime.preload_dlls()  # CUDA and cuDNN as PyTorch or pip brought them, wherever they lie
    return onnxruntime
