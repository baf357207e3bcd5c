"""From a URL to a database that verbs can run on."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import make_url

from app.engine.sqlite import SQLite
from app.engine.statement import Database
from app.errors import CannotStart


@asynccontextmanager
async def connect(url: str, *, size: int = 10, pgbouncer: bool = False) -> AsyncIterator[Database]:
    """The database at `url`, for the event loop that asks; PostgreSQL with at most `size` connections.

    Raises Unavailable if SQLite's file cannot be opened, CannotStart without PostgreSQL's driver, or on Windows.
    """
    database = _sqlite(url) if url.startswith("sqlite") else _postgres(url, size, pgbouncer)
    try:
        yield database
    finally:
        await database.close()


def _sqlite(url: str) -> Database:
    return SQLite(url.removeprefix("sqlite:///").removesuffix("&uri=true"))


def _postgres(url: str, size: int, pgbouncer: bool) -> Database:
    try:
        # psycopg is an optional extra: who stays on SQLite need not have it.
        from app.engine.postgres import Postgres
    except ImportError:
        raise CannotStart("PostgreSQL needs its driver: pip install -e '.[postgres]'") from None
    if sys.platform == "win32":
        raise CannotStart("On Windows, Cadre runs on SQLite; for PostgreSQL start it inside WSL.")
    return Postgres(make_url(url).render_as_string(hide_password=False), size=size, pgbouncer=pgbouncer)
