"""The plain operations agree with independent formulas."""

from __future__ import annotations

import pytest
import torch

from dipfast import ops


@pytest.mark.parametrize("kernel", ["lanczos2", "lanczos3", "bicubic"])
@pytest.mark.parametrize("scale", [2, 3, 4, 7, 8])
def test_taps_are_symmetric_and_sum_to_one(kernel: str, scale: int) -> None:
    taps = ops.resampling_taps(kernel, scale)
    torch.testing.assert_close(taps, taps.flip(0), rtol=0, atol=1e-14)
    assert float(taps.sum()) == pytest.approx(1, abs=1e-14)


def test_lanczos2_taps_are_the_formula_at_half_pixel_offsets() -> None:
    t = (torch.arange(8, dtype=torch.float64) - 3.5) / 2
    window = torch.sinc(t) * torch.sinc(t / 2)
    torch.testing.assert_close(ops.resampling_taps("lanczos2", 2), window / window.sum())


@pytest.mark.parametrize("shape", [(3, 8, 20), (2, 20, 8), (4, 9, 9)])
def test_newton_schulz_brings_singular_values_near_one(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = torch.linalg.svdvals(ops.newton_schulz(matrices, 10))
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.3


def test_newton_schulz_keeps_the_singular_vectors() -> None:
    matrix = torch.randn(1, 5, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    turned = u.mT @ ops.newton_schulz(matrix, 5) @ vh.mT
    off_diagonal = turned - torch.diag_embed(torch.diagonal(turned, dim1=-2, dim2=-1))
    assert float(off_diagonal.abs().max()) < 1e-10


def test_batch_norm_uses_the_biased_statistics_of_the_image() -> None:
    x = torch.randn(1, 3, 5, 7, dtype=torch.float64)
    weight, bias = torch.randn(3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = x.var((0, 2, 3), unbiased=False, keepdim=True)
    expected = (x - mean) / (variance + 1e-5).sqrt() * weight.view(1, 3, 1, 1) + bias.view(1, 3, 1, 1)
    torch.testing.assert_close(ops.batch_norm(x, weight, bias), expected)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_upsampling_keeps_a_constant(mode: str) -> None:
    x = torch.full((1, 2, 3, 5), 0.7)
    torch.testing.assert_close(ops.upsample2x(x, mode), torch.full((1, 2, 6, 10), 0.7))


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("shape", [(1, 2, 1, 1), (1, 3, 1, 5), (1, 1, 4, 3)])
def test_the_gradient_of_upsampling_is_its_adjoint(mode: str, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: ops.upsample2x(x, mode), x)


@pytest.mark.parametrize("amount", [1, 2, 3])
@pytest.mark.parametrize(
    ("mode", "name"), [("reflection", "reflect"), ("replication", "replicate"), ("zero", "constant")]
)
def test_padding_and_its_gradient_are_pytorchs(
    mode: str, name: str, amount: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    monkeypatch.setattr("dipfast.ops.NATIVE_PIXELS", 0)
    padded, expected = ops.pad(x, amount, mode), torch.nn.functional.pad(x, (amount,) * 4, mode=name)
    assert torch.equal(padded, expected)
    grad = torch.randn_like(expected)
    for ours, theirs in zip(*(torch.autograd.grad(y, x, grad) for y in (padded, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)


def plain_nearest_conv(
    x: torch.Tensor, kept: torch.Tensor | None, weight: torch.Tensor, gain: torch.Tensor, mode: str
) -> torch.Tensor:
    up = ops.upsample2x(x, "nearest")
    joined = up if kept is None else torch.cat((kept, up), dim=1)
    normalised = ops.batch_norm(joined, gain, torch.zeros_like(gain))
    return torch.nn.functional.conv2d(ops.pad(normalised, 1, mode), weight)


def centred(x: torch.Tensor) -> torch.Tensor:
    return x - x.mean((0, 2, 3), keepdim=True)


@pytest.mark.parametrize("mode", ["reflection", "replication"])
@pytest.mark.parametrize("skips", [0, 1, 3, 7])
def test_nearest_conv_is_upsampling_joining_normalising_and_convolving(mode: str, skips: int) -> None:
    rng = torch.Generator().manual_seed(skips)
    x, kept, weight, gain = (
        torch.randn(shape, dtype=torch.float64, generator=rng, requires_grad=True)
        for shape in ((1, 6, 3, 5), (1, skips, 6, 10), (4, 6 + skips, 3, 3), (6 + skips,))
    )
    inputs = (x, kept, weight, gain) if skips else (x, weight, gain)
    ours = ops.interleave(
        ops.nearest_conv(x, kept if skips else None, weight, gain, mode, ops.phase_taps().double(), x.dtype)
    )
    theirs = plain_nearest_conv(x, kept if skips else None, weight, gain, mode)
    torch.testing.assert_close(centred(ours), centred(theirs), rtol=0, atol=1e-12)
    score = torch.randn(theirs.shape, dtype=torch.float64, generator=rng)
    for mine, other in zip(
        *(torch.autograd.grad((centred(y) * score).sum(), inputs) for y in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["leaky_relu", "relu", "elu", "swish", "none"])
def test_activations_keep_zero_and_large_values(name: str) -> None:
    x = torch.tensor([0.0, 50.0])
    torch.testing.assert_close(ops.activate(x, name), x)
