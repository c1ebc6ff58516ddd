"""A million images and a run in which all are done, to measure what planning, resuming and looking cost.

    python bench/million.py inputs DIR [--count N]   N tiny PNG files in folders of a thousand, and manifest.yaml;
                                                     with --own-settings each row has a seed and a name of its own
    python bench/million.py done DIR [--count N]     DIR/run: each item's record, picture and generator
    python bench/million.py time DIR                 plan, resume (twice) and status of these: wall, processor, memory

The pictures are real PNG files of twelve sizes, each with bytes of its own. The records of the done run are that of a
real fit with the item's own names; its pictures and generators are links to files of a few bytes. Its list and the
lines of its index are the run's own code's.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from struct import pack
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dipfast.store.folder import RunFolder

FOLDER = 1000  # files in each
WRITERS = 4
LINKS = 30_000  # items whose pictures and generators are links to one file
CONTENT = b"as good as a picture or a generator"
DIGEST = sha256(CONTENT).hexdigest()
SIDES = (8, 9, 10, 12, 14, 16, 18, 20, 24, 28, 32, 40)
MANIFEST = """\
version: 1
root: in
defaults: {task: {type: denoise, noise: {type: gaussian, sigma: 25}}, preset: fast}
items:
"""


def name_of(number: int) -> str:
    return f"{number // FOLDER:04d}/scan{number % FOLDER:03d}.png"


def png(number: int) -> bytes:
    """A gray PNG whose first bytes of pixels spell ``number``."""
    side = SIDES[number % len(SIDES)]
    rows = bytearray((side + 1) * side)
    rows[1:9] = pack(">Q", number)
    chunks = ((b"IHDR", pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
    parts = (pack(">I", len(body)) + kind + body + pack(">I", zlib.crc32(kind + body)) for kind, body in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def row(number: int, own_settings: bool) -> str:
    """The manifest's row of one image; with a seed and an output name of its own where ``own_settings``."""
    if own_settings:
        return f"  - {{path: {name_of(number)}, fit: {{seed: {number}}}, output: {{template: '{number}.png'}}}}\n"
    return f"  - {name_of(number)}\n"


def write_inputs(folder: Path, count: int, own_settings: bool = False) -> None:
    for start in range(0, count, FOLDER):
        (folder / "in" / name_of(start)).parent.mkdir(parents=True, exist_ok=True)
        for number in range(start, min(start + FOLDER, count)):
            (folder / "in" / name_of(number)).write_bytes(png(number))
    rows = "".join(row(number, own_settings) for number in range(count))
    (folder / "manifest.yaml").write_text(MANIFEST + rows)


def write_done(folder: Path, count: int) -> None:
    """A run of the manifest's first ``count`` items, as its last worker leaves it. Its list is made once."""
    from dipfast.batch import run as runs
    from dipfast.manifest import load
    from dipfast.store.folder import RunFolder
    from dipfast.store.index import Index
    from dipfast.store.rows import read_entries

    run = RunFolder(folder / "run")
    if not (run.root / "items.jsonl").exists():
        manifest = load(str(folder / "manifest.yaml"))
        manifest = replace(manifest, items=manifest.items[:count])
        runs._prepared(manifest, manifest, run, None, Index(run), lambda event: None)
    for name in ("records", "generators", "ledger", ".index", *{f"images/{n // FOLDER:04d}" for n in range(count)}):
        (run.root / name).mkdir(parents=True, exist_ok=True)
    entries, record = list(read_entries(run)), a_record()
    context = get_context("fork")
    parts = [(run, entries[part::WRITERS], record, part) for part in range(WRITERS)]
    writers = [context.Process(target=write_items, args=part) for part in parts]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0


def write_items(run: RunFolder, entries: list[dict[str, Any]], record: dict[str, Any], part: int) -> None:
    """What is left of ``entries`` when they are done, with an index and a ledger of their own."""
    from dipfast.record import Record
    from dipfast.store.file_stat import stat_of
    from dipfast.store.folder import dumps
    from dipfast.store.index import SHORT_RECORDS, Index

    index, text, short = Index(run), dumps(record).decode(), Record(**record).short()
    with (run.ledger / f"cpu-{part}.jsonl").open("w") as ledger:
        for number, entry in enumerate(entries):
            if number % LINKS == 0:
                base = run.root / f"base-{part}-{number // LINKS}"
                base.write_bytes(CONTENT)
            id, output = entry["id"], entry["output"]
            others = (f"images/{output}", f"generators/{id}.safetensors")
            words = {"<ID>": id, "<INPUT>": entry["path"], "<HASH>": entry["sha256"], "<OUTPUT>": output}
            whole = text
            for word, value in words.items():
                whole = whole.replace(word, value)
            (run.root / f"records/{id}.json").write_text(whole)
            for path in others:
                os.link(base, run.root / path)
            for event in ("claimed", "done"):
                ledger.write(json.dumps({"time": "", "event": event, "id": id, "path": entry["path"]}) + "\n")
    for entry in entries:  # once all links are made: each changes the stat of its file
        id, output = entry["id"], entry["output"]
        generator = f"generators/{id}.safetensors"
        paths = {"sha256": DIGEST, "paths": [output]}
        own = {"path": generator, "sha256": DIGEST}
        files = (f"records/{id}.json", f"images/{output}", generator)
        stats = {path: stat_of(f"{run.root}/{path}") for path in files}
        index._write(id, stats, replace(short, id=id, output=paths, generator=own))  # type: ignore[arg-type]
    for ending, lines in ((".jsonl", index.lines), (SHORT_RECORDS, index.short_records)):
        (run.index / f"run-{part}{ending}").write_text("\n".join(lines.values()) + "\n")


def a_record() -> dict[str, Any]:
    """The record of a real fit, of a picture as small as these, with words in <> for what differs."""
    import numpy as np
    import torch

    import dipfast

    torch.set_num_threads(1)

    picture = np.random.default_rng(0).random((16, 16), np.float32)
    record = dipfast.restore(picture, sigma=25, preset="fast", steps=5).record
    given = {"path": "<INPUT>", "sha256": "<HASH>", "format": "png", "mode": "gray", "bit_depth": 8, "mask": None}
    return record | {
        "id": "<ID>",
        "input": given | {"width": 16, "height": 16, "channels": 1},
        "output": {"sha256": DIGEST, "paths": ["<OUTPUT>"]},
        "generator": record["generator"] | {"path": "generators/<ID>.safetensors", "sha256": DIGEST},
    }


def measured(command: list[str]) -> dict[str, float]:
    """Wall and processor seconds of a command with its children, and the most memory of one of its processes."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        started = _seconds_until(process, '"event": "started"', start)
        code = process.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    found = {"wall": time.perf_counter() - start, "cpu": spent, "max_rss_mib": after.ru_maxrss / 1024, "exit": code}
    return found | ({} if started is None else {"wall_until_started": started})


def _seconds_until(process: subprocess.Popen[str], word: str, start: float) -> float | None:
    """When the run said ``word``; all that it says is read."""
    found = None
    for line in process.stderr or ():
        if word in line and found is None:
            found = time.perf_counter() - start
    return found


def time_all(folder: Path) -> None:
    """Each command in a process of its own, so that its memory is its own. The first resume writes the report, too."""
    (folder / "run" / "results.csv").unlink(missing_ok=True)
    manifest, run = str(folder / "manifest.yaml"), str(folder / "run")
    resume = ["run", manifest, "-o", run, "--progress", "json", "--devices", "cpu"]
    commands = {
        "plan": ["plan", manifest, "-o", str(folder / "none")],
        "resume and report": resume,
        "resume": resume,
        "plan, all done": ["plan", manifest, "-o", run],
        "status": ["status", run],
    }
    for name, arguments in commands.items():
        inner = [sys.executable, __file__, "one", *arguments]
        print(name, subprocess.run(inner, stdout=subprocess.PIPE, text=True, check=True).stdout.strip(), flush=True)


def main() -> None:
    if sys.argv[1:2] == ["one"]:
        print(json.dumps(measured([sys.executable, "-m", "dipfast.cli", *sys.argv[2:]]) | {"load": os.getloadavg()[0]}))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=("inputs", "done", "time"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--own-settings", action="store_true", help="inputs: a seed and an output name for each row")
    asked = parser.parse_args()
    match asked.verb:
        case "inputs":
            write_inputs(asked.folder, asked.count, asked.own_settings)
        case "done":
            write_done(asked.folder, asked.count)
        case "time":
            time_all(asked.folder)


if __name__ == "__main__":
    main()
