"""What a fit keeps of its outputs and weights beside the newest: averages, spread, posterior, snapshots of weights.

All of it stays on the device, and takes part in captured steps: nothing here reads a value back while the fit runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dipfast.fit.optimizer import FlatParameters
from dipfast.generators import twin
from dipfast.settings import fit as sections

MEMORY = 0.25  # of an automatic average, as a share of the values so far (LOG.md, 2026-11-23)
SHARED = 5.0  # error that all members have in common, over one member's own (LOG.md, 2026-11-24)
NEIGHBOURHOOD = 7  # side in pixels of the square that a variance between members is averaged over
SNAPSHOT_KEY = "trail."  # of a checkpoint, before the step; the word is that of the first checkpoints


class Buffers:
    """Tensors that the steps of a fit change in place. A subclass names in `state_dict` those that a rollback restores.

    They are never replaced, because a captured step goes on writing to the tensors that it was captured with.
    """

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors themselves, by name."""
        raise NotImplementedError

    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        """Copy the values of ``saved``, as `snapshot` returned them, into the tensors."""
        for name, tensor in self.state_dict().items():
            tensor.copy_(saved[name])

    def snapshot(self) -> dict[str, Tensor]:
        """Return a copy of each tensor, by name."""
        return {name: tensor.clone() for name, tensor in self.state_dict().items()}

    def reset(self, seed: int) -> None:
        """Set the tensors to what they are at the beginning of a fit with ``seed``: zero, unless a subclass draws."""
        for tensor in self.state_dict().values():
            tensor.zero_()


def newest_weight(
    kind: float | str,
    count: Tensor,  # 0-D, values averaged so far
    memory: float = MEMORY,
) -> Tensor:  # 0-D
    """Return the weight of the next value in a running average; the first value has the weight 1.

    A number as ``kind`` is the constant of an exponential moving average (Ulyanov et al., CVPR 2018). `auto` is an
    average over about the newest share ``memory`` of all values, so that it is long in a slow fit and short in a fast
    one (polynomial-decay averaging, Shamir and Zhang, ICML 2013).
    """
    if kind == "auto":
        return 1 / (1 + memory * count)
    return torch.where(count == 0, 1.0, 1.0 - float(kind))


class Spread(Buffers):
    """The running average of each member's outputs, and a copy of them from the step whose picture is returned."""

    def __init__(self, members: int, picture: Tensor) -> None:  # [1, C, H, W]
        self.averages = picture.new_zeros(members, *picture.shape[1:])
        self.kept = torch.zeros_like(self.averages)

    def update(
        self,
        outputs: Sequence[Tensor],  # [1, C, H, W] each
        weight: Tensor | float,  # of these outputs in the averages
        chosen: Tensor,  # 0-D bool, whether this step's picture is the one to return so far
    ) -> None:
        """Add the ``outputs`` of one step to the averages."""
        for average, output in zip(self.averages, outputs, strict=True):
            average.lerp_(output[0], weight)
        torch.where(chosen, self.averages, self.kept, out=self.kept)

    def state_dict(self) -> dict[str, Tensor]:
        return {"averages": self.averages, "kept": self.kept}

    def deviation(self) -> Tensor:  # [1, C, H, W]
        """Return the standard deviation to expect of the error of the members' mean, sqrt(v (SHARED + 1 / K)).

        v is the variance between the K members, averaged over a neighbourhood because a few values tell little about
        it. The part of their error that members have in common does not show in v; it is about `SHARED` times v.
        """
        variance = self.kept.var(0, keepdim=True)
        side = min(NEIGHBOURHOOD, *((side - 1) | 1 for side in variance.shape[2:]))
        smooth = F.avg_pool2d(variance, side, 1, side // 2, count_include_pad=False)
        return (smooth * (SHARED + 1 / len(self.kept))).sqrt()


class Posterior(Buffers):
    """Welford's running mean and variance (Technometrics 1962) of samples: every ``every``-th output after ``burn_in``.

    The chain of weights that gives the outputs is `dipfast.fit.optimizer.sgld_step`. Step s, counted from 0, is a
    sample where s > burn_in and s is a multiple of ``every`` (Cheng et al., CVPR 2019). This is decided on the device,
    so that a captured step can do it. Before the first sample the mean is the last output. The weights of ``keep``
    samples, evenly spread, are kept too.
    """

    def __init__(self, config: sections.Posterior, steps: int, picture: Tensor, values: Tensor) -> None:
        assert config.burn_in is not None  # with sgld it is filled in
        self.config, self.burn_in, self.every = config, config.burn_in, config.every
        self.mean = torch.zeros_like(picture)
        self.squares = torch.zeros_like(picture)  # sum of squared distances from the mean
        self.count = torch.zeros((), dtype=torch.int64, device=picture.device)
        expected, keep = (steps - 1) // self.every - self.burn_in // self.every, config.keep
        marks = [(k + 1) * expected // keep for k in range(keep)]  # the counts at which weights are kept
        self.marks = torch.tensor(marks, dtype=torch.int64, device=picture.device)
        self.weights = values.new_zeros(keep, len(values))

    def update(
        self,
        step: Tensor,  # 0-D int64, from 0
        output: Tensor,  # [1, C, H, W]
        values: Tensor,  # [P], the weights after the step
    ) -> None:
        """Add ``output`` to mean and variance if it is a sample."""
        taken = (step > self.burn_in) & (step % self.every == 0)
        self.count.add_(taken)
        delta = output - self.mean
        weight = torch.where(self.count == 0, 1.0, taken / self.count.clamp_min(1))
        self.mean.lerp_(output, weight)
        self.squares.add_(delta * (output - self.mean) * taken)
        if len(self.marks):
            slot = (self.marks < self.count).sum().clamp_max(len(self.marks) - 1).view(1)
            hit = taken & (self.marks == self.count).any()
            row = torch.where(hit, values, self.weights.index_select(0, slot)[0])
            self.weights.index_copy_(0, slot, row.view(1, -1))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the moments. The kept weights are not restored: they are overwritten when a count is reached again."""
        return {"mean": self.mean, "squares": self.squares, "count": self.count}

    def reset(self, seed: int) -> None:
        super().reset(seed)
        self.weights.zero_()

    def deviation(self) -> Tensor | None:  # [1, C, H, W]
        """Return the standard deviation of the samples; None if it is not asked for or there are fewer than two."""
        count = int(self.count)
        if not self.config.uncertainty or count < 2:
            return None
        return (self.squares / (count - 1)).clamp_min(0).sqrt()

    def kept(self, generator: nn.Module, parameters: FlatParameters) -> tuple[nn.Module, ...]:
        """Return copies of ``generator``, whose weights are in ``parameters``, with the weights of the kept samples."""
        return copies_with(self.weights[self.marks <= self.count], generator, parameters)


class WeightSnapshots:
    """Up to ``keep`` sets of weights along the fit, from which the smoothness of the picture can be chosen afterwards.

    They are the averaged weights at looks of the host, spread about evenly over the logarithm of the step. Where the
    fit will end is not known before, so that each new set takes the place of the one in the densest part. The newest
    is always kept.
    """

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.found: list[tuple[int, Tensor]] = []  # step, weights [P]

    def add(self, step: int, values: Tensor) -> None:
        """Take a copy of ``values`` [P], and drop those of ``step`` and later, which a rollback has undone."""
        if not self.keep:
            return
        self.found = [(s, v) for s, v in self.found if s < step] + [(step, values.clone())]
        if len(self.found) > self.keep:
            del self.found[self._most_crowded()]

    def _most_crowded(self) -> int:
        """Return the index of the set, not the first or last, whose neighbours are nearest in the ratio of steps."""
        steps = [step for step, _ in self.found]
        inner = range(1, len(steps) - 1)
        return min(inner, key=lambda i: math.log(steps[i + 1] / steps[i - 1]), default=0)

    def generators(self, generator: nn.Module, parameters: FlatParameters) -> tuple[tuple[int, nn.Module], ...]:
        """Return the steps, and copies of ``generator``, whose weights are in ``parameters``, with the sets."""
        copies = copies_with((values for _, values in self.found), generator, parameters)
        return tuple(zip((step for step, _ in self.found), copies, strict=True))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the sets, each under the name of its step."""
        return {f"{SNAPSHOT_KEY}{step}": values for step, values in self.found}

    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        """Replace the sets by those of ``saved``, as `state_dict` returned them."""
        steps = sorted(int(name.removeprefix(SNAPSHOT_KEY)) for name in saved)
        self.found = [(step, saved[f"{SNAPSHOT_KEY}{step}"]) for step in steps]


def copies_with(
    weights: Iterable[Tensor],  # [P] each
    generator: nn.Module,
    parameters: FlatParameters,  # of ``generator``
) -> tuple[nn.Module, ...]:
    """Return a copy of ``generator`` with each of the ``weights``. Its own are as before afterwards."""
    now = parameters.values.clone()
    copies = []
    for values in weights:
        parameters.values.copy_(values)
        copies.append(twin(generator))
    parameters.values.copy_(now)
    return tuple(copies)
