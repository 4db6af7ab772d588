"""A prompt template of the user's own: checked before a word of it is kept, and nothing of another file is quoted."""

import json
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.errors import InputError, StudyError
from catalog.study.file import Study
from catalog.study.prompt_text import Parts, parts, read_template, written
from catalog.study.tables import configuration_rows

GOOD = 'system = "Say it. $constraints"  # hunter2\nuser = """\n$examples costs $$5, ${instructions}"""\n'
SECRETS = {
    "passwd": "root:x:0:0:hunter2:/root:/bin/bash\n",
    "credentials.toml": '[registry]\ntoken = "hunter2"\n',
    "credentials": "[default]\naws_secret_access_key = hunter2\n",
    "template.toml": 'system = "s"\nuser = "u"\nhunter2 = "hunter2"\n',
    "twice.toml": "hunter2 = 1\nhunter2 = 2\n",
    "key.pem": "-----BEGIN hunter2 KEY-----\n",
    "numbers.toml": 'system = "hunter2"\nuser = 3\n',
    "shots.toml": 'system = "hunter2"\nuser = "u"\n[[shots]]\nuser = "hunter2"\n',
    "deep.toml": "hunter2 = " + "[" * 5000,
    "nul.toml": 'system = "hunter2\0"\nuser = "u"',
}


def study(tmp_path: Path, template: str, section: str = "explainer") -> Study:
    text = (
        f"name = 's'\n[[{section}]]\nname = 'a'\nprovider = 'openai'\nmodel = 'm'\ntemplate = {json.dumps(template)}\n"
    )
    return Study.parse(text, tmp_path)


def kept(tmp_path: Path, template: str) -> str:
    (row,) = configuration_rows(study(tmp_path, template))["explainers"]
    return str(json.loads(row["settings"])["template"])


def test_a_template_is_kept_by_its_parts_alone(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(GOOD)
    text = kept(tmp_path, "own.toml")
    assert parts(text, "here") == Parts("Say it. $constraints", "$examples costs $$5, ${instructions}", ())
    assert "hunter2" not in text, "a comment is no part"
    (tmp_path / "link.toml").symlink_to("own.toml")
    assert kept(tmp_path, "link.toml") == text


@pytest.mark.parametrize("name", SECRETS)
def test_nothing_of_a_file_that_is_no_template_is_kept_or_quoted(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(SECRETS[name])
    (tmp_path / "link").symlink_to(name)
    for path in (name, "link"):
        with pytest.raises(InputError, match=path) as caught:
            kept(tmp_path, path)
        shown, error = "", caught.value
        while error is not None:
            shown, error = shown + str(error), error.__cause__  # type: ignore[assignment]
        assert "hunter2" not in shown


def test_what_is_no_small_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "large").write_text(GOOD + "#" * 65536)
    (tmp_path / "latin").write_bytes(b'system = "\xe9"')
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "s"))
        refused = {
            "pipe": "no regular file",
            "folder": "no regular file",
            "/dev/zero": "no regular file",
            "/dev/tty": "cannot be read",
            "s": "cannot be read",
            "large": "more than 65,536 bytes",
            "latin": "not UTF-8 at byte 10",
            "missing": "No such file",
            "own.toml/x": "cannot be read",
            "nul\0": "not a path",
            "/proc/self/environ": "not usable",
        }
        for path, reason in refused.items():
            with pytest.raises(InputError, match=reason):
                read_template(path if path.startswith("/") else str(tmp_path / path), "explainer")


@pytest.mark.parametrize(
    ("kind", "user", "fits"),
    [
        ("explainer", "$examples", True),
        ("explainer", "${examples} for $5 and 100% {text.__class__} {0.__globals__} %(x)s $(id) `id`", True),
        ("explainer", "$explanation", False),
        ("explainer", "$HOME", False),
        ("explainer", "${__class__}", False),
        ("scorer", "$explanation $examples $n", True),
        ("scorer", "$constraints", False),
    ],
)
def test_a_template_may_name_the_values_of_its_kind_and_no_others(
    tmp_path: Path, kind: str, user: str, fits: bool
) -> None:
    path = tmp_path / "own.toml"
    path.write_text(f"system = 's'\nuser = '{user}'\n")
    if fits:
        assert parts(read_template(str(path), kind), "").user == user
    else:
        with pytest.raises(InputError, match=rf"that no {kind} has: it may use"):
            read_template(str(path), kind)


@given(st.text(), st.text(), st.lists(st.tuples(st.text(), st.text())))
@settings(max_examples=30)
def test_what_is_written_is_read_as_it_was(system: str, user: str, shots: list[tuple[str, str]]) -> None:
    said = Parts(system, user, tuple(shots))
    assert parts(written(said), "here") == said


def test_other_files_that_a_study_names_are_bounded_too(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", "pipe"):
        words = Study.parse(f"name = 's'\n[[concept]]\nname = 'c'\nfile = {json.dumps(path)}\n", tmp_path)
        with pytest.raises(InputError, match="no regular file"):
            configuration_rows(words)
        spans = Study.parse(f"name='s'\n[[concept]]\nname='c'\nkind='spans'\nfile={json.dumps(path)}\n", tmp_path)
        with pytest.raises(InputError, match="no regular file"):
            configuration_rows(spans)
    (tmp_path / "secret").write_text("hunter2\n")
    spans = Study.parse("name='s'\n[[concept]]\nname='c'\nkind='spans'\nfile='secret'\n", tmp_path)
    with pytest.raises(InputError, match="line 1") as caught:
        configuration_rows(spans)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(StudyError, match="no regular file"):
        Study.load("/dev/zero")
