"""A catalog's place: what an address says, what is wrong with one, and that no message shows a password."""

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog import Catalog, Location
from catalog.errors import CatalogLocked, InputError
from catalog.store.location import Server, without_password
from catalog.store.locks import locked

SECRET = "hunter2"


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert Location.parse(tmp_path) == Location.parse(str(tmp_path)) == Location(tmp_path, None)
    assert Location.parse("demo").absolute().root == Path.cwd() / "demo"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
def test_an_address_names_server_database_and_folder(scheme: str) -> None:
    found = Location.parse(f"{scheme}://me:{SECRET}@db.lab:5433/saes?data=/shared/my%20saes%2B1")
    assert found == Location(Path("/shared/my saes+1"), Server("db.lab", 5433, "me", "saes"))
    assert found.server is not None
    assert found.server.password == SECRET
    assert str(found) == "postgres://me@db.lab:5433/saes?data=/shared/my%20saes%2B1"
    assert str(Location.parse("postgres:///saes?data=/x")) == "postgres:///saes?data=/x"
    six = Location.parse("postgres://[::1]:5433/saes?data=/x")
    assert six.server == Server("::1", 5433, "", "saes")
    assert Location.parse(str(six)) == six


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=8)
names = words.filter(lambda word: word.strip("/") == word)


@given(user=words, password=words, database=names, folder=names)
def test_what_is_written_is_read_again_without_the_password(
    user: str, password: str, database: str, folder: str
) -> None:
    said = [quote(word, safe="") for word in (user, password, database, f"/{folder}")]
    found = Location.parse("postgres://{}:{}@h:1/{}?data={}".format(*said))
    assert found.server is not None
    assert (found.server.user, found.server.password, found.server.database) == (user, password, database)
    assert found.root == Path(f"/{folder}")
    again = Location.parse(str(found))
    assert again == found
    assert again.server is not None
    assert again.server.password == ""


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (f"postgres://me:{SECRET}@h", "names no database"),
        (f"postgres://me:{SECRET}@h/?data=/x", "names no database"),
        (f"postgres://me:{SECRET}@h/d", "lacks \\?data=FOLDER"),
        (f"postgres://me:{SECRET}@h/d?data=", "lacks \\?data=FOLDER"),
        (f"postgres://me:{SECRET}@h/d?data=/x&sslmode=on", "has the option 'sslmode'"),
        (f"postgres://me:{SECRET}@h:port/d?data=/x", "host or port cannot be read"),
        (f"postgres://me:{SECRET}@h/d?data=/x#y", "write # as %23"),
        # A password that ought to have been written with %: none of it may come out.
        (f"postgres://me:{SECRET}/{SECRET}@h/d?data=/x", "host or port cannot be read"),
        (f"postgres://me:{SECRET}?{SECRET}=1@h/d?data=/x", "cannot be read"),
        (f"postgres://me:1?{SECRET}=1@h/d?data=/x", "names no database"),
        (f"postgres://me:{SECRET}#{SECRET}@h/d?data=/x", "cannot be read"),
        (f"postgres://me:1#{SECRET}@h/d?data=/x", "names no database"),
        (f"postgres://[me:{SECRET}@h/d?data=/x", "cannot be read"),
    ],
)
def test_what_is_wrong_with_an_address_is_said_without_the_password(address: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        Location.parse(address)
    assert "postgres://USER[:PASSWORD]@HOST[:PORT]/DATABASE?data=FOLDER" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_no_form_of_a_location_shows_the_password() -> None:
    found = Location.parse(f"postgres://me:{SECRET}@h/d?data=/x")
    assert found.server is not None
    for shown in (str(found), repr(found), str(found.server), found.server.parameters(read_only=True)):
        assert SECRET not in shown


def test_a_folder_remembers_the_first_address_and_is_no_other_catalogs(tmp_path: Path) -> None:
    ours = Location(tmp_path, Server("db.lab", None, "me", "ours", SECRET))
    ours.remember()
    Location(tmp_path, Server("db", None, "you", "ours")).remember()
    assert SECRET not in (tmp_path / "catalog.postgres").read_text()
    assert Location.parse(tmp_path) == ours
    Location(tmp_path, Server("another name of db.lab", None, "me", "ours")).check_folder()
    with pytest.raises(InputError, match="belongs to database 'ours', not to database 'theirs' on db"):
        Catalog(Location(tmp_path, Server("db", None, "me", "theirs")))


def test_the_folder_of_a_catalog_with_its_own_metadata_is_not_given_a_server(root: Path) -> None:
    location = Location.parse(root)
    wrong = Location(root, Server("127.0.0.1", 1, "me", "theirs"))
    with pytest.raises(InputError, match="belongs to"):
        Catalog(wrong)
    with pytest.raises(InputError, match="belongs to"):
        Catalog.create(wrong)
    with Catalog(location, read_only=True) as catalog:
        assert catalog.value("SELECT count(*) FROM saes") == 1


def test_a_folders_address_is_followed_only_once_the_user_has_named_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAEQL_CONFIG", str(tmp_path / "config"))
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    address = f"postgres://me@db.lab:5433/saes?data={theirs}"
    (theirs / "catalog.postgres").write_text(address)
    with pytest.raises(InputError, match=r"database 'saes' on db\.lab, port 5433, which was not used") as caught:
        Location.parse(theirs)
    assert f"-C {address!r}" in str(caught.value)
    for said in ("postgres://me@db.lab:5433/saes?data=.", "postgres://db.lab/saes?data=relative", "no address", ""):
        (theirs / "catalog.postgres").write_text(said)
        monkeypatch.chdir(theirs)
        with pytest.raises(InputError, match="postgres://USER"):
            Location.parse(theirs)
    (theirs / "catalog.postgres").write_bytes(b"\xff\xfe" + SECRET.encode())
    with pytest.raises(InputError, match="cannot be read as an address") as caught:
        Location.parse(theirs)
    assert SECRET not in str(caught.value)
    (theirs / "catalog.postgres").write_text(address)
    Location.parse(address).allow()
    assert Location.parse(theirs) == Location.parse(address)
    # Another host, port or database is another decision.
    for other in ("db.lab:5434/saes", "db.evil:5433/saes", "db.lab:5433/others"):
        (theirs / "catalog.postgres").write_text(f"postgres://me@{other}?data={theirs}")
        with pytest.raises(InputError, match="not used from this machine"):
            Location.parse(theirs)


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        (f"postgres://me:{SECRET}@db.lab/saes?data=/s", "postgres://me:***@db.lab/saes?data=/s"),
        (f"--catalog=postgresql://me:{SECRET}@[::1]:5/d?data=/s", "--catalog=postgresql://me:***@[::1]:5/d?data=/s"),
        (f"postgres://:{SECRET}@h/d?data=/s", "postgres://:***@h/d?data=/s"),
        (f"postgres://me:a {SECRET}@b/c@h/d?data=/s", "postgres://me:***@h/d?data=/s"),
        (f"postgres://me@h/d?data=/s&password={SECRET}", "postgres://me@h/d?data=/s&password=***"),
        (f"host=h PASSWORD={SECRET}", "host=h PASSWORD=***"),
        ("postgres://me@h:5/d?data=/s", "postgres://me@h:5/d?data=/s"),
        ("SELECT 'a@b'", "SELECT 'a@b'"),
    ],
)
def test_no_password_is_left_in_an_argument(argument: str, shown: str) -> None:
    assert without_password(argument) == shown


def test_the_lock_file_and_the_message_about_it_hold_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["saeql", "-C", f"postgres://me:{SECRET}@h/d?data={tmp_path}", "refresh"])
    with locked(tmp_path / "commit.lock", wait=0):
        assert SECRET not in (tmp_path / "commit.lock").read_text()
        again = locked(tmp_path / "commit.lock", wait=0)
        with pytest.raises(CatalogLocked, match=r"saeql -C postgres://me:\*\*\*@h/d") as caught, again:
            pass
        assert SECRET not in str(caught.value)
