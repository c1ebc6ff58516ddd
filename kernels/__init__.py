"""The two operations of a fit that have a Triton kernel, installed as `dipfast.kernels`.

`norm_pad` normalises, activates and pads; `newton_schulz` orthogonalises Muon's matrices, all in one batch. Each is a
contract with its plain twin, which needs PyTorch alone, and a kernel in a file of its own, `<name>_triton`, which is
imported when it first runs. `fit.kernels: triton` asks for them. No GPU has measured them yet, so that `auto` is plain.
"""
