"""How many threads there are, as OMP_NUM_THREADS and the kernel have it; how they wait, as the environment has it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dipfast import threads
from dipfast.threads import SETTINGS, asked_threads, cores, cpu_quotas, wait_briefly


def found() -> dict[str, str]:
    return {name: os.environ[name] for name in SETTINGS if name in os.environ}


def test_what_the_environment_says_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.setenv(name, "")  # so that what is set is taken away again
        monkeypatch.delenv(name)
    wait_briefly()
    assert found() == SETTINGS
    for name in SETTINGS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    wait_briefly()
    assert found() == {"OMP_WAIT_POLICY": "PASSIVE"}


@pytest.mark.parametrize(
    ("value", "count"),
    [
        *(("1", 1), ("3", 3), (" 2 ", 2), ("+4", 4), ("2,1", 2), ("99999", 1024)),
        *(
            (None, None),
            ("", None),
            ("0", None),
            ("-1", None),
            ("abc", None),
            ("2x", None),
            (",2", None),
            ("1.5", None),
        ),
    ],
)
def test_the_environment_asks_for_threads_where_it_names_a_number(
    monkeypatch: pytest.MonkeyPatch, value: str | None, count: int | None
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    if value is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert asked_threads() == count


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("groups", "files", "quotas"),
    [
        ("0::/a/b\n", {"a/cpu.max": "250000 100000", "a/b/cpu.max": "max 100000"}, {2.5}),
        ("0::/\n", {"cpu.max": "50000 100000"}, {0.5}),
        ("0::/elsewhere\n", {"cpu.max": "100000 100000"}, {1.0}),
        ("4:cpu,cpuacct:/x\n0::/\n", {"cpu/x/cpu.cfs_quota_us": "300000", "cpu/x/cpu.cfs_period_us": "100000"}, {3.0}),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, set()),
        ("0::/\n", {"cpu.max": "torn"}, set()),
        ("torn", {}, set()),
    ],
)
def test_the_quotas_of_control_groups_are_found(
    tmp_path: Path, groups: str, files: dict[str, str], quotas: set[float]
) -> None:
    put(tmp_path / "proc/self/cgroup", groups)
    for name, text in files.items():
        put(tmp_path / "cgroup" / name, text)
    assert set(cpu_quotas(tmp_path / "proc", tmp_path / "cgroup")) == quotas


@pytest.mark.parametrize(("quotas", "count"), [([], 8), ([2.5], 2), ([0.3], 1), ([16.0, 3.0], 3)])
def test_cores_are_those_that_a_process_may_use(
    monkeypatch: pytest.MonkeyPatch, quotas: list[float], count: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(threads, "cpu_quotas", lambda *_: iter(quotas))
    assert cores() == count
