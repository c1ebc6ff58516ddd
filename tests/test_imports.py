"""Who may import whom: the house's table, held against the imports of every module."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
KERNELS = ("newton_schulz", "norm_pad")
CONTRACTS = {f"kernels.{name}" for name in KERNELS}
DATA = {"batch.ledger", "batch.plan"}
STAGES = {"batch.load", "batch.pipeline", "batch.save", "batch.shelf"}  # of a worker's items
AROUND = {
    "batch.environment",
    "batch.index",
    "batch.inputs",
    "batch.lock",
    "batch.prepare",
    "batch.restore",
    "batch.rows",
}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "metrics": set(),
    "presets": set(),
    "shapes": set(),
    "text": set(),
    "streams": set(),
    "threads": set(),
    "pace": set(),
    "progress": {"pace", "text"},
    "files": set(),
    "samples": {"errors"},
    "remote": {"errors", "files"},
    "ops": {"kernels.checks", *CONTRACTS},  # inside functions
    "kernels.checks": set(),
    **{f"kernels.{name}": {"kernels.checks", f"kernels.{name}_triton"} for name in KERNELS},
    **{f"kernels.{name}_triton": {"kernels.checks"} for name in KERNELS},
    "manifest": {"errors", "presets", "shapes", "remote", "manifest"},
    "image": {"errors", "files", "remote", "image"},
    "tasks": {"errors", "ops", "tasks"},
    "generators": {"errors", "ops", "shapes", "generators"},
    "fit": {"errors", "ops", "tasks", "generators", "shapes", "fit"},
    "batch.plan": {"manifest", "errors", "generators", "shapes"},
    "batch.ledger": {"manifest", "errors", "files"},
    "batch.restore": {
        "image",
        "tasks",
        "generators",
        "fit",
        "metrics",
        "shapes",
        "errors",
        "batch.caveats",
        "batch.failure",
        "batch.ledger",
        "batch.memory",
        "batch.surroundings",
        "",
    },
    "batch.surroundings": {"tasks"},
    "batch.memory": {"fit", "errors", "batch.plan"},
    "batch.stamps": {"files", "batch.ledger"},
    "batch.index": {"files", "batch.ledger", "batch.stamps"},
    "batch.mirror": {"remote", "errors", "batch.ledger"},
    "batch.lock": {"errors", "files", "batch.ledger"},
    "batch.environment": {"errors", "threads", *DATA},
    "batch.inputs": {"image", "samples", "errors", "remote", "threads", "batch.stamps"},
    "batch.prepare": {"manifest", "image", "errors", "batch.inputs", "batch.restore", *DATA},
    "batch.rows": {"manifest", "errors", "files", "batch.index", *DATA},
    "batch.snapshot": {
        "manifest",
        "files",
        "batch.stamps",
        "batch.index",
        "batch.inputs",
        "batch.prepare",
        "batch.rows",
        *DATA,
    },
    "batch.cohort": {"batch.plan"},
    "batch.messages": {"batch.plan"},
    "batch.caveats": {"tasks"},
    "batch.failure": {"errors", "files"},
    "batch.shelf": {"batch.ledger"},
    "batch.load": {"image", "tasks", "errors", "samples", "batch.plan", "batch.inputs", "batch.restore"},
    "batch.foresee": {
        "image",
        "tasks",
        "samples",
        "batch.inputs",
        "batch.memory",
        "batch.restore",
        *DATA,
    },
    "batch.others": {
        "manifest",
        "errors",
        "remote",
        "text",
        "batch.index",
        "batch.inputs",
        "batch.rows",
        *DATA,
    },
    "batch.remeasure": {"image", "errors", "batch.load", "batch.restore", *DATA},
    "batch.save": {"image", "batch.load", "batch.restore", *DATA},
    "batch.pipeline": {
        "fit",
        "batch.cohort",
        "batch.failure",
        "batch.memory",
        "batch.messages",
        "batch.restore",
        *STAGES,
        *DATA,
    },
    "batch.worker": {"fit", "batch.failure", "batch.messages", "batch.pipeline", *DATA},
    "batch.process": {"batch.cohort", "batch.messages", "batch.worker", "threads", *DATA},
    "batch.local": {"batch.messages", "batch.process", *DATA},
    "batch.ray": {
        "batch.process",
        "batch.local",
        "batch.messages",
        "batch.worker",
        "errors",
        "files",
        "threads",
        *DATA,
    },
    "batch.slurm": {"manifest", "errors", "files", "batch.ledger", "batch.lock", "batch.others"},
    "batch.run": {
        "manifest",
        "samples",
        "fit",
        "errors",
        "files",
        "remote",
        "text",
        "batch.load",
        "batch.mirror",
        "batch.others",
        "batch.remeasure",
        "batch.snapshot",
        *AROUND,
        "batch.local",
        "batch.ray",
        *DATA,
    },
    "batch.merge": {"manifest", "errors", "files", "batch.others", *AROUND, *DATA},
    "batch.forecast": {
        "manifest",
        "fit",
        "text",
        "errors",
        "threads",
        *AROUND,
        "batch.cohort",
        "batch.foresee",
        "batch.others",
        "batch.run",
        *DATA,
    },
    "report": {
        "text",
        "batch.index",
        "batch.ledger",
        "batch.run",
        "batch.stamps",
        "metrics",
        "image",
        "errors",
        "files",
        "remote",
        "report",
    },
    "export": {
        "generators",
        "ops",
        "shapes",
        "batch.environment",
        "batch.ledger",
        "files",
        "errors",
        "threads",
        "export",
    },
    "render": {"image", "generators", "errors", "export"},
    "variants": {
        "manifest",
        "image",
        "generators",
        "errors",
        "export",
        "remote",
        "metrics",
        "render",
        "samples",
        "batch.ledger",
        "batch.restore",
    },
    "rerender": {"image", "errors", "export", "files", "remote", "metrics", "render", "samples", "batch.restore"},
    "demo": {"image", "tasks", "samples", "errors", "files"},
    "bench": {
        "manifest",
        "image",
        "samples",
        "metrics",
        "text",
        "errors",
        *CONTRACTS,
        "batch.plan",
        "batch.run",
        "batch.ledger",
        "fit",
        "tasks",
        "bench",
        "render",
        "export",
        "generators",
        "rerender",
        "variants",
    },
    "doctor": {"batch.environment", "fit", "threads"},
    "api": {
        "batch.ledger",
        "batch.lock",
        "batch.mirror",
        "batch.restore",
        "batch.run",
        "errors",
        "export",
        "fit",
        "remote",
        "generators",
        "image",
        "manifest",
        "render",
        "report",
        "samples",
    },
}
COMMAND_LINE = {"cli", "cli_bench", "cli_options", "cli_export"}
ANYTHING = {*COMMAND_LINE, ""}  # the command line, and the public names


def modules() -> list[tuple[str, Path]]:
    found = [(path, path.relative_to(ROOT / "dipfast")) for path in (ROOT / "dipfast").rglob("*.py")]
    found += [(path, Path("kernels") / path.name) for path in (ROOT / "kernels").glob("*.py")]
    return sorted((".".join(name.with_suffix("").parts).removesuffix(".__init__"), path) for path, name in found)


def room(module: str) -> str:
    """The room of ``module``, by the longest name in the table."""
    module = "" if module == "__init__" else module
    names = [name for name in (*ALLOWED, *ANYTHING) if module == name or module.startswith(name + ".")]
    return max(names, key=len, default=f"no room for {module}")


def every_import(path: Path, *, inside: bool = True) -> set[str]:
    """Every name that a file imports, ``inside`` functions too, with the kernels' relative ones written out."""
    names: set[str] = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if inside else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = f"dipfast.kernels.{node.module or ''}".rstrip(".") if node.level else node.module
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def imported(path: Path, *, inside: bool = True) -> set[str]:
    """Every dipfast name that a file imports, ``inside`` functions too, without the leading `dipfast.`."""
    ours = {name for name in every_import(path, inside=inside) if name.split(".")[0] == "dipfast"}
    return {name.removeprefix("dipfast").removeprefix(".") for name in ours}


@pytest.mark.parametrize(("module", "path"), modules(), ids=[name for name, _ in modules()])
def test_a_module_imports_only_what_its_room_may(module: str, path: Path) -> None:
    here = room(module)
    if here in ANYTHING or module in ("kernels", "batch"):
        return
    assert here in ALLOWED, f"{module} is in no room of the table"
    wrong = {name for name in imported(path) if room(name) not in ALLOWED[here]}
    assert not wrong


def test_kernels_are_imported_where_they_are_called() -> None:
    for module, path in modules():
        if room(module) == "ops" or (module in ALLOWED and module.startswith("kernels.")):
            found = {name for name in imported(path, inside=False) if name.startswith("kernels.")}
            assert {room(name) for name in found} <= {"kernels.checks"}


def test_the_fit_cannot_reach_the_truth_or_the_manifest() -> None:
    reach, todo = set(), {"fit"}
    while todo:
        reach |= todo
        todo = {name for here in todo for name in ALLOWED.get(here, set())} - reach
    assert not reach & {"metrics", "manifest", "batch.run", "batch.ledger"}


def test_nobody_imports_the_command_line() -> None:
    others = [(module, path) for module, path in modules() if room(module) not in COMMAND_LINE]
    assert not [module for module, path in others if any(room(name) in COMMAND_LINE for name in imported(path))]


def test_the_package_needs_no_script_of_the_repository() -> None:
    scripts = {path.stem for path in (ROOT / "bench").glob("*.py")}
    for module, path in modules():
        assert not {name.split(".")[0] for name in every_import(path)} & scripts, module


def test_the_wheel_has_every_folder_of_the_package_and_nothing_else() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "dipfast").rglob("*.py")}
    assert set(listed["packages"]) == {".".join(folder.parts) for folder in folders} | {"dipfast.kernels"}
    assert listed["package-dir"] == {"dipfast": "dipfast", "dipfast.kernels": "kernels"}
