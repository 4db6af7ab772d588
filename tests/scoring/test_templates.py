"""Prompt templates: complete, hashed, and safe with hostile values."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.errors import InputError, UnknownName
from scoring.prompts import template


def test_the_packaged_templates_have_a_system_a_user_part_and_shots() -> None:
    assert template.names() == ["fuzzer", "interpreter", "intruder", "predictor"]
    for name in template.names():
        prompt = template.load(name)
        assert prompt.shots
        assert prompt.hash.startswith("blake2b:")
        assert [m["role"] for m in prompt.messages({})][:3] == ["system", "user", "assistant"]


def test_values_are_not_substituted_again() -> None:
    hostile = "$explanation {n} %s ${n} $$"
    *_, user = template.load("predictor").messages({"explanation": "claim", "examples": hostile, "n": "5"})
    assert hostile in user["content"]


def test_the_hash_follows_the_file(tmp_path: Path) -> None:
    first, second = tmp_path / "a.toml", tmp_path / "b.toml"
    first.write_text("system = 's'\nuser = 'u $x'")
    second.write_text("system = 's'\nuser = 'v $x'")
    assert template.load(str(first)).hash != template.load(str(second)).hash
    assert template.load(str(first)).messages({"x": "1"})[1]["content"] == "u 1"


@pytest.mark.parametrize(
    "text",
    ["user = 'u'", "not toml", "system = 's'\nuser = 'u'\nshots = 3", "system='s'\nuser='u'\n[[shots]]\nuser='a'"],
)
def test_an_incomplete_template_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(InputError, match="not usable"):
        template.load(str(path))


def test_an_unknown_template_lists_the_known_ones() -> None:
    for name in ("nope", "../prompts/predictor", "/nowhere.toml"):
        with pytest.raises(UnknownName, match="fuzzer, interpreter, intruder, predictor"):
            template.load(name)


@given(st.text())
def test_a_window_is_always_one_line(text: str) -> None:
    assert len(template.one_line(text).splitlines()) <= 1


def test_line_breaks_are_shown() -> None:
    assert template.one_line("a\r\nb\n\u2028c") == "a⏎b⏎⏎c"
