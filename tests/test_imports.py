"""Who may import whom: the house's table, held against the imports of every module."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
KERNELS = ("newton_schulz", "norm_pad")
CONTRACTS = {f"kernels.{name}" for name in KERNELS}
# What a room may import of the others. A room stands below all that it imports.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "text": set(),
    "streams": set(),
    "metrics": set(),
    "threads": set(),
    "pace": set(),
    "progress": {"pace", "text"},
    "files": {"errors"},
    "samples": {"errors"},
    "remote": {"errors", "files"},
    "record": {"files"},
    "kernels.checks": set(),
    **{f"kernels.{name}_triton": {"kernels.checks"} for name in KERNELS},
    **{f"kernels.{name}": {"kernels.checks", f"kernels.{name}_triton"} for name in KERNELS},
    "ops": {"kernels.checks", *CONTRACTS},  # inside functions
    "settings": {"errors"},
    "manifest": {"settings", "errors", "files", "remote"},
    "image": {"errors", "files", "remote"},
    "tasks": {"settings", "ops", "errors"},
    "generators": {"settings", "ops", "errors"},
    "fit": {"tasks", "generators", "settings", "ops", "errors"},
    "refine": {"settings"},
    "plan": {"settings", "generators", "errors"},
    "store": {"record", "settings", "manifest", "image", "samples", "remote", "files", "text", "threads", "errors"},
    "restoration": {
        "record",
        "plan",
        "image",
        "tasks",
        "generators",
        "fit",
        "refine",
        "metrics",
        "settings",
        "files",
        "errors",
        "",
    },
    "environment": {"record", "plan", "store", "threads", "errors"},
    "workers": {
        "record",
        "plan",
        "restoration",
        "store",
        "manifest",
        "settings",
        "image",
        "tasks",
        "fit",
        "samples",
        "files",
        "threads",
        "errors",
    },
    "batch": {
        "record",
        "environment",
        "workers",
        "plan",
        "restoration",
        "store",
        "manifest",
        "settings",
        "image",
        "tasks",
        "fit",
        "samples",
        "remote",
        "files",
        "text",
        "threads",
        "errors",
    },
    "export": {
        "record",
        "environment",
        "store",
        "generators",
        "tasks",
        "settings",
        "ops",
        "files",
        "threads",
        "errors",
    },
    "render": {
        "record",
        "export",
        "restoration",
        "store",
        "generators",
        "tasks",
        "image",
        "manifest",
        "settings",
        "metrics",
        "samples",
        "remote",
        "files",
        "errors",
    },
    "report": {"record", "store", "image", "metrics", "remote", "files", "text", "errors"},
    "demo": {"image", "tasks", "settings", "samples", "files", "errors"},
    "doctor": {"environment", "fit", "threads"},
    "bench": {
        "record",
        "batch",
        "workers",
        "render",
        "export",
        "plan",
        "restoration",
        "store",
        "fit",
        "generators",
        "tasks",
        "image",
        "manifest",
        "settings",
        "metrics",
        "samples",
        "text",
        "errors",
        *CONTRACTS,
        "",  # the version
    },
    "api": {
        "record",
        "batch",
        "workers",
        "render",
        "report",
        "export",
        "restoration",
        "store",
        "fit",
        "generators",
        "image",
        "manifest",
        "settings",
        "samples",
        "remote",
        "errors",
    },
}
ANYTHING = {"cli", ""}  # the command line, and the public names


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
    if here in ANYTHING or module == "kernels":
        return
    assert here in ALLOWED, f"{module} is in no room of the table"
    wrong = {name for name in imported(path) if room(name) not in ALLOWED[here] | {here}}
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
    assert not reach & {"metrics", "manifest", "batch", "store", "files"}


def test_no_arrow_points_upwards() -> None:
    above: set[str] = set(ALLOWED)
    for here, others in ALLOWED.items():
        above.discard(here)
        assert not others & above, f"{here} is above what it imports in the table"


def test_nobody_imports_the_command_line() -> None:
    others = [(module, path) for module, path in modules() if room(module) != "cli"]
    assert not [module for module, path in others if any(room(name) == "cli" for name in imported(path))]


def test_the_package_needs_no_script_of_the_repository() -> None:
    scripts = {path.stem for path in (ROOT / "bench").glob("*.py")}
    for module, path in modules():
        assert not {name.split(".")[0] for name in every_import(path)} & scripts, module


def test_the_wheel_has_every_folder_of_the_package_and_nothing_else() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "dipfast").rglob("*.py")}
    assert set(listed["packages"]) == {".".join(folder.parts) for folder in folders} | {"dipfast.kernels"}
    assert listed["package-dir"] == {"dipfast": "dipfast", "dipfast.kernels": "kernels"}
