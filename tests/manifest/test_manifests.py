"""The manifests that come along: each loads, and the paper's are the paper's where presets cannot say it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dipfast.manifest import Item, load

HERE = Path(__file__).parent.parent.parent / "manifests"


def items(path: Path, root: Path) -> tuple[Item, ...]:
    (root / "a.png").touch()
    return load(path, sets=[f"root={root}"]).items


@pytest.mark.parametrize("path", sorted(HERE.rglob("*.yaml")), ids=lambda path: path.stem)
def test_it_loads(path: Path, tmp_path: Path) -> None:
    assert items(path, tmp_path)


@pytest.mark.parametrize("path", sorted(HERE.glob("paper/inpaint-*.yaml")), ids=lambda path: path.stem)
def test_the_paper_scores_the_generators_own_output(path: Path, tmp_path: Path) -> None:
    assert not any(item.settings.task.keep_known for item in items(path, tmp_path))  # type: ignore[union-attr]


@pytest.mark.parametrize("path", sorted(HERE.glob("paper/superres-*.yaml")), ids=lambda path: path.stem)
def test_the_papers_enlargements_are_the_generators_own_output(path: Path, tmp_path: Path) -> None:
    assert not any(item.settings.task.keep_given for item in items(path, tmp_path))  # type: ignore[union-attr]


def test_the_papers_zebra_is_reduced_with_another_kernel_than_the_loss_assumes(tmp_path: Path) -> None:
    found = items(HERE / "paper" / "superres-zebra.yaml", tmp_path)
    kernels = [(item.settings.degrade.kernel, item.settings.task.kernel) for item in found]  # type: ignore[union-attr]
    assert kernels == [("lanczos3", "lanczos2")] * 2
