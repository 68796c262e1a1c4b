"""SECURITY.md names the test of each promise. A promise whose test is gone is none."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "SECURITY.md").read_text()
NAMED = sorted(set(re.findall(r"`(test_\w+)`", TEXT)))
TESTS = (path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
DEFINED = {name for text in TESTS for name in re.findall(r"def (test_\w+)", text)}


@pytest.mark.parametrize("name", NAMED)
def test_the_test_of_each_promise_is_there(name):
    assert name in DEFINED


def test_every_item_of_the_chapter_is_answered():
    items = {f"17.1.{n}" for n in (1, 2)} | {f"17.2.{n}" for n in range(1, 9)} | {f"17.3.{n}" for n in (1, 2)}
    assert items == set(re.findall(r"^\| (17\.\d\.\d) ", TEXT, re.M))
    assert len(NAMED) > 30
