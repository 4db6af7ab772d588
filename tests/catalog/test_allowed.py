"""What the user of a machine allowed: kept with the machine, whole, private."""

import json
import stat
from pathlib import Path

import pytest

from catalog.errors import InputError
from catalog.trust.permissions import allow, config_folder, is_allowed


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAEQL_CONFIG", str(tmp_path / "config"))
    return tmp_path / "config"


def test_what_was_allowed_is_remembered_by_kind(folder: Path) -> None:
    assert not is_allowed("endpoints", "https://a")
    allow("endpoints", "https://a")
    allow("databases", "db")
    allow("endpoints", "https://a")
    assert is_allowed("endpoints", "https://a")
    assert not is_allowed("databases", "https://a")
    assert json.loads((folder / "allowed.json").read_text()) == {"endpoints": ["https://a"], "databases": ["db"]}
    assert stat.S_IMODE((folder / "allowed.json").stat().st_mode) == 0o600


def test_the_folder_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAEQL_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/somewhere")
    assert config_folder() == Path("/somewhere/saeql")
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert config_folder() == Path("/home/me/.config/saeql")


@pytest.mark.parametrize("text", ["{", "[]", '{"endpoints": "https://a"}', '{"endpoints": [1]}'])
def test_a_damaged_list_allows_nothing_and_says_where_it_is(folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "allowed.json").write_text(text)
    with pytest.raises(InputError, match=r"allowed\.json"):
        is_allowed("endpoints", "https://a")
    with pytest.raises(InputError, match="correct or remove it"):
        allow("endpoints", "https://b")
    assert (folder / "allowed.json").read_text() == text


def test_a_folder_that_cannot_be_made_is_an_error_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SAEQL_CONFIG", str(tmp_path / "file" / "config"))
    with pytest.raises(InputError, match="SAEQL_CONFIG"):
        allow("endpoints", "https://a")
