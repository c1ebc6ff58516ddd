"""How threads wait is said once, before torch is loaded, and never against the environment."""

from __future__ import annotations

import os

import pytest

from dipfast.threads import SPINS, wait_briefly

NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, ("PASSIVE", str(SPINS))),
        ({"GOMP_SPINCOUNT": "7"}, ("PASSIVE", "7")),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, ("ACTIVE", None)),
    ],
)
def test_what_the_environment_says_stays(
    given: dict[str, str], found: tuple[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    wait_briefly()
    assert tuple(os.environ.get(name) for name in NAMES) == found
