"""A PostgreSQL server of the tests' own on a loopback port, and copies of catalogs with either kind of metadata."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from catalog import Location
from catalog.store.location import ADDRESS, Server

PASSWORD = "pa'ss wörd\\@/:%"
"""Of the role `guarded`; the role `saeql` needs none."""
_SETTINGS = {"fsync": "off", "shared_buffers": "32MB", "unix_socket_directories": "", "listen_addresses": "127.0.0.1"}
_RULES = "host all guarded 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n"


def programs() -> Path | None:
    """The folder of initdb, postgres and psql; None where no server is installed."""
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -int(path.parent.name))
    return next((place for place in places if (place / "postgres").exists()), None)


@dataclass
class Postgres:
    """A running server."""

    bin: Path
    port: int
    process: "subprocess.Popen[bytes]"

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run one statement as the superuser; its rows as text."""
        command = [self.bin / "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", str(self.port)]
        command += ["-U", "saeql", "-d", database, "-c", statement]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def location(self, folder: Path, template: str | None = None) -> Location:
        """A catalog's place in a database of its own, empty or a copy of another."""
        name = f"t_{uuid.uuid4().hex}"
        made = f'CREATE DATABASE "{name}"' + (f' TEMPLATE "{template}"' if template else "")
        for patience in range(100):
            try:
                self.sql(made)
                break
            except subprocess.CalledProcessError as error:
                # The server notices a little later that a connection to the template was closed.
                if "being accessed" not in error.stderr or patience == 99:
                    raise
                time.sleep(0.05)
        return Location(folder, Server("127.0.0.1", self.port, "saeql", name))

    def contents(self, database: str) -> str:
        """All tables with their rows, as SQL."""
        command = [self.bin / "pg_dump", "-h", "127.0.0.1", "-p", str(self.port), "-U", "saeql", database]
        dump = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        # Newer versions guard each dump with a random word.
        return "\n".join(line for line in dump.splitlines() if "restrict " not in line)

    def stop(self) -> None:
        """At once, with everything that is under way lost."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(30)


@contextmanager
def running(bin: Path) -> Iterator[Postgres]:
    """Start a server as a user without rights, and remove all of it in the end."""
    home = Path(tempfile.mkdtemp(prefix="saeql-postgres-"))
    user: int | None = None
    if os.geteuid() == 0:
        # initdb refuses root.
        nobody = pwd.getpwnam("nobody")
        user = nobody.pw_uid
        os.chown(home, nobody.pw_uid, nobody.pw_gid)
    data = home / "data"
    made = [bin / "initdb", "-D", data, "-U", "saeql", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
    try:
        subprocess.run(made, user=user, cwd=home, check=True, capture_output=True)
        (data / "pg_hba.conf").write_text(_RULES)
        with (home / "log").open("wb") as log:
            server = _start(bin, data, user, log.fileno())
            try:
                server.sql(f"CREATE ROLE guarded LOGIN SUPERUSER PASSWORD {_quoted(PASSWORD)}")
                yield server
            finally:
                server.stop()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _start(bin: Path, data: Path, user: int | None, log: int) -> Postgres:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    options = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
    command = [bin / "postgres", "-D", data, "-p", str(port), *options]
    process = subprocess.Popen(command, user=user, cwd=data, stdout=log, stderr=log, start_new_session=True)
    server = Postgres(bin, port, process)
    for _ in range(200):
        try:
            server.sql("SELECT 1")
            return server
        except subprocess.CalledProcessError:
            if process.poll() is not None:
                break
            time.sleep(0.05)
    server.stop()
    raise RuntimeError(f"PostgreSQL did not start: {(data.parent / 'log').read_text()}")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def copied(root: Path, to: Path, postgres: Postgres | None = None) -> Path:
    """A copy of a closed catalog that a test may change; with PostgreSQL, of its database too."""
    shutil.copytree(root, to)
    if (to / ADDRESS).exists():
        server = Location.parse(root).server
        assert postgres is not None
        assert server is not None
        (to / ADDRESS).unlink()
        postgres.location(to, server.database).remember()
    return to
