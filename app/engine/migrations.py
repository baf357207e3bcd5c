"""Bring a database to the newest migration, or tell whether it is there. Of servers that start at once, one does it."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, NullPool, String, column, create_engine, event, make_url, select, table, text
from sqlalchemy.exc import DBAPIError

from alembic import command
from app.engine import recording
from app.engine.statement import Runs, Statement
from app.errors import CannotStart, Refusal
from app.settings import ROOT

LOCK = 0x63616472  # any number, the same for every server
_REVISION = Statement(select(column("version_num", String)).select_from(table("alembic_version")))


def upgrade(url: str, revision: str = "head") -> None:
    """Migrate the database at `url`. Raises CannotStart if it cannot be reached or written."""
    config = _config()
    with connect(url) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def is_at_head(url: str) -> bool:
    """Whether the database at `url` has the newest migration, and records all changes.

    Raises CannotStart if it cannot be reached.
    """
    with connect(url) as connection:
        at_head = MigrationContext.configure(connection).get_current_revision() == _head()
        return at_head and recording.is_installed(connection)


async def is_current(database: Runs) -> bool:
    """The same, asked of an open `database`. Raises Unavailable if it does not answer."""
    try:
        rows = await database.run(_REVISION, {})
    except Refusal:
        raise
    except Exception:  # whichever the driver has for it
        return False  # there is not even a table of revisions
    return rows == [(_head(),)]


@contextmanager
def connect(url: str) -> Iterator[Connection]:
    """One transaction that holds off every other migration. On SQLite foreign keys are off: a table that is
    rebuilt must not take its children along."""
    where = make_url(url)
    is_sqlite = where.get_backend_name() == "sqlite"
    # PgBouncer lends a server's connection to the next client, with what was prepared on it.
    postgres = {"connect_timeout": 10, "prepare_threshold": None}
    engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": 30} if is_sqlite else postgres)
    if is_sqlite:
        event.listen(engine, "connect", _begin_ourselves)
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    try:
        with engine.begin() as connection:
            if not is_sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            yield connection
    except DBAPIError as error:
        reason = " ".join(str(error.orig).split())
        raise CannotStart(f"The database {where!r} of DATABASE_URL refuses: {reason}.") from error
    except CommandError as error:
        cures = {"heads": "Run: alembic merge heads -m merge", "up to date": "First run: python3 -m app migrate"}
        cure = next((cures[word] for word in cures if word in str(error)), "Is the database of another version?")
        raise CannotStart(f"The migrations do not fit: {str(error).rstrip('.')}. {cure}") from error


@lru_cache(1)
def _head() -> str | None:
    return ScriptDirectory.from_config(_config()).get_current_head()


def _config() -> Config:
    return Config(toml_file=ROOT / "pyproject.toml")


def _begin_ourselves(connection: sqlite3.Connection, _record: object) -> None:
    # The driver would commit before each CREATE TABLE, and leave half a migration behind when it fails.
    connection.isolation_level = None
