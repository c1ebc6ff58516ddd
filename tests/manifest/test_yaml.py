"""Strict YAML: what is read, what is refused, and where it stands."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipfast.manifest.scan import Mark
from dipfast.manifest.yaml import MAX_BYTES, MAX_DEPTH, load, quoted


def flaw(text: str | bytes) -> str:
    """The only flaw, as line:column: text."""
    [(mark, what)] = load(text).flaws
    return f"{mark.line}:{mark.column}: {what}"


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        ("1e-3", 0.001),
        ("1.", 1.0),
        (".5", 0.5),
        ("-2", -2),
        ("+7", 7),
        ("012", 12),
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2020-01-01", "2020-01-01"),
        ("no", "no"),
        ("yes", "yes"),
        ("On", "On"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("'1'", "1"),
        ('"null"', "null"),
        ("-.inf", -math.inf),
        ("1e999", math.inf),
        ("nano", "nano"),
        ("=", "="),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(scalar: str, value: Any) -> None:
    read = load(f"a: {scalar}").data["a"]
    assert (read, type(read)) == (value, type(value))


def test_nan_is_read_as_a_number() -> None:
    assert math.isnan(load("a: .nan").data["a"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3", "3:1: duplicate key 'a'; the first is at line 1"),
        ("a:\n  b: 1\n  b: 2", "3:3: duplicate key 'b'; the first is at line 2"),
        ("a: {b: 1, 'b': 2}", "1:11: duplicate key 'b'; the first is at line 1"),
        ("1: a", "1:1: a key should be text, is 1; quote it"),
        ("a: {true: b}", "1:5: a key should be text, is true; quote it"),
        ("a: {~: b}", "1:5: a key should be text, is ~; quote it"),
        ("? [a]\n: b", "1:3: a key should be text, is a mapping or a list"),
        ("a: &k x\n*k : b", "2:1: a key should be text, is an alias"),
        ("a: {<<: {b: 1}}", "1:5: merge keys (<<) are not in YAML 1.2; put what is shared into defaults"),
        ("a: !foo b", "1:4: tag '!foo' is not allowed; quote a value that should be text"),
        ("a: !!python/name:os.system b", "1:4: tag '!!python/name:os.system' is not allowed; quote a value"),
        ("a: !!set {b}", "1:4: tag '!!set' is not allowed"),
        ("a: *b", "1:4: alias *b has no finished anchor before it"),
        ("a: &b [*b]", "1:8: alias *b has no finished anchor before it"),
        ("a: 1\n---\nb: 2", "2:1: should be one YAML document, a second one starts here"),
        ("a: [1,\nb: 2", "3:1: syntax error while parsing a flow sequence begun at line 1: did not find expected"),
        ("a:\n\t- b", "2:1: syntax error while scanning for the next token: found character that cannot start"),
        ("a: b\nc: \x07", "2:4: character #x0007 is not allowed in YAML"),
        (b"a: b\nc: \xe9", "2:4: should be UTF-8, has byte 0xe9 here"),
        (b"\xff\xfea\x00", "1:1: should be UTF-8, is UTF-16 or UTF-32"),
        ("a: \udcff", "1:4: holds half of a surrogate pair"),
        ("[" * (MAX_DEPTH + 1), f"1:{MAX_DEPTH + 1}: should be at most {MAX_DEPTH} levels deep"),
        ("a: " + "9" * 5000, "1:4: a number should have at most 400 digits, has 5000"),
    ],
)
def test_what_is_not_allowed_is_refused_at_its_place(text: str | bytes, expected: str) -> None:
    assert flaw(text).startswith(expected)


def test_several_flaws_are_all_reported() -> None:
    assert [where.line for where, _ in load("a: 1\na: !x 2\nb: {1: 2}").flaws] == [2, 2, 3]


def test_the_first_of_two_equal_keys_is_kept() -> None:
    assert load("a: 1\na: {b: &x 2}\nc: *x").data == {"a": 1, "c": 2}


@pytest.mark.parametrize("text", ["", "# nothing", "---\n", "\n\n"])
def test_an_empty_text_is_null(text: str) -> None:
    tree = load(text)
    assert tree.whole
    assert tree.data is None


def test_a_byte_order_mark_of_utf8_is_no_flaw() -> None:
    assert load(b"\xef\xbb\xbfa: 1\na: 2").flaws[0].mark == Mark(2, 1)


def test_columns_count_characters() -> None:
    assert flaw("äöü: {ß: 1, ß: 2}").startswith("1:13: duplicate")


def test_aliases_are_read() -> None:
    assert load("a: &x {b: 1}\nc: [*x, *x]").data["c"] == [{"b": 1}, {"b": 1}]


def bomb(fan: int, depth: int) -> str:
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * fan)}]" for i in range(1, depth)]
    return "\n".join(lines)


@pytest.mark.parametrize("text", [bomb(10, 30), bomb(2, 200), "a: &a [" + "x," * 9999 + "]\nb: [" + "*a," * 999 + "]"])
def test_a_bomb_is_refused_at_once(text: str) -> None:
    start = time.perf_counter()
    assert "a YAML bomb" in load(text).flaws[-1].text or "levels deep" in load(text).flaws[-1].text
    assert time.perf_counter() - start < 1


def test_aliases_cannot_build_depth() -> None:
    chain = ["a0: &a0 x"] + [f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 100)]
    assert "levels deep" in load("\n".join(chain)).flaws[-1].text


def test_too_many_bytes_are_refused() -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return MAX_BYTES + 1

    assert flaw(Huge(b"a")).startswith("1:1: should be at most 1073741824 bytes")


def test_a_flood_of_flaws_ends_the_reading() -> None:
    tree = load("\n".join(["a: 1"] * 5000))
    assert not tree.whole
    assert len(tree.flaws) < 1100


def test_every_node_can_be_found() -> None:
    tree = load("items:\n  - a\n  - {b: [1, {c: 2}]}\nx: 3")
    places = tree.places([("items", 0), ("items", 1, "b", 1, "c"), ("x",), ("nowhere",)])
    assert {path: (*place.key, *place.value) for path, place in places.items()} == {
        ("items", 0): (2, 5, 2, 5),
        ("items", 1, "b", 1, "c"): (3, 14, 3, 17),
        ("x",): (4, 1, 4, 4),
    }


def test_rows_of_a_top_level_list_know_their_place() -> None:
    tree = load("a: 1\nitems:\n  - b\n  - {c: [1, 2]}\n")
    assert [tree.row("items", index) for index in range(2)] == [Mark(3, 5), Mark(4, 5)]
    assert list(tree.rows) == ["items"]


@given(st.text() | st.text("a:[]{}&*!-?#'\"|> \n\t,1.", max_size=60))
def test_any_text_is_read_or_has_a_flaw(text: str) -> None:
    tree = load(text)
    assert tree.whole or tree.flaws


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_have_a_flaw(data: bytes) -> None:
    tree = load(data)
    assert tree.whole or tree.flaws


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "null"), (True, "true"), (1e-3, "0.001"), ("a\nb", r"'a\nb'"), ({}, "a mapping"), ([1, "x"], "[1, 'x']")],
)
def test_values_are_quoted_on_one_line(value: Any, shown: str) -> None:
    assert quoted(value) == shown


def test_long_values_are_quoted_short() -> None:
    assert len(quoted("x" * 10_000)) < 70
    assert quoted([1] * 1000) == "a long list"
