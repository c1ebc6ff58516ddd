"""Rules between sections that are each valid: which degrade, stop, input and optimizer a task may have.

A rule between keys of one section is a validator of that section. What is refused is given as the path of the key at
fault and the text of the error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dipfast.settings.document import Settings
from dipfast.settings.fit import Sgld
from dipfast.settings.generator import ImageInput
from dipfast.settings.shapes import windows_refused
from dipfast.settings.stop import BlocksStop, DiscrepancyStop, HeldOutStop, SureStop
from dipfast.settings.task import Denoise, GaussianNoise, Inpaint, Jpeg, PoissonNoise, Shrink, SuperRes

Refusals = Iterator[tuple[tuple[str, ...], str]]

LEAST_SIGMA = 0.5  # in 8-bit units: a smaller one may be meant as a share of the range
DAMAGE = {
    "denoise": ("gaussian", "poisson", "salt-pepper"),
    "jpeg": ("jpeg",),
    "inpaint": ("missing", "scratches"),
    "superres": ("downsample",),
}


def conflicts(settings: Settings, with_mask: bool) -> Refusals:
    """Yield what is wrong between the sections of ``settings``. ``with_mask=False``: the caller brings the mask."""
    yield from _degrade(settings, with_mask)
    for needs, given in _stop(settings):
        yield ("fit", "stop", "type"), f"fit.stop.type: {settings.fit.stop.type} needs {needs}, is {given}"
    if isinstance(settings.generator.input, ImageInput):
        yield from _image_input(settings, settings.generator.input)
    yield from _coarse(settings)
    if settings.fit.windows is not None and not settings.fit.windows.optional:
        yield from windows_refused(settings.generator, settings.fit)
    if settings.refine is not None and not _knows_its_noise(settings):
        noise = f" with {settings.task.noise.type} noise" if isinstance(settings.task, Denoise) else ""
        yield ("refine",), f"refine: should be null for task {settings.task.type}{noise}, whose noise has no variance"
    if settings.fit.uncertainty and settings.fit.seeds < 2 and settings.refine is None:
        text = f"should be given with 2 seeds or more, or with refine; seeds is {settings.fit.seeds}"
        yield ("fit", "uncertainty"), f"fit.uncertainty: {text}"
    yield from _sigma(settings)
    if settings.output.strength != 1 and isinstance(settings.task, SuperRes):
        text = f"should be 1 for task superres, whose answer has another size, is {settings.output.strength:g}"
        yield ("output", "strength"), f"output.strength: {text}"


def doubts(settings: Settings) -> Iterator[str]:
    """Yield a question about each value that is valid and hardly meant."""
    noise = settings.task.noise if isinstance(settings.task, Denoise) else None
    given = {
        "task.noise.sigma": getattr(noise, "sigma", None),
        "degrade.sigma": getattr(settings.degrade, "sigma", None),
    }
    for key, sigma in given.items():
        if isinstance(sigma, float) and sigma < LEAST_SIGMA:
            yield f"{key} is {sigma:g} of 255, which nobody sees: sigma is in 8-bit units; is {255 * sigma:g} meant?"


def _degrade(settings: Settings, with_mask: bool) -> Refusals:
    """Yield what damage does not suit the task, and what an inpainting lacks or has twice."""
    task, damage = settings.task, settings.degrade
    if damage is not None and damage.type not in DAMAGE[task.type]:
        kinds = either(DAMAGE[task.type])
        yield ("degrade", "type"), f"degrade.type: should be {kinds} for task {task.type}, is {damage.type!r}"
    elif isinstance(damage, Shrink) and isinstance(task, SuperRes) and damage.scale != task.scale:
        yield ("degrade", "scale"), f"degrade.scale: should be the task's {task.scale}, is {damage.scale}"
    if damage is not None and settings.reference is not None:
        yield ("reference",), "reference: should be left out, for with degrade the image itself is the true one"
    if isinstance(task, Inpaint):
        if with_mask and task.mask is None and damage is None:
            yield ("task",), "task.mask: is missing; inpaint needs a mask, or a degrade that makes one"
        if task.mask is not None and damage is not None:
            yield ("task", "mask"), "task.mask: should be left out, for degrade makes the mask"


def _stop(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield what the stop criterion needs of the other sections and lacks: the need, and what is there."""
    task, stop, latent = settings.task, settings.fit.stop, settings.generator.input
    given = f"task {task.type}" + (f" with {task.noise.type} noise" if isinstance(task, Denoise) else "")
    known = _knows_its_noise(settings)
    if isinstance(stop, SureStop) and not known:
        yield "task denoise with gaussian or poisson noise", given
    if isinstance(stop, DiscrepancyStop) and not (known or _has_quality(settings)):
        yield "task denoise with gaussian or poisson noise, or jpeg of some quality", given
    if isinstance(stop, BlocksStop) and not isinstance(task, Jpeg):
        yield "task jpeg", f"task {task.type}"
    if isinstance(stop, HeldOutStop) and isinstance(task, Jpeg):
        yield "a task whose pixels err each for itself", f"task {task.type}"
    if isinstance(stop, HeldOutStop) and isinstance(latent, ImageInput) and latent.blind is None:
        yield "generator.input.type noise, or blind spots", "image, which shows what is held out"
    if isinstance(stop, SureStop):
        if latent.type != "image":
            yield "generator.input.type image", latent.type
        elif latent.noise is not None:
            yield "generator.input.noise null", "a latent of an image and noise"
        if settings.fit.seeds > 1:
            yield "fit.seeds 1", str(settings.fit.seeds)


def _image_input(settings: Settings, latent: ImageInput) -> Refusals:
    """Yield what a network that sees the image, but for blind spots or another quantisation, cannot have."""
    task, at, name = settings.task, ("generator", "input"), "generator.input"
    if latent.noise is not None and (latent.blind is not None or latent.recompress):
        other = "blind" if latent.blind is not None else "recompress"
        yield (*at, "noise"), f"{name}.noise: should be null with {name}.{other}"
    if latent.recompress and not _has_quality(settings):
        given = "with quality null" if isinstance(task, Jpeg) else f"for task {task.type}"
        text = f"{name}.recompress: should be null {given}; it is for task jpeg of some quality"
        yield (*at, "recompress"), text
    if latent.blind is None:
        if latent.recorrupt is not None:
            yield (*at, "recorrupt"), f"{name}.recorrupt: should be null without {name}.blind"
        if latent.reach not in ("auto", None):
            yield (*at, "reach"), f"{name}.reach: should be null without {name}.blind"
        return
    if not isinstance(task, Denoise):
        yield (*at, "blind"), f"{name}.blind: should be null for task {task.type}; it is for task denoise"
    elif latent.recorrupt is not None and not isinstance(task.noise, GaussianNoise):
        text = f"{name}.recorrupt: should be null for {task.noise.type} noise; it is for gaussian noise"
        yield (*at, "recorrupt"), text
    if isinstance(settings.fit.stop, SureStop):
        yield ("fit", "stop", "type"), f"fit.stop.type: sure needs a network that sees all, without {name}.blind"


def _coarse(settings: Settings) -> Refusals:
    """Yield what a fit at smaller sizes first lacks, where it was asked for by a number."""
    if settings.fit.coarse in ("auto", 0):
        return
    latent, text = settings.generator.input, "fit.coarse: should be 0 or auto"
    if not isinstance(latent, ImageInput) or latent.blind is None:
        yield ("fit", "coarse"), f"{text} without generator.input.blind"
    elif isinstance(settings.fit.optimizer, Sgld):
        yield ("fit", "coarse"), f"{text} with optimizer sgld"


def _sigma(settings: Settings) -> Refusals:
    """Yield why preconditioned SGLD cannot have its sigma: the task's noise or a given one, never both."""
    task, chain, path = settings.task, settings.fit.optimizer, ("fit", "optimizer", "sigma")
    if not isinstance(chain, Sgld) or chain.rule != "preconditioned":
        return
    if chain.sigma == "auto" and not _knows_its_noise(settings):
        text = "auto needs task denoise with gaussian or poisson noise; elsewhere it should be given"
        yield path, f"fit.optimizer.sigma: {text}"
    if chain.sigma != "auto" and isinstance(task, Denoise) and not isinstance(task.noise, GaussianNoise):
        yield path, f"fit.optimizer.sigma: should be auto for {task.noise.type} noise"


def _knows_its_noise(settings: Settings) -> bool:
    return isinstance(settings.task, Denoise) and isinstance(settings.task.noise, GaussianNoise | PoissonNoise)


def _has_quality(settings: Settings) -> bool:
    return isinstance(settings.task, Jpeg) and settings.task.quality is not None


def either(words: Iterable[str]) -> str:
    """Return ``a, b or c``."""
    *head, last = list(words)
    return f"{', '.join(head)} or {last}" if head else last
