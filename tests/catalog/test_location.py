"""A catalog's place: what an address says, what is wrong with one, and that no message shows a password."""

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog import Catalog, Location
from catalog.errors import InputError
from catalog.location import Server

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
