"""Where a catalog is: a folder, and its metadata in a SQLite file there or in a PostgreSQL database.

`postgres://USER[:PASSWORD]@HOST[:PORT]/DATABASE?data=/shared/folder` names both. The folder keeps a file
`catalog.postgres` with that address, so that the folder alone names the catalog too. A password is never stored or
shown: it is taken from the address or from PGPASSWORD each time.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from catalog.errors import InputError

METADATA = "catalog.sqlite"
ADDRESS = "catalog.postgres"
_SCHEMES = ("postgres://", "postgresql://")
_FORM = "postgres://USER[:PASSWORD]@HOST[:PORT]/DATABASE?data=FOLDER"


@dataclass(frozen=True)
class Server:
    """A PostgreSQL database. What is empty or None is left to libpq: PGHOST, PGUSER, PGPASSWORD and so on."""

    host: str
    port: int | None
    user: str
    database: str
    password: str = field(default="", repr=False, compare=False)

    def __str__(self) -> str:
        """For messages: without user and password."""
        return f"database {self.database!r} on {self.host or 'the local PostgreSQL'}, port {self.port or 5432}"

    def parameters(self, *, read_only: bool) -> str:
        """The libpq connection string, without the password. `read_only` makes the server refuse to write."""
        given = {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "dbname": self.database,
            "application_name": "saeql",
            "connect_timeout": 10,
            "options": "-c default_transaction_read_only=on" if read_only else "",
        }
        return " ".join(f"{name}={_escaped(str(value))}" for name, value in given.items() if value)


@dataclass(frozen=True)
class Location:
    """A catalog's folder, and the server of its metadata unless that is the folder's own file."""

    root: Path
    """Data, vectors, weights, caches, paid answers and locks."""
    server: Server | None = None

    @classmethod
    def parse(cls, text: "str | Path | Location") -> "Location":
        """What a person wrote: a folder or an address. Raises InputError saying what is wrong with an address.

        >>> str(Location.parse("postgres://me:secret@db.lab/saes?data=/shared/saes"))
        'postgres://me@db.lab/saes?data=/shared/saes'
        """
        if isinstance(text, Location):
            return text
        if str(text).startswith(_SCHEMES):
            return _address(str(text))
        root = Path(text)
        if (root / METADATA).exists() or not (root / ADDRESS).is_file():
            return cls(root)
        found = _address((root / ADDRESS).read_text(encoding="utf-8").strip())
        if found.root.resolve() != root.resolve():
            # A copy that wrote to the original's metadata would name files that the original lacks.
            raise InputError(
                f"{root} was copied or is mounted elsewhere: {ADDRESS} in it belongs to {found.root}; "
                f"name the catalog by its address: {_FORM}"
            )
        return found

    def __str__(self) -> str:
        """The folder or the address, without the password."""
        if self.server is None:
            return str(self.root)
        at = f"{quote(self.server.user, safe='')}@" if self.server.user else ""
        host = f"[{self.server.host}]" if ":" in self.server.host else quote(self.server.host, safe="")
        port = f":{self.server.port}" if self.server.port else ""
        return f"postgres://{at}{host}{port}/{quote(self.server.database, safe='')}?data={quote(str(self.root))}"

    def absolute(self) -> "Location":
        """The same place, whatever the current folder becomes."""
        return replace(self, root=self.root.absolute())

    def check_folder(self) -> None:
        """Raise InputError if the folder belongs to another catalog: its files would be taken for this one's."""
        if self.server is None:
            return
        address = self.root / ADDRESS
        owner = _address(address.read_text(encoding="utf-8").strip()).server if address.exists() else None
        # A host has several names; a database has one.
        if (self.root / METADATA).exists() or (owner and owner.database != self.server.database):
            whose = f"database {owner.database!r}" if owner else f"its own {METADATA}"
            raise InputError(
                f"the folder {self.root} belongs to {whose}, not to {self.server}: correct data= or the name"
            )

    def remember(self) -> None:
        """Write the address into the folder, so that the folder alone names the catalog. The first one stays."""
        if self.server is not None and not (self.root / ADDRESS).exists():
            (self.root / ADDRESS).write_text(f"{self.absolute()}\n", encoding="utf-8")


def _address(text: str) -> Location:
    """Parse an address. A message shows no more of it than what follows the password."""
    scheme, _, rest = text.partition("://")
    shown = f"{scheme}://...{'@' if '@' in rest else ''}{rest.rpartition('@')[2] if '@' in rest else ''}"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise _wrong(shown, "its host or port cannot be read (write special characters of a password as %40)") from None
    database = unquote(parts.path).strip("/")
    if not database:
        raise _wrong(shown, "it names no database")
    options = dict(part.partition("=")[::2] for part in parts.query.split("&") if part)
    unknown = sorted(options.keys() - {"data"})
    if parts.fragment or unknown:
        what = f"it has the option {unknown[0]!r}, and the only one is data" if unknown else "write # as %23"
        raise _wrong(shown, what)
    folder = unquote(options.get("data", ""))
    if not folder:
        raise _wrong(shown, "it lacks ?data=FOLDER, the folder of everything but the metadata")
    server = Server(unquote(host), port, unquote(parts.username or ""), database, unquote(parts.password or ""))
    return Location(Path(folder), server)


def _wrong(shown: str, what: str) -> InputError:
    return InputError(f"the catalog's address {shown} is not of the form {_FORM}: {what}")


def _escaped(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
