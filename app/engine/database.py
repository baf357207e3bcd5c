"""From a URL to a database that verbs can run on, and to Sessions beside them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import make_url

from app.engine.sqlite import SQLite
from app.engine.statement import Runs


@asynccontextmanager
async def connect(url: str, *, size: int = 10) -> AsyncIterator[Runs]:
    """The database at `url`, for the event loop that asks, with at most `size` connections.

    Raises Unavailable if it cannot be opened.
    """
    database = _open(url, size)
    try:
        yield database
    finally:
        await database.close()


def _open(url: str, size: int) -> "SQLite | Postgres":
    if url.startswith("sqlite:///"):
        return SQLite(url.removeprefix("sqlite:///").removesuffix("&uri=true"))
    # psycopg is an optional extra: who stays on SQLite need not have it.
    from app.engine.postgres import Postgres

    return Postgres(make_url(url).render_as_string(hide_password=False), size=size)
