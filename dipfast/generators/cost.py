"""What an architecture costs by counting: operations, numbers in its tensors, and parameters. Nothing is measured."""

from __future__ import annotations

from collections.abc import Iterator

from dipfast.generators.architecture import Architecture, Level


def forward_flops(architecture: Architecture, pixels: int) -> float:
    """Return the operations (two for each multiply-add) of the convolutions of one forward pass over ``pixels``."""
    return sum(2 * pixels * share * weights for share, weights, _ in _convolutions(architecture))


def tensor_elements(architecture: Architecture, pixels: int) -> tuple[float, float]:
    """Count the numbers in the outputs of all convolutions but the head's, and in all joined tensors, at ``pixels``."""
    *inner, _ = _convolutions(architecture)
    joined = architecture.trunks * sum(level.join.channels / 4**level.halvings for level in architecture.levels)
    return pixels * sum(share * outputs for share, _, outputs in inner), pixels * joined


def parameter_count(architecture: Architecture) -> int:
    """Count what a generator learns: weights, biases, and scale and shift of every normalisation."""
    blocks = [block for level in architecture.levels for block in level.blocks]
    trunk = sum(block.weights + (3 if block.bias else 2) * block.outputs for block in blocks)
    trunk += 2 * sum(level.join.channels for level in architecture.levels)
    return architecture.trunks * trunk + (architecture.head.inputs + 1) * architecture.head.outputs


def activations_per_pixel(architecture: Architecture) -> float:
    """Estimate the numbers that a forward pass keeps for each pixel of the picture, up to a measured factor.

    A level keeps what it joins, what its way up gives, and its branch, at its own size, and its way down at half of
    that. The factor of the hourglass is `dipfast.plan.ACTIVATION_COPIES`.
    """
    return architecture.trunks * sum(_kept(level) / 4**level.halvings for level in architecture.levels)


def _kept(level: Level) -> float:
    down = level.down[-1].outputs if level.down else 0
    return 3 * level.up[-1].outputs + 2 * level.join.kept + down / 2


def _convolutions(architecture: Architecture) -> Iterator[tuple[float, int, int]]:
    """Yield of each convolution its output's share of the picture's pixels, its weights, and its output channels."""
    for level in architecture.trunks * architecture.levels:
        for block in level.blocks:
            phases = _phase_share(level) if level.in_phases and block is level.up[0] else 1
            yield 1 / 4**block.halvings * phases, block.weights, block.outputs
    head = architecture.head
    yield 1.0, head.inputs * head.outputs, head.outputs


def _phase_share(level: Level) -> float:
    """Return the operations of `ops.nearest_conv` over those of the 3x3 convolution that it replaces."""
    coarse, kept = level.join.coarse, level.join.kept
    beside = 16 / 9 if 4 * kept <= coarse else 1
    return (coarse * 4 / 9 + kept * beside) / (coarse + kept)
