"""Says where a catalog is: a folder, with its metadata in a SQLite file there or in a PostgreSQL database.

`postgres://USER[:PASSWORD]@HOST[:PORT]/DATABASE?data=/shared/folder` names both. The folder keeps a file
`catalog.postgres` with that address, so that the folder alone names the catalog too. A password is never stored or
shown: it is taken from the address or from PGPASSWORD each time.
"""

import re
import shlex
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from catalog.errors import InputError
from catalog.trust.permissions import allow, is_allowed

METADATA = "catalog.sqlite"
ADDRESS = "catalog.postgres"
_SCHEMES = ("postgres://", "postgresql://")
_PASSWORDS = re.compile(r"(://[^:/@?]*:)[^\0]*@"), re.compile(r"(password=)[^&\s]*", re.IGNORECASE)
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

    @property
    def place(self) -> str:
        """The name that the user of a machine allows: the database, and the host that a password would go to."""
        return f"{self.host.lower()}:{self.port or ''}/{self.database}"

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

        An address that a folder remembers counts only if the user of this machine has named it before: the folder
        may be somebody else's, and PGPASSWORD would go to the host that it names.

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
        found = _address(_read_address(root))
        if not found.root.is_absolute() or found.root.resolve() != root.resolve():
            # A copy that wrote to the original's metadata would name files that the original lacks.
            raise InputError(
                f"{root} was copied or is mounted elsewhere: {ADDRESS} in it belongs to {found.root}; "
                f"name the catalog by its address: {_FORM}"
            )
        if found.server and not is_allowed("databases", found.server.place):
            raise InputError(
                f"{root} says that its metadata is in {found.server}, which was not used from this machine before: "
                f"if you trust it, name it by its address once: -C {shlex.quote(str(found))}"
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
        owner = _address(_read_address(self.root)).server if address.exists() else None
        # A host has several names; a database has one.
        if (self.root / METADATA).exists() or (owner and owner.database != self.server.database):
            whose = f"database {owner.database!r}" if owner else f"its own {METADATA}"
            raise InputError(
                f"the folder {self.root} belongs to {whose}, not to {self.server}: correct data= or the name"
            )

    def allow(self) -> None:
        """Let folders of this machine name the database: the user has done so. What cannot be kept is asked again."""
        if self.server is not None:
            with suppress(InputError):
                allow("databases", self.server.place)

    def remember(self) -> None:
        """Write the address into the folder, so that the folder alone names the catalog. The first one stays."""
        if self.server is None:
            return
        self.allow()
        if not (self.root / ADDRESS).exists():
            (self.root / ADDRESS).write_text(f"{self.absolute()}\n", encoding="utf-8")


def _read_address(root: Path) -> str:
    """The address that a folder remembers. Raises InputError if that is no line of text."""
    path = root / ADDRESS
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(4096).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as an address: {_FORM}") from error


def without_password(text: str) -> str:
    """One argument of a command, with `***` for the password if it is an address.

    >>> without_password("postgres://me:secret@db.lab/saes?data=/s")
    'postgres://me:***@db.lab/saes?data=/s'
    """
    in_address, as_option = _PASSWORDS
    return as_option.sub(r"\1***", in_address.sub(r"\1***@", text))


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
