"""SQLite on the event loop: a statement takes microseconds, a thread a hundred. The loop never waits for a lock."""

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from sqlalchemy import Dialect
from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect

from app.engine.statement import Row, Runs, Statement, Values
from app.engine.transaction import Transaction, hold
from app.engine.violations import BUSY, OUT_OF_RANGE, explain, is_busy
from app.errors import Invalid, Unavailable

PATIENCE = 5.0  # seconds to wait for somebody else's lock
# WAL: readers and the writer don't wait for each other.
# SQLite ignores foreign keys unless every connection asks for them.
PRAGMAS = ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON")
# SQLite compares JSON as text: the same object must be the same text.
write_json = partial(json.dumps, sort_keys=True, allow_nan=False)
DIALECT: Dialect = sqlite_dialect(paramstyle="qmark", json_serializer=write_json)


class SQLite:
    """One file, two connections: readers must not see a transaction half done."""

    dialect = DIALECT

    def __init__(self, path: str) -> None:
        """Open `path`, a file or a `file:` URI. Raises Unavailable if that cannot be."""
        try:
            self._reader, self._writer = _connect(path), _connect(path)
        except sqlite3.Error as error:
            raise explain(error) or error from error
        self._turn = asyncio.Lock()
        self._holder: asyncio.Task[object] | None = None

    async def close(self) -> None:
        self._reader.close()
        self._writer.close()

    async def run(self, statement: Statement, values: Values) -> list[Row]:
        compiled = statement.on(DIALECT)
        arguments = compiled.arguments(values)
        if not statement.writes:
            return await _patiently(self._reader, compiled.sql, arguments)
        if not self._turn.locked():
            try:
                return _execute(self._writer, compiled.sql, arguments)
            except _Busy:
                pass
        async with self._writing():
            return await _patiently(self._writer, compiled.sql, arguments)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Runs]:
        async with self._writing():
            await _patiently(self._writer, "BEGIN IMMEDIATE")
            transaction = Transaction(DIALECT, self._run_in_transaction)
            async with hold(transaction, commit=self._commit, rollback=self._rollback) as db:
                yield db

    async def _run_in_transaction(self, statement: Statement, values: Values) -> list[Row]:
        compiled = statement.on(DIALECT)
        return _execute(self._writer, compiled.sql, compiled.arguments(values))

    async def _commit(self) -> None:
        await _patiently(self._writer, "COMMIT")

    async def _rollback(self) -> None:
        if self._writer.in_transaction:
            self._writer.execute("ROLLBACK")

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[None]:
        """The writer connection, for this task alone."""
        if self._holder is asyncio.current_task():
            raise RuntimeError("Inside transaction() give verbs what it yields, not the caller.")
        try:
            async with asyncio.timeout(PATIENCE):
                await self._turn.acquire()
        except TimeoutError:
            raise Unavailable(BUSY) from None
        self._holder = asyncio.current_task()
        try:
            yield
        finally:
            self._holder = None
            self._turn.release()


def prepare(connection: sqlite3.Connection) -> None:
    """Set PRAGMAS on a new connection. Of many that turn a new file to WAL at once, some are refused at once: again."""
    deadline = time.monotonic() + PATIENCE
    for pragma in PRAGMAS:
        while True:
            try:
                connection.execute(f"PRAGMA {pragma}")
                break
            except sqlite3.OperationalError as error:
                if not is_busy(error) or time.monotonic() > deadline:
                    connection.close()
                    raise
                time.sleep(0.005)


class _Busy(Unavailable):
    """Somebody else holds the lock: worth another try."""


def _connect(path: str) -> sqlite3.Connection:
    # isolation_level=None: autocommit. Python's default begins transactions behind one's back.
    connection = sqlite3.connect(path, isolation_level=None, cached_statements=256, uri=path.startswith("file:"))
    prepare(connection)
    connection.execute("PRAGMA busy_timeout=0")
    return connection


def _execute(connection: sqlite3.Connection, sql: str, arguments: Sequence[Any] = ()) -> list[Row]:
    try:
        # To the last row: only then has SQLite committed.
        return connection.execute(sql, arguments).fetchall()
    except OverflowError:
        raise Invalid(OUT_OF_RANGE) from None
    except sqlite3.Error as error:
        if is_busy(error):
            raise _Busy(BUSY) from error
        raise explain(error) or error from error


async def _patiently(connection: sqlite3.Connection, sql: str, arguments: Sequence[Any] = ()) -> list[Row]:
    """Wait for another process's lock without holding up the loop: busy_timeout would sleep inside C."""
    deadline, pause = None, 0.0005
    while True:
        try:
            return _execute(connection, sql, arguments)
        except _Busy:
            deadline = deadline or time.monotonic() + PATIENCE
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(pause)
        pause = min(2 * pause, 0.02)
