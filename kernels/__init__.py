"""Tensor operations of the fit step, installed as `dipfast.kernels`.

`reference` is the plain PyTorch of each, `ops` is the face that the rest of dipfast calls.
"""
