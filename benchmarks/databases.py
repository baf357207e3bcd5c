"""A database for each contender, all seeded alike: copies of a file, or of a template on a PostgreSQL server."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from sqlalchemy import Engine, NullPool, create_engine, make_url, text

from benchmarks.seed import ITEMS, USERS
from benchmarks.servers import processes

SEED = Path(__file__).with_name("seed.py")
PREPARE = text(
    "INSERT INTO items (title, description, owner_id, created_at, updated_at, version)"
    " SELECT title, description, :owner, created_at, updated_at, 1 FROM items WHERE id <= :count ORDER BY id"
)


class Databases:
    """Makes the copies, brings each back to what was seeded, and drops them all in the end."""

    def __init__(self, kind: str, key: str, folder: Path, postgres: str | None) -> None:
        self.kind, self._key, self._folder, self._postgres = kind, key, folder, postgres
        self._made: dict[str, Engine] = {}
        self._postmaster = self._find_postmaster() if kind == "postgresql" else None
        self.tokens: dict[Path, list[str]] = {}  # by checkout

    def make(self, name: str, checkout: Path) -> str:
        """The URL of a new one for the contender called `name`."""
        if checkout not in self.tokens:
            seed = self._create(f"seed{len(self.tokens)}")
            self.tokens[checkout] = self._fill(seed, checkout)
        source = f"seed{list(self.tokens).index(checkout)}"
        url = self._create(name, source)
        self._analyze(name)
        return url

    def _fill(self, url: str, checkout: Path) -> list[str]:
        environment = {**os.environ, "SECRET_KEY": self._key, "DATABASE_URL": url, "ENVIRONMENT": "production"}
        done = subprocess.run(
            [sys.executable, str(SEED), url], cwd=checkout, env=environment, stdout=subprocess.PIPE, check=True
        )
        tokens: list[str] = json.loads(done.stdout)
        return tokens

    def _create(self, name: str, source: str | None = None) -> str:
        if self.kind == "sqlite":
            path = self._folder / f"{name}.db"
            if source:
                shutil.copyfile(self._folder / f"{source}.db", path)
            url = f"sqlite:///{path}"
        else:
            there = make_url(self._postgres or "")
            database = f"{self._stem()}_{name}_bench"
            copied = f' TEMPLATE "{self._stem()}_{source}_bench"' if source else ""
            self._on_server(
                f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)', f'CREATE DATABASE "{database}"{copied}'
            )
            url = there.set(database=database).render_as_string(hide_password=False)
        self._made[name] = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        return url

    def _analyze(self, name: str) -> None:
        with self._made[name].connect() as connection:
            if self.kind == "postgresql":
                # A vacuum of its own accord would fall into somebody's slice.
                connection.execute(text("ALTER TABLE items SET (autovacuum_enabled = off)"))
                connection.execute(text("VACUUM ANALYZE"))
            else:
                connection.execute(text("PRAGMA journal_mode = WAL"))
                connection.execute(text("ANALYZE"))

    def add_doomed(self, name: str, count: int) -> int:
        """That many rows to be deleted, of the last user; the id of the first."""
        with self._made[name].connect() as connection:
            connection.execute(PREPARE, {"owner": USERS, "count": count})
            last = connection.execute(text("SELECT max(id) FROM items")).scalar_one()
        return int(last) - count + 1

    def clean(self, name: str) -> None:
        """Delete what was created, so that no contender works on a larger table than another."""
        with self._made[name].connect() as connection:
            connection.execute(text(f"DELETE FROM items WHERE id > {ITEMS}"))
            connection.execute(text("VACUUM items" if self.kind == "postgresql" else "PRAGMA wal_checkpoint(TRUNCATE)"))

    def cpu(self) -> float:
        """Seconds of CPU that the PostgreSQL cluster has used, backends that have ended included; of SQLite none."""
        if self._postmaster is None:
            return 0.0
        mine = ((pid, process) for pid, process in processes().items())
        return sum(process.cpu for pid, process in mine if self._postmaster in (pid, process.parent))

    def drop(self) -> None:
        for engine in self._made.values():
            if self.kind == "postgresql":
                self._on_server(f'DROP DATABASE IF EXISTS "{engine.url.database}" WITH (FORCE)')

    def _find_postmaster(self) -> int | None:
        """The parent of every backend; unknown where the server is on another machine."""
        engine = create_engine(self._postgres or "", poolclass=NullPool)
        with engine.connect() as connection:
            backend = processes().get(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
        is_here = make_url(self._postgres or "").host in (None, "127.0.0.1", "::1", "localhost")
        return backend.parent if backend and is_here else None

    def _stem(self) -> str:
        return (make_url(self._postgres or "").database or "").removesuffix("_test").removesuffix("_bench")

    def _on_server(self, *commands: str) -> None:
        engine = create_engine(self._postgres or "", poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for command in commands:
                connection.execute(text(command))
