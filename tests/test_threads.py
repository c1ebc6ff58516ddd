"""How threads wait is said once, before torch is loaded, and never against the environment."""

from __future__ import annotations

import os

import pytest

from dipfast.threads import SETTINGS, wait_briefly


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
