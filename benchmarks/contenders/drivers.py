"""The bare drivers under `limit`: fixed statements, prepared once, with the SQL that the verbs have.

?1, ?2 and ?3 are the caller's id, role and session; what else a statement takes follows.
"""

import asyncio
import sqlite3
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg import pq
from psycopg.adapt import PyFormat, Transformer
from psycopg.types.numeric import Int8BinaryDumper

CONNECTIONS = 10
USER = ("id", "created_at", "updated_at", "version", "username", "email", "full_name", "is_active", "is_superuser")
ITEM = ("id", "created_at", "updated_at", "version", "title", "description", "owner_id")
TYPES = {"?1": "bigint", "?2": "boolean", "?3": "bigint"}
ME = (
    "EXISTS (SELECT * FROM users AS me"
    " WHERE me.id = ?1 AND me.is_active AND me.is_superuser = ?2"
    " AND EXISTS (SELECT * FROM sessions WHERE sessions.id = ?3 AND stamp = 7 AND sessions.owner_id = me.id))"
)
MINE = f"{ME} AND owner_id = ?1"
OF_ITEM = ", ".join(ITEM)
# Each with the types of what it takes besides the caller; PostgreSQL wants to know.
STATEMENTS = {
    "standing": (f"SELECT 1 WHERE {ME}", ()),
    "me": (f"SELECT {', '.join(USER)} FROM users WHERE id = ?1 AND {ME}", ()),
    "get": (f"SELECT {OF_ITEM} FROM items WHERE id = ?4 AND {MINE}", ("bigint",)),
    "page": (f"SELECT {OF_ITEM} FROM items WHERE {MINE} ORDER BY id DESC LIMIT ?4 OFFSET ?5", ("bigint", "bigint")),
    "create": (
        "INSERT INTO items (created_at, updated_at, title, description, owner_id, version)"
        f" SELECT ?4, ?4, ?5, ?6, ?1, 1 WHERE {ME} RETURNING {OF_ITEM}",
        ("timestamptz", "varchar", "varchar"),
    ),
    "update": (
        f"UPDATE items SET updated_at = ?4, title = ?5, version = version + 1 WHERE id = ?6 AND {MINE}"
        f" RETURNING {OF_ITEM}",
        ("timestamptz", "varchar", "bigint"),
    ),
    "delete": (f"DELETE FROM items WHERE id = ?4 AND {MINE} RETURNING id", ("bigint",)),
}
Row = tuple[Any, ...]


class SQLite:
    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            self._connection.execute(f"PRAGMA {pragma}")

    async def run(self, name: str, values: Row) -> list[Row]:
        rows = self._connection.execute(STATEMENTS[name][0], values).fetchall()
        if len(rows) == 0 or len(rows[0]) == 1:
            return rows
        return [(row[0], iso(row[1]), iso(row[2]), *row[3:]) for row in rows]

    @staticmethod
    def now() -> object:
        return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def iso(stored: str) -> str:
    return f"{stored.replace(' ', 'T')}Z"


class Postgres:
    """Connections that take turns; each answers one statement at a time."""

    def __init__(self) -> None:
        self._idle: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()

    async def open(self, url: str) -> None:
        for _ in range(CONNECTIONS):
            connection = Connection(await psycopg.AsyncConnection.connect(url, autocommit=True))
            for name in STATEMENTS:
                await connection.prepare(name)
            self._idle.put_nowait(connection)

    async def run(self, name: str, values: Row) -> list[Row]:
        connection = await self._idle.get()
        try:
            return await connection.run(name, values)
        finally:
            self._idle.put_nowait(connection)

    @staticmethod
    def now() -> object:
        return datetime.now(UTC)


class Connection:
    """libpq as it is, waiting on the event loop."""

    def __init__(self, connection: psycopg.AsyncConnection[Row]) -> None:
        connection.adapters.register_dumper(int, Int8BinaryDumper)
        self._keep, self._pg, self._transformer = connection, connection.pgconn, Transformer(connection)
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[Any] = self._loop.create_future()
        self._pg.nonblocking = 1
        self._loop.add_reader(self._pg.socket, self._read)

    async def prepare(self, name: str) -> None:
        sql, more = STATEMENTS[name]
        types = TYPES | {f"?{number}": kind for number, kind in enumerate(more, 4)}
        for mark, kind in types.items():
            sql = sql.replace(mark, f"${mark[1:]}::{kind}")
        self._pg.send_prepare(name.encode(), sql.encode())
        await self._result()

    async def run(self, name: str, values: Row) -> list[Row]:
        transformer = self._transformer
        parameters = transformer.dump_sequence(values, [PyFormat.BINARY] * len(values))
        self._pg.send_query_prepared(name.encode(), parameters, param_formats=transformer.formats, result_format=1)
        result = await self._result()
        transformer.set_pgresult(result)
        return transformer.load_rows(0, result.ntuples, tuple)

    async def _result(self) -> Any:  # psycopg's own
        self._answer = self._loop.create_future()
        self._pg.flush()
        result = await self._answer
        if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
            raise psycopg.errors.error_from_result(result)
        return result

    def _read(self) -> None:
        self._pg.consume_input()
        while not self._pg.is_busy():
            result = self._pg.get_result()
            if result is None:
                return
            self._answer.set_result(result)


async def connect(url: str) -> SQLite | Postgres:
    if url.startswith("sqlite"):
        return SQLite(url.removeprefix("sqlite:///"))
    database = Postgres()
    await database.open(url)
    return database
