"""How much of the change to a picture is applied: all of it, none, or a share; and the error to expect then."""

from __future__ import annotations

import numpy as np
import torch

from dipfast.tasks.problem import NoiseModel, Problem


def with_strength(
    observed: np.ndarray, answer: np.ndarray, strength: float, known: np.ndarray | None = None
) -> np.ndarray:  # [C, H, W], [C, H, W], [1, H, W] bool -> [C, H, W]
    """Return ``observed + strength * (answer - observed)``, and the answer where a pixel is not ``known``.

    Strength 1 gives the bits of the answer, and strength 0 those of the observed picture.
    """
    if strength == 1:
        return answer
    mixed = observed if strength == 0 else observed + np.float32(strength) * (answer - observed)
    return mixed if known is None else np.where(known, mixed, answer)


def deviation_with_strength(
    deviation: np.ndarray,  # [C, H, W], of the answer
    answer: np.ndarray,  # [C, H, W]
    mixed: np.ndarray,  # [C, H, W], the answer in part, of `with_strength`
    strength: float,
    variance: np.ndarray | None,  # [C, H, W], of the observed picture's noise; None where it is not known
) -> np.ndarray:  # [C, H, W]
    """Return the deviation to expect of the error of ``mixed``; where it equals the answer, that of the answer.

    The answer z is the best guess at the picture x from the observed one y, so its error is not correlated with y, and
    any other picture p made of both has an expected squared error of e + (p - z)^2, where e is that of the answer. With
    p = y + a (z - y), the last term is (1 - a)^2 (z - y)^2. As y = x + noise of variance sigma^2, it is expected to be
    (1 - a)^2 (sigma^2 - e), which is taken where sigma is known. The error of strength 0 is then the noise.
    """
    if strength == 1:
        return deviation
    error, apart = np.square(deviation), np.square(mixed - answer)
    if variance is not None:
        apart = np.where(apart > 0, np.float32(1 - strength) ** 2 * np.maximum(variance - error, 0), 0)
    found: np.ndarray = np.sqrt(error + apart)
    return found


def noise_variance(problem: Problem, answer: np.ndarray) -> np.ndarray | None:  # [C, H, W] -> the same
    """Return the expected (y - x)^2 of the observed picture y in the full range, at x = ``answer``.

    None where the noise is not known: of other tasks, beside impulses, and where a measured noise is not white, for
    then its deviation says little.
    """
    noise, bound, range = problem.expected_residual, problem.bound, problem.range
    if not isinstance(noise, NoiseModel) or "impulses" in problem.facts or not (bound is None or bound.is_white):
        return None
    x = range.of_full(torch.from_numpy(answer)[None])
    squares = noise.deviation(x).square() + (noise.expected(x) - x).square()
    found: np.ndarray = (squares * range.width.square())[0].numpy()
    return found
