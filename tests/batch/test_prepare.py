"""Items to jobs: ids and settings of items that share most of their settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from dipfast.batch.prepare import SettingsBook, prepare
from dipfast.manifest import content_id, parse


def test_items_with_settings_of_their_own_have_the_ids_and_settings_of_items_alone(tmp_path: Path) -> None:
    for i in range(4):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(tmp_path / f"{i}.png")
    own = [
        "fit: {seed: 7}, output: {template: 'x.tif'}",
        "fit: {seed: 8}",
        "output: {template: 'y.png'}",
        "fit: {seed: 9}",
    ]
    rows = [f"{{path: {i}.png, {text}}}" for i, text in enumerate(own)]
    together = parse(f"version: 1\nitems: [{', '.join(rows)}]", "m.yaml", tmp_path).items
    jobs = prepare(together).jobs
    alone = [prepare(parse(f"version: 1\nitems: [{row}]", "m.yaml", tmp_path).items).jobs[0] for row in rows]
    assert [(job.id, job.settings, job.outputs) for job in jobs] == [
        (job.id, job.settings, job.outputs) for job in alone
    ]
    assert [job.id for job in jobs] == [
        content_id(job.input_sha256, item.settings, output=item.output)
        for job, item in zip(jobs, together, strict=True)
    ]
    book = SettingsBook()
    assert len({book[item].rule_of(item) for item in together}) == 4
    assert len({id(job.shared) for job in jobs}) < 4
