"""A PostgreSQL or a PgBouncer of a test's own: the server under test belongs to all tests.

with cluster() as postgres:
    migrations.upgrade(postgres.url)
    postgres.kill9()
    postgres.start()
"""

import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import NullPool, create_engine, make_url
from sqlalchemy.exc import OperationalError

from tests.conftest import POSTGRES
from tests.servers import free_port

# Debian keeps them off the PATH.
FOUND = [shutil.which("pg_ctl"), *sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), reverse=True)]
BIN = next((Path(found).parent for found in FOUND if found), None)

needs_cluster = pytest.mark.skipif(
    not POSTGRES or BIN is None, reason="Needs TEST_DATABASE_URL, and PostgreSQL's own programs (pg_ctl, initdb)."
)
PGBOUNCER = shutil.which("pgbouncer", path=os.pathsep.join((os.environ["PATH"], "/usr/sbin")))
needs_pgbouncer = pytest.mark.skipif(
    not POSTGRES or PGBOUNCER is None, reason="Needs TEST_DATABASE_URL, and pgbouncer."
)


class Cluster:
    """A PostgreSQL server with one empty database, at `url`. It keeps what it acknowledges: fsync is on."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"postgresql://cadre@127.0.0.1:{self.port}/postgres"

    def create(self) -> None:
        give_away(self.folder)
        self._run("initdb", "-U", "cadre", "-A", "trust", "-E", "UTF8", "--no-sync")
        with (self.folder / "data" / "postgresql.conf").open("a") as file:
            file.write(f"port={self.port}\nlisten_addresses='127.0.0.1'\nunix_socket_directories='{self.folder}'\n")

    def start(self) -> None:
        """Start, also after a crash, and wait until it answers."""
        for _ in range(50):
            # Again, because after kill9 the last of its processes may still hold its memory.
            with suppress(subprocess.CalledProcessError):
                self._run("pg_ctl", "start", "-w", "-s", "-l", str(self.folder / "log"))
                return
            time.sleep(0.1)
        raise AssertionError((self.folder / "log").read_text()[-1000:])

    def stop(self, mode: str = "fast") -> None:
        """In order: `smart`, `fast` or `immediate`, as pg_ctl calls them."""
        self._run("pg_ctl", "stop", "-w", "-s", "-m", mode)

    def restart(self) -> None:
        self.stop()
        self.start()

    def kill9(self) -> None:
        """A crash: nothing is finished, and no client is told."""
        pid = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)

    def _run(self, program: str, *arguments: str) -> None:
        assert BIN is not None
        command = [BIN / program, "-D", self.folder / "data", *arguments]
        # Its server outlives it: a pipe would never end.
        with (self.folder / "told").open("w") as told:
            subprocess.run(command, cwd=self.folder, stdout=told, stderr=told, check=True, timeout=60, **owner())


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A running PostgreSQL. In a folder of its own: pytest's are closed to other users, and root must be another."""
    with tempfile.TemporaryDirectory() as folder:
        postgres = Cluster(Path(folder))
        postgres.create()
        postgres.start()
        try:
            yield postgres
        finally:
            with suppress(subprocess.CalledProcessError):  # it may be down already
                postgres.stop("immediate")


@contextmanager
def pooler(url: str) -> Iterator[str]:
    """The URL of a PgBouncer in transaction mode, with two server connections, in front of `url`."""
    assert PGBOUNCER is not None
    there, port = make_url(url), free_port()
    version = subprocess.run([PGBOUNCER, "-V"], capture_output=True, text=True, check=True).stdout
    # From 1.21 on it can follow prepared statements; before, it does not know the word.
    is_new = [int(part) for part in re.findall(r"\d+", version)[:2]] >= [1, 21]
    with tempfile.TemporaryDirectory() as folder:
        config, users = Path(folder) / "pgbouncer.ini", Path(folder) / "users"
        users.write_text(f'"{there.username}" "{there.password or ""}"\n')
        config.write_text(
            f"[databases]\n* = host={there.host} port={there.port or 5432}\n[pgbouncer]\n"
            f"listen_addr=127.0.0.1\nlisten_port={port}\nunix_socket_dir=\nauth_type=trust\nauth_file={users}\n"
            f"pool_mode=transaction\ndefault_pool_size=2\n{'max_prepared_statements=0' if is_new else ''}\n"
        )
        for path in (Path(folder), config, users):
            give_away(path)
        told = subprocess.DEVNULL
        process = subprocess.Popen([PGBOUNCER, "-q", config], stdout=told, stderr=told, **owner())
        through = there.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
        try:
            for _ in range(100):
                with suppress(OperationalError), create_engine(through, poolclass=NullPool).connect():
                    break
                time.sleep(0.05)
            yield through
        finally:
            process.terminate()
            process.wait(10)


def owner() -> dict[str, Any]:
    """For subprocess: whom to run as. PostgreSQL and PgBouncer refuse to run as root."""
    if os.getuid() != 0:
        return {}
    account = pwd.getpwnam("postgres")
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def give_away(path: Path) -> None:
    """To whom it is run as."""
    if os.getuid() == 0:
        shutil.chown(path, "postgres")


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A server's process that says nothing for as long as it lasts, and keeps its connection open."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
