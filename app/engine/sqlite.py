"""SQLite on the event loop: a statement takes microseconds, a thread a hundred. The loop never waits for a lock.

What takes longer is interrupted, and begun anew in a thread; what takes too long there is interrupted for good.
"""

import asyncio
import json
import math
import sqlite3
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

from sqlalchemy import Dialect
from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect

from app.engine.sqlite_connection import Busy, Connection, TooLong
from app.engine.statement import Begun, Row, Statement, Values
from app.engine.transaction import Transaction, hold
from app.engine.violations import explain
from app.errors import Unavailable

SWITCH = 0.0005  # seconds after which a thread that waits for the GIL gets it
CHECKPOINT = 1000  # changed rows after which the write-ahead log goes into the file
# SQLite compares JSON as text: the same object must be the same text.
write_json = partial(json.dumps, sort_keys=True, allow_nan=False)
DIALECT: Dialect = sqlite_dialect(paramstyle="qmark", json_serializer=write_json)


class SQLite:
    """One file, three connections: readers must not see a transaction half done, nor wait for a long statement."""

    dialect = DIALECT

    def __init__(self, path: str) -> None:
        """Open `path`, a file or a `file:` URI. Raises Unavailable if that cannot be."""
        try:
            self._reader, self._long_reader = Connection(path), Connection(path)
            self._writer = Connection(path, writes=True)
        except sqlite3.Error as error:
            raise explain(error) or error from error
        # A loop that lets go of the GIL for a moment every other millisecond is never asked for it: after 5 ms of
        # waiting, Python's default, it has it back, and a thread waits for ever.
        sys.setswitchinterval(SWITCH)
        self._checkpointed = 0
        self._checkpointing: asyncio.Task[None] | None = None

    async def close(self) -> None:
        if self._checkpointing:
            await asyncio.wait([self._checkpointing])
        for connection in (self._reader, self._long_reader, self._writer):
            connection.close()

    async def run(self, statement: Statement, values: Values) -> list[Row]:
        compiled = statement.on(DIALECT)
        arguments = compiled.arguments(values)
        if statement.writes:
            return await self._write(compiled.sql, arguments)
        if not statement.unbounded:
            with suppress(TooLong):
                return await self._reader.run(self._reader.execute, compiled.sql, arguments)
        async with self._long_reader.alone() as connection:
            return await connection.run(connection.execute, compiled.sql, arguments, in_thread=True)

    async def _write(self, sql: str, arguments: Sequence[Any]) -> list[Row]:
        try:
            with suppress(TooLong):
                if not self._writer.is_taken:
                    with suppress(Busy):
                        return self._writer.write(sql, arguments)
                async with self._writer.alone() as connection:
                    return await connection.run(connection.write, sql, arguments)
            async with self._writer.alone() as connection:
                return await connection.run(connection.write, sql, arguments, in_thread=True)
        finally:
            self._checkpoint_if_due()

    @asynccontextmanager
    async def transaction(self, *, limit: float | None = None) -> AsyncIterator[Begun]:
        async with self._writer.alone() as connection:
            await connection.run(connection.begin)
            transaction = Transaction(DIALECT, self._run_in_transaction, self._command)
            async with hold(transaction, limit, commit=self._commit, rollback=self._rollback) as db:
                yield db
        self._checkpoint_if_due()

    async def _run_in_transaction(self, statement: Statement, values: Values) -> list[Row]:
        compiled = statement.on(DIALECT)
        arguments = compiled.arguments(values)
        # A write that is interrupted takes its whole transaction along, so it gets its time at once.
        if not statement.writes and not statement.unbounded:
            with suppress(TooLong):
                return await self._writer.run(self._writer.execute, compiled.sql, arguments)
        return await self._writer.run(self._writer.execute, compiled.sql, arguments, in_thread=True)

    async def _command(self, sql: str) -> None:
        await self._writer.run(partial(self._writer.execute, sql, limit=math.inf))

    async def _commit(self) -> None:
        await self._writer.run(self._writer.commit)

    async def _rollback(self) -> None:
        self._writer.rollback()

    def _checkpoint_if_due(self) -> None:
        """SQLite would do it in the middle of somebody's commit, and the loop would wait for the disk."""
        if self._writer.sqlite.total_changes - self._checkpointed >= CHECKPOINT and not self._checkpointing:
            self._checkpointing = asyncio.create_task(self._checkpoint())

    async def _checkpoint(self) -> None:
        try:
            # Without a writer it gets to the end of the log, so that the log begins anew and does not grow for ever.
            async with self._writer.alone() as connection:
                await connection.run(connection.execute, "PRAGMA wal_checkpoint(RESTART)", in_thread=True)
        except Unavailable:
            pass  # somebody else is writing, or reads what is old: next time
        finally:
            self._checkpointed = self._writer.sqlite.total_changes
            self._checkpointing = None
