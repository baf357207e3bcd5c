"""A PostgreSQL of a test's own, to be stopped, killed and started again: the one under test belongs to all tests.

with cluster() as postgres:
    migrations.upgrade(postgres.url)
    postgres.kill9()
    postgres.start()
"""

import os
import pwd
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

from tests.conftest import POSTGRES
from tests.servers import free_port

# Debian keeps them off the PATH.
FOUND = [shutil.which("pg_ctl"), *sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), reverse=True)]
BIN = next((Path(found).parent for found in FOUND if found), None)

needs_cluster = pytest.mark.skipif(
    not POSTGRES or BIN is None, reason="Needs TEST_DATABASE_URL, and PostgreSQL's own programs (pg_ctl, initdb)."
)


class Cluster:
    """A PostgreSQL server with one empty database, at `url`. It keeps what it acknowledges: fsync is on."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"postgresql://cadre@127.0.0.1:{self.port}/postgres"

    def create(self) -> None:
        if os.getuid() == 0:
            shutil.chown(self.folder, "postgres")
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
        # PostgreSQL refuses to run as root.
        owner: dict[str, Any] = {}
        if os.getuid() == 0:
            account = pwd.getpwnam("postgres")
            owner = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        command = [BIN / program, "-D", self.folder / "data", *arguments]
        # Its server outlives it: a pipe would never end.
        with (self.folder / "told").open("w") as told:
            subprocess.run(command, cwd=self.folder, stdout=told, stderr=told, check=True, timeout=60, **owner)


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
