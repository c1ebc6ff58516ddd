"""From layers of partial settings to one `Settings`: preset ← defaults ← item ← command line.

Mappings merge key by key and lists replace each other. Where two mappings carry a different `type`, the later
one replaces the earlier one whole: an item's `{type: inpaint}` knows nothing of the noise in `defaults`. A
mapping without a `type` has the one of the layer below, else the schema's. This file knows where each layer
comes from, but not where that stands in the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, get_args

from pydantic import ValidationError

from dipfast.manifest.problems import Origin, Problem
from dipfast.manifest.scan import Path
from dipfast.manifest.wording import Finding, either, explain
from dipfast.settings import presets
from dipfast.settings.degrade import Shrink
from dipfast.settings.document import Entry, Preset, Settings
from dipfast.settings.fit import Sgld
from dipfast.settings.generator import ImageInput
from dipfast.settings.own import NOTHING, Own, checked_own, own_of
from dipfast.settings.section import Section, sections
from dipfast.settings.stop import BlocksStop, DiscrepancyStop, HeldOutStop, SureStop
from dipfast.settings.task import Denoise, GaussianNoise, Inpaint, Jpeg, PoissonNoise, SuperRes

Tree = dict[str, Any]

MAX_CACHED = 4096
DAMAGE = {
    "denoise": ("gaussian", "poisson", "salt-pepper"),
    "jpeg": ("jpeg",),
    "inpaint": ("missing", "scratches"),
    "superres": ("downsample",),
}


@dataclass(frozen=True, slots=True)
class Layer:
    """Partial settings and where they come from."""

    tree: Tree
    origin: Origin


class Resolved(NamedTuple):
    """The settings of an item: those that it shares with others, and what it has of its own."""

    shared: Settings
    own: Own = NOTHING


class Resolver:
    """Settings of items that share defaults and command line. Equal overrides are resolved once.

    Rows often differ in nothing but a seed and the names of files, so overrides that differ in no other key count as
    equal, and each row has these values as its own.
    """

    def __init__(self, defaults: Layer, options: Sequence[Layer]) -> None:
        self.defaults = defaults
        self.options = tuple(options)
        self.known: dict[str, tuple[Settings, Own]] = {}  # with a mark for each value that a row decides about
        self.plain: Resolved | None = None  # of a row that is a path alone

    def settings(self, overrides: Tree, origin: Origin) -> Settings | list[Problem]:
        """Return one item's settings, or what is wrong with them."""
        found = self.resolved(overrides, origin)
        return found.own.settings(found.shared) if isinstance(found, Resolved) else found

    def resolved(self, overrides: Tree, origin: Origin) -> Resolved | list[Problem]:
        """Return one item's settings in their two parts, or what is wrong with them."""
        if not overrides:
            if self.plain is None:
                found = self._resolve(overrides, origin)
                if not isinstance(found, Settings):
                    return found
                self.plain = Resolved(found)
            return self.plain
        own = checked_own(overrides)
        blanks = own.blanks()
        shape = blanks.tree(overrides)
        key = repr(shape)
        if key in self.known:
            shared, free = self.known[key]
            return Resolved(shared, own if free == blanks else own.only(free))
        result = self._resolve(shape, origin)
        if not isinstance(result, Settings):
            result = self._resolve(overrides, origin)
            return Resolved(result) if isinstance(result, Settings) else result
        if len(self.known) >= MAX_CACHED:
            self.known.clear()
        free = Own._make(blank if blank == there else None for blank, there in zip(blanks, own_of(result), strict=True))
        shared = own.only(free).settings(result)  # the first such row's: a layer above may have replaced a value
        self.known[key] = shared, free
        return Resolved(shared)

    def _resolve(self, overrides: Tree, origin: Origin) -> Settings | list[Problem]:
        return resolve([self.defaults, Layer(overrides, origin), *self.options])


def resolve(layers: Sequence[Layer], *, with_mask: bool = True) -> Settings | list[Problem]:
    """The settings that ``layers`` make, lowest first. ``with_mask=False``: the caller brings the mask."""
    tree, base = _stack(layers)
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        findings = [_blame_preset(finding, layers, base) for finding in explain(error, Entry)]
    else:
        findings = [Finding(path, text) for path, text in _conflicts(settings, with_mask)]
        if not findings:
            return settings
    return [locate(finding, layers) for finding in findings]


def check_alone(layer: Layer) -> list[Problem]:
    """What is wrong with a layer whatever the others bring."""
    try:
        Settings.model_validate(_stack([layer])[0])
    except ValidationError as error:
        return [locate(finding, [layer]) for finding in explain(error, Entry) if not finding.partial]
    return []


def _stack(layers: Sequence[Layer]) -> tuple[Tree, Tree]:
    """All layers in one tree, and the preset's tree at its bottom."""
    base = _preset(layers)
    tree = base
    for layer in layers:
        tree = with_types(merge(tree, layer.tree), Settings)
    return tree, base


def _preset(layers: Sequence[Layer]) -> Tree:
    """The tree of the preset that ``layers`` name; empty when they name none or their task is no good."""
    task: Tree = {}
    name: Any = "balanced"
    for layer in layers:
        name = layer.tree.get("preset", name)
        if "task" in layer.tree:
            task = with_types(merge(task, {"task": layer.tree["task"]}), Settings)
    try:
        settings = Settings.model_validate(task)
    except ValidationError:
        return {}
    return presets.preset(name, settings.task.model_dump()) if name in get_args(Preset) else {}


def merge(below: Any, above: Any) -> Any:
    """``above`` over ``below``. Neither is changed, and the result may share parts with both."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    if "type" in below and "type" in above and below["type"] != above["type"]:
        return above
    return below | {key: merge(below[key], value) if key in below else value for key, value in above.items()}


def with_types(tree: Tree, model: type[Section]) -> Tree:
    """``tree`` with the schema's `type` in each section that has a choice and names none."""
    out = dict(tree)
    for name, choices, usual in _choices(model):
        inner = out.get(name)
        if not isinstance(inner, dict):
            continue
        if usual is not None and "type" not in inner:
            inner = {"type": usual, **inner}
        kind = inner.get("type") if len(choices) > 1 else next(iter(choices))
        out[name] = with_types(inner, choices[kind]) if isinstance(kind, str) and kind in choices else inner
    return out


@cache
def _choices(model: type[Section]) -> list[tuple[str, dict[str, type[Section]], str | None]]:
    """For each section in ``model``: its name, what it may be, and its usual type where there is a choice."""
    found = [(name, sections(field), field.default) for name, field in model.model_fields.items()]
    return [
        (name, choices, getattr(default, "type", None) if len(choices) > 1 else None)
        for name, choices, default in found
        if choices
    ]


def _conflicts(settings: Settings, with_mask: bool) -> Iterator[tuple[Path, str]]:
    """What is wrong between sections that are each fine."""
    task, damage, stop = settings.task, settings.degrade, settings.fit.stop
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
    for needs, given in _missing(settings):
        yield ("fit", "stop", "type"), f"fit.stop.type: {stop.type} needs {needs}, is {given}"
    if isinstance(settings.generator.input, ImageInput):
        yield from _blind_conflicts(settings, settings.generator.input)
    yield from _coarse_conflicts(settings)
    chain = settings.fit.optimizer
    if isinstance(chain, Sgld) and chain.rule == "preconditioned":
        if chain.sigma == "auto" and not _knows_its_noise(settings):
            text = "auto needs task denoise with gaussian or poisson noise; elsewhere it should be given"
            yield ("fit", "optimizer", "sigma"), f"fit.optimizer.sigma: {text}"
        if chain.sigma != "auto" and isinstance(task, Denoise) and not isinstance(task.noise, GaussianNoise):
            yield ("fit", "optimizer", "sigma"), f"fit.optimizer.sigma: should be auto for {task.noise.type} noise"


def _missing(settings: Settings) -> Iterator[tuple[str, str]]:
    """What the stop criterion needs of the other sections and has not: the need, and what is there."""
    task, stop = settings.task, settings.fit.stop
    noise = f" with {task.noise.type} noise" if isinstance(task, Denoise) else ""
    if isinstance(stop, SureStop) and not _knows_its_noise(settings):
        yield "task denoise with gaussian or poisson noise", f"task {task.type}{noise}"
    coded = isinstance(task, Jpeg) and task.quality is not None
    if isinstance(stop, DiscrepancyStop) and not (coded or _knows_its_noise(settings)):
        yield "task denoise with gaussian or poisson noise, or jpeg of some quality", f"task {task.type}{noise}"
    if isinstance(stop, BlocksStop) and not isinstance(task, Jpeg):
        yield "task jpeg", f"task {task.type}"
    if isinstance(stop, HeldOutStop) and isinstance(task, Jpeg):
        yield "a task whose pixels err each for itself", f"task {task.type}"
    latent = settings.generator.input
    if isinstance(stop, HeldOutStop) and isinstance(latent, ImageInput) and latent.blind is None:
        yield "generator.input.type noise, or blind spots", "image, which shows what is held out"
    if isinstance(stop, SureStop):
        if latent.type != "image":
            yield "generator.input.type image", latent.type
        elif latent.noise is not None:
            yield "generator.input.noise null", "a latent of an image and noise"
        if settings.fit.seeds > 1:
            yield "fit.seeds 1", str(settings.fit.seeds)


def _blind_conflicts(settings: Settings, latent: ImageInput) -> Iterator[tuple[Path, str]]:
    """What a network that is judged where it is blind cannot have."""
    task, name, more = settings.task, "generator.input.blind", "generator.input.recorrupt"
    if latent.noise is not None and (latent.blind is not None or latent.recompress):
        other = name if latent.blind is not None else "generator.input.recompress"
        yield ("generator", "input", "noise"), f"generator.input.noise: should be null with {other}"
    if latent.recompress and (not isinstance(task, Jpeg) or task.quality is None):
        given = "with quality null" if isinstance(task, Jpeg) else f"for task {task.type}"
        text = f"generator.input.recompress: should be null {given}; it is for task jpeg of some quality"
        yield ("generator", "input", "recompress"), text
    for other, value in (("recorrupt", latent.recorrupt), ("reach", None if latent.reach == "auto" else latent.reach)):
        if value is not None and latent.blind is None:
            yield ("generator", "input", other), f"generator.input.{other}: should be null without {name}"
    if latent.blind is None:
        return
    if not isinstance(task, Denoise):
        yield tuple(name.split(".")), f"{name}: should be null for task {task.type}; it is for task denoise"
    elif latent.recorrupt is not None and not isinstance(task.noise, GaussianNoise):
        yield tuple(more.split(".")), f"{more}: should be null for {task.noise.type} noise; it is for gaussian noise"
    if settings.fit.stop.type == "sure":
        yield ("fit", "stop", "type"), f"fit.stop.type: sure needs a network that sees all, without {name}"


def _coarse_conflicts(settings: Settings) -> Iterator[tuple[Path, str]]:
    """What a fit at smaller sizes first needs, where it was asked for by a number."""
    if settings.fit.coarse in ("auto", 0):
        return
    latent, text = settings.generator.input, "fit.coarse: should be 0 or auto"
    if not isinstance(latent, ImageInput) or latent.blind is None:
        yield ("fit", "coarse"), f"{text} without generator.input.blind"
    elif isinstance(settings.fit.optimizer, Sgld):
        yield ("fit", "coarse"), f"{text} with optimizer sgld"


def _knows_its_noise(settings: Settings) -> bool:
    return isinstance(settings.task, Denoise) and isinstance(settings.task.noise, GaussianNoise | PoissonNoise)


def locate(finding: Finding, layers: Sequence[Layer]) -> Problem:
    """Hang a finding onto the topmost layer that holds its key, or what is around it."""
    for length in range(len(finding.path), 0, -1):
        path = finding.path[:length]
        for layer in reversed(layers):
            if _holds(layer.tree, path):
                origin = layer.origin if isinstance(layer.origin, str) else (*layer.origin, *path)
                return Problem(origin, finding.text, finding.on_key and length == len(finding.path))
    return Problem(layers[-1].origin, finding.text)


def _holds(tree: Any, path: Path) -> bool:
    for part in path:
        known = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, (list, tuple)) else ()
        if part not in known:
            return False
        tree = tree[part]
    return True


def _blame_preset(finding: Finding, layers: Sequence[Layer], base: Tree) -> Finding:
    """Say so where a finding speaks of a generator setting that nobody wrote but the preset."""
    for name in base.get("generator", {}):
        written = any(_holds(layer.tree, ("generator", name)) for layer in layers)
        if finding.text.startswith(f"generator: {name} ") and not written:
            return finding._replace(text=f"{finding.text}; {name} comes from the preset")
    return finding
