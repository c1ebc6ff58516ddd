"""The two operations of a fit that have a Triton kernel; the folder is installed as `dipfast.kernels`.

`norm_pad` normalises, activates and pads; `newton_schulz` orthogonalises Muon's matrices, all in one batch. Each has a
module with its contract and its plain twin, which needs only PyTorch, and a module `<name>_triton` with the kernel,
which is imported when the kernel first runs. `fit.kernels: triton` selects the kernels. They have not been measured on
a GPU yet, so `auto` means the plain operations.
"""
