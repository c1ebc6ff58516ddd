"""The settings that each item may have of its own: checked as their sections check them, put in everywhere."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from dipfast.settings.document import Settings
from dipfast.settings.own import BLANK, NOTHING, Own, checked_own, own_of

INPAINT = {"type": "inpaint", "mask": "m.png"}
VALUES = [
    *({"fit": {"seed": seed}} for seed in (0, 7, 2**63 - 1, 2**63, -1, True, 1.0, "7", None, [1])),
    *({"output": {"template": text}} for text in ("{name}.png", "a/{seed}.tif", "a.gif", "../a.png", "", "nul.png", 5)),
    *({"output": {"template": text}} for text in ("/a.png", "{nonsense}.png", "{.png", "a\tb.png", "x" * 5000, None)),
    *({"task": INPAINT | {"mask": text}} for text in ("m.png", "masks/{stem}.png", "{stem", "", 3, None)),
    *({"reference": text} for text in ("r.png", "{ext}", "{what}", "a\0b", "", False, None)),
    {"fit": "seed"},
    {"task": {"type": "denoise"}},
    {},
]


@pytest.mark.parametrize("tree", VALUES, ids=lambda tree: str(tree)[:60])
def test_a_value_is_taken_exactly_where_its_section_takes_it(tree: dict[str, Any]) -> None:
    found = checked_own(tree)
    try:
        whole = Settings.model_validate(tree)
    except ValidationError:
        assert found == NOTHING
    else:
        assert found.settings(Settings.model_validate({"task": tree["task"]} if "task" in tree else {})) == whole


def test_own_values_are_put_into_settings_and_into_their_plain_data() -> None:
    shared = Settings.model_validate({"task": INPAINT, "reference": "r.png", "fit": {"steps": 3}})
    own = Own(5, "a.png", "n.png", "s.png")
    found = own.settings(shared)
    assert own_of(found) == own
    assert found.model_dump(mode="json") == own.tree(shared.model_dump(mode="json"))
    assert (found.fit.steps, own_of(shared)) == (3, Own(0, "{relpath}/{name}.png", "m.png", "r.png"))
    assert NOTHING.settings(shared) is shared


def test_marks_are_values_that_the_sections_take() -> None:
    assert checked_own(BLANK.tree({"fit": {}, "output": {}, "task": {"type": "inpaint"}})) == BLANK
    assert Own(seed=0, mask="m.png").blanks() == Own(seed=BLANK.seed, mask=BLANK.mask)
