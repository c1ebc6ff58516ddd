"""Items to jobs: hash, header, content id and fitted size of every input. One that has not changed is not read again.

What it trusts: an input with the same stat as when `items.jsonl` was written has the same bytes, and with the same
settings (`rule`) and no second file the same id. A worker hashes the input once more before it fits, and where it finds
other bytes, `distrusted` has the next run hash that input again, whatever its stat.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple

from dipfast.errors import ItemError
from dipfast.image import Limits, probe
from dipfast.manifest import Item, Settings
from dipfast.manifest.identity import identified, settings_text
from dipfast.plan import Job, fit_flops, program
from dipfast.restoration.line import padded_sides
from dipfast.settings.own import BLANK, Own
from dipfast.settings.task import Shrink
from dipfast.store.inputs import Facts, hash_of, limits_of, look_at, path_of, stat_at
from dipfast.tasks import scale

Event = dict[str, Any]
FACTS = ("sha256", "stamp", "shape", "limits", "mask", "reference", "rule")  # of an input, in `items.jsonl`
LONGEST = 255  # bytes of a file's name, nearly everywhere
Known = Mapping[str, Any]  # sha256 (empty where it was not hashed), stat and shape of an input, or all of its entry
Seen = Mapping[str, Mapping[str, Any]]  # path → its entry of items.jsonl


@dataclass
class Prepared:
    """The jobs that a manifest comes to, and what failed before it could become one."""

    jobs: list[Job] = field(default_factory=list)
    failed: list[Event] = field(default_factory=list)
    entries: list[Known] = field(default_factory=list)  # for items.jsonl


def prepare(items: Sequence[Item], seen: Seen | None = None) -> Prepared:
    """Read the bytes and the header of every input that ``seen`` does not know. What cannot be read fails alone."""
    prepared = Prepared()
    by_id: dict[str, Job] = {}
    identify = _Identifier(seen or {})
    for item, found in identify.inputs(items):
        entry: Known = {"path": item.path, "output": item.output, "id": None}
        try:
            job, facts = identify(item, found)
            first = by_id.get(job.id)
            if first is not None and _measured_apart(first, job):
                job, facts = identify(item, found, apart=True)
                first = by_id.get(job.id)
        except ItemError as error:
            about = {"id": None, "path": item.path, "kind": error.kind, "reason": str(error)}
            prepared.failed.append({"event": "failed", **about})
        else:
            by_id[job.id] = job if first is None else _merged(first, job)
            entry = _entry(item, job, facts)
        prepared.entries.append(entry)
    prepared.jobs = list(by_id.values())
    return prepared


def _measured_apart(first: Job, job: Job) -> bool:
    """Return whether two jobs of one id have references of their own, and so need a record each."""
    return None not in (first.reference, job.reference) and first.reference != job.reference


def _entry(item: Item, job: Job, facts: Known) -> Known:
    """Return what `items.jsonl` says of an item: what it said, where that is still so."""
    if facts.get("id") == job.id and facts["output"] == item.output:
        return facts
    return {
        "path": item.path,
        "output": item.output,
        "id": job.id,
        **{key: facts[key] for key in FACTS if key in facts},
    }


def distrusted(entries: Sequence[Known], ids: Collection[str]) -> list[Known]:
    """Return ``entries``, in those of ``ids`` without their stat, whose files turned out to be others than it says."""
    return [_without_stat(entry) if entry["id"] in ids else entry for entry in entries]


def _without_stat(entry: Known) -> Known:
    beside = {name: {**entry[name], "stamp": None} for name in ("mask", "reference") if name in entry}
    return {**entry, "stamp": None, **beside}


def _merged(first: Job, job: Job) -> Job:
    measured = job if first.reference is None else first
    both = first.outputs + job.outputs
    return first._replace(outputs=both, reference=measured.reference, reference_sha256=measured.reference_sha256)


def preview(items: Sequence[Item], seen: Seen | None = None) -> tuple[list[tuple[Job, tuple[int, ...]]], list[Event]]:
    """Return the jobs with the shapes of their inputs, from headers alone, and the items that will fail.

    One job for each item; only what ``seen`` knows has an id.
    """
    jobs, failed = [], []
    identify = _Identifier(seen or {}, hashing=False)
    for item, found in identify.inputs(items):
        try:
            job, facts = identify(item, found)
            jobs.append((job, tuple(facts["shape"])))
        except ItemError as error:
            failed.append({"path": item.path, "kind": error.kind, "reason": str(error)})
    return jobs, failed


class Shared(NamedTuple):
    """What items of the same shared settings and ending have in common, computed once."""

    settings: Settings  # holding it keeps its id() its own
    limits: Limits
    limits_name: str  # a short name of the limits on inputs
    text: str  # the settings as they go into an id
    rule: str  # a short name of that
    around_seed: tuple[str, str]  # the text before and after the number of fit.seed

    def text_of(self, item: Item) -> str:
        """Return the item's settings as they go into its id: of its own ones, only the seed does."""
        return self.text if item.own.seed is None else str(item.own.seed).join(self.around_seed)

    def rule_of(self, item: Item) -> str:
        """Return a short name of `text_of`."""
        return self.rule if item.own.seed is None else _short(self.text_of(item))


class SettingsBook:
    """What items share, by item."""

    def __init__(self) -> None:
        self.shared: dict[tuple[int, str], Shared] = {}

    def __getitem__(self, item: Item) -> Shared:
        key = id(item.shared), item.output[-4:]  # no image's ending is longer
        return self.shared.get(key) or self.shared.setdefault(key, _shared(item))


class _Identifier:
    """What makes jobs of items."""

    def __init__(self, seen: Seen, hashing: bool = True) -> None:
        self.seen, self.hashing = seen, hashing
        self.costs: dict[tuple, tuple[tuple[int, int, int], tuple, float]] = {}
        self.book = SettingsBook()

    def inputs(self, items: Sequence[Item]) -> Iterator[tuple[Item, Known | ItemError]]:
        """Return every item with what is known of its input, which is read where that is nothing."""
        known = [self._known(item) for item in items]
        new = [(item.path, self.book[item].limits) for item, facts in zip(items, known, strict=True) if not facts]
        found = look_at(new, self.hashing)
        return ((item, facts or next(found)) for item, facts in zip(items, known, strict=True))

    def _known(self, item: Item) -> Known | None:
        """Return the entry of an input that has not changed since."""
        seen = self.seen.get(item.path)
        if seen is None or seen.get("limits") != self.book[item].limits_name:
            return None
        stat = stat_at(path_of(item.path))
        return seen if stat is not None and seen.get("stamp") == stat else None

    def __call__(self, item: Item, found: Known | ItemError, apart: bool = False) -> tuple[Job, Known]:
        """Return the job, and what `items.jsonl` keeps of its input. ``apart``: from one that differs in its reference.

        Raises ItemError.
        """
        _check_name(item)
        if item.unlisted is not None:
            raise ItemError("unreadable", f"{item.path}: this folder cannot be listed: {item.unlisted}")
        if isinstance(found, ItemError):
            raise found
        shared, facts = self.book[item], found
        alone = item.mask is None and item.reference is None and "mask" not in found and "reference" not in found
        rule = shared.rule_of(item)
        if not alone or found.get("rule") != rule:
            facts = {key: found[key] for key in FACTS[:3]}
            facts |= {"limits": shared.limits_name, "rule": rule, **self._mask(item, shared.limits)}
            facts |= self._reference(item, shared.limits)
        padded, bucket, flops = self._cost(shared.settings, tuple(facts["shape"]))
        job = Job(
            id=self._id(item, facts, apart),
            path=item.path,
            input_sha256=facts["sha256"],
            outputs=(item.output,),
            shared=shared.settings,
            mask=item.mask,
            mask_sha256=facts["mask"]["sha256"] if item.mask is not None else None,
            reference=item.reference,
            reference_sha256=facts["reference"]["sha256"] if "reference" in facts else None,
            padded=padded,
            bucket=bucket,
            flops=flops,
            own=item.own,
            chosen=item.chosen,
        )
        return job, facts

    def _id(self, item: Item, facts: Known, apart: bool) -> str:
        """Return the content id; an empty one where an input was not hashed."""
        if "id" in facts:
            return facts["id"]  # of the same bytes and settings
        extra = {} if item.mask is None else {"mask": facts["mask"]["sha256"]}
        if not (facts["sha256"] and all(extra.values())):
            return ""
        shared = self.book[item]
        if apart and item.reference is not None:
            extra["reference"] = self._checked(item.reference, shared.limits)
        return identified(facts["sha256"], shared.text_of(item), extra)

    def _cost(self, settings: Settings, shape: tuple[int, ...]) -> tuple[tuple[int, int, int], tuple, float]:
        """Return the fitted shape, bucket and operations of pictures of ``shape``, computed once."""
        key = (id(settings), shape)
        if key not in self.costs:
            padded = fitted_shape(settings, shape)
            self.costs[key] = padded, (program(settings), padded), fit_flops(settings, padded)
        return self.costs[key]

    def _mask(self, item: Item, limits: Limits) -> Facts:
        """Return the hash of the item's mask, where it has one. Raises ItemError."""
        return {} if item.mask is None else {"mask": self._beside(item, "mask", item.mask, limits)}

    def _reference(self, item: Item, limits: Limits) -> Facts:
        """Return the hash of the item's reference, where it has one that can be read: what is done needs none."""
        if item.reference is None:
            return {}
        with suppress(ItemError):
            return {"reference": self._beside(item, "reference", item.reference, limits)}
        return {}

    def _beside(self, item: Item, kind: str, path: str, limits: Limits) -> Facts:
        """Return what `items.jsonl` says of the mask or reference of ``item``; read only where it is not known."""
        known: Facts = self.seen.get(item.path, {}).get(kind) or {}
        stat = stat_at(path)
        if stat is None or (known.get("path"), known.get("stamp")) != (path, stat):
            return {"path": path, "sha256": self._checked(path, limits), "stamp": stat}
        return known

    def _checked(self, path: str, limits: Limits) -> str:
        """Return the hash of a mask or reference that is an image within ``limits``: another file may have no end."""
        if not self.hashing:
            return ""
        probe(path, limits)
        return hash_of(path, limits.max_bytes)


def _shared(item: Item) -> Shared:
    text, limits = settings_text(item.shared, item.output), limits_of(item.shared)
    marked = settings_text(Own(seed=BLANK.seed).settings(item.shared), item.output)
    before, after = marked.split(str(BLANK.seed))
    limits_name = sha256(repr(limits).encode()).hexdigest()[:8]
    return Shared(item.shared, limits, limits_name, text, _short(text), (before, after))


def _short(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]


def _check_name(item: Item) -> None:
    """Raise ItemError where no file system takes the output's name, before the fit and for this item alone."""
    if len(item.output) * 4 > LONGEST:
        long = max(len(part.encode()) for part in item.output.split("/"))
        if long > LONGEST:
            raise ItemError(
                "unwritable", f"{item.path}: its output's name is {long} bytes long, should be {LONGEST} at most"
            )


def fitted_shape(settings: Settings, shape: Sequence[int]) -> tuple[int, int, int]:
    """Return the channels, height and width that the generator works at, for a picture whose header says ``shape``."""
    damage = settings.degrade
    crop, shrunk = damage and damage.crop, damage.scale if isinstance(damage, Shrink) else 1
    given = [min(side, crop or side) // shrunk for side in shape[1:]]
    height, width = (side * scale(settings.task) for side in padded_sides(settings, given))
    return shape[0], height, width
