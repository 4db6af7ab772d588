"""A server that is gone, refuses or holds nothing is named with what to do; the password is nowhere."""

from pathlib import Path
from urllib.parse import quote

import pytest

from catalog import Catalog, Location
from catalog.errors import CatalogError
from catalog.store.location import Server
from tests.postgres import PASSWORD, Postgres, programs, running


@pytest.fixture
def place(postgres: Postgres, tmp_path: Path) -> Location:
    """An empty database and an empty folder."""
    return postgres.location(tmp_path / "catalog")


def as_guarded(place: Location, password: str) -> str:
    """The address of the same catalog for the role that needs a password."""
    assert place.server is not None
    given = f":{quote(password, safe='')}" if password else ""
    return f"postgres://guarded{given}@127.0.0.1:{place.server.port}/{place.server.database}?data={place.root}"


def test_the_password_comes_from_the_address_or_the_environment_and_stays_nowhere(
    place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Catalog.create(as_guarded(place, PASSWORD)) as catalog, catalog.write("one") as tx:
        tx.insert("leaks", [{"corpus": "c", "position": 1}])
        seen = catalog.rows("SELECT path FROM duckdb_databases()") + catalog.rows("FROM duckdb_secrets()")
        assert PASSWORD not in repr(seen)
    written = [path for path in place.root.rglob("*") if path.is_file()]
    assert place.root / "catalog.postgres" in written
    for form in (PASSWORD, quote(PASSWORD, safe=""), quote(PASSWORD)):
        assert [path for path in written if form.encode() in path.read_bytes()] == []
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    for location in (as_guarded(place, ""), place.root):
        with Catalog(location, read_only=True) as catalog:
            assert catalog.value("SELECT count(*) FROM leaks") == 1


def test_a_wrong_password_is_said_with_host_port_database_and_what_to_do(place: Location) -> None:
    Catalog.create(place).close()
    assert place.server is not None
    for password, why in (("hunter2", "password authentication failed"), ("", "no password supplied")):
        with pytest.raises(CatalogError) as caught:
            Catalog(as_guarded(place, password))
        said = str(caught.value)
        assert f"database '{place.server.database}' on 127.0.0.1, port {place.server.port}" in said
        assert why in said
        assert "PGPASSWORD" in said
        assert "hunter2" not in said


def test_a_missing_server_database_catalog_or_folder_is_said(place: Location) -> None:
    assert place.server is not None
    place.root.mkdir()
    (place.root / "data").mkdir()
    port, name = place.server.port, place.server.database
    with pytest.raises(CatalogError, match=f"'{name}' on 127.0.0.1, port {port} holds no catalog: .* `saeql init"):
        Catalog(place)
    with pytest.raises(CatalogError, match="holds no catalog"):
        Catalog(place, read_only=True)
    with pytest.raises(CatalogError, match=r"'none' on .* does not exist; make it with `createdb`"):
        Catalog(Location(place.root, Server("127.0.0.1", port, "saeql", "none")))
    with pytest.raises(CatalogError, match=r"on 127.0.0.1, port 1, .*refused.*see that the server runs"):
        Catalog(Location(place.root, Server("127.0.0.1", 1, "saeql", name)))
    with pytest.raises(CatalogError, match=r"data is missing: is .* the folder of this catalog, and mounted"):
        Catalog(Location(place.root / "elsewhere", place.server))


def test_a_server_that_goes_away_is_said_by_what_was_open(tmp_path: Path) -> None:
    bin = programs()
    if bin is None:
        pytest.skip("no PostgreSQL server is installed here: apt-get install postgresql")
    with running(bin) as server, Catalog.create(server.location(tmp_path / "catalog")) as catalog:
        server.stop()
        gone = f"on 127.0.0.1, port {server.port}, cannot be used: .*; see that the server runs"
        with pytest.raises(CatalogError, match=gone):
            catalog.snapshot()
        with pytest.raises(CatalogError, match=gone), catalog.write("nothing") as tx:
            tx.insert("leaks", [{"corpus": "c", "position": 1}])
        with pytest.raises(CatalogError, match=gone):
            catalog.commit("nothing", lambda tx: tx.insert("leaks", [{"corpus": "c", "position": 1}]))
        with pytest.raises(CatalogError, match=gone):
            Catalog(catalog.location, read_only=True)
