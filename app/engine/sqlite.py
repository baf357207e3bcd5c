"""SQLite on the event loop: a statement takes microseconds, a thread a hundred. The loop never waits for a lock.

What takes longer is interrupted, and begun anew in a thread; what takes too long there is interrupted for good.
"""

import asyncio
import json
import math
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

from sqlalchemy import Dialect
from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect

from app.engine import waiting
from app.engine.statement import Row, Runs, Statement, Values
from app.engine.transaction import Transaction, hold
from app.engine.violations import OUT_OF_RANGE, TOO_LONG, explain, is_busy
from app.errors import Invalid, Unavailable

LOOP_LIMIT = 0.05  # seconds that a statement may hold up the loop
STATEMENT_LIMIT = 5.0  # seconds that it may take in a thread
STEPS = 10_000  # of SQLite's virtual machine between two looks at the clock: less than a millisecond
CHECKPOINT = 1000  # changed rows after which the write-ahead log goes into the file
# WAL: readers and the writer don't wait for each other.
# SQLite ignores foreign keys unless every connection asks for them.
# mmap_size: SQLite's own cache of pages is void after each write by another connection; the system's is not.
PRAGMAS = ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON")
# SQLite compares JSON as text: the same object must be the same text.
write_json = partial(json.dumps, sort_keys=True, allow_nan=False)
DIALECT: Dialect = sqlite_dialect(paramstyle="qmark", json_serializer=write_json)


class SQLite:
    """One file, three connections: readers must not see a transaction half done, nor wait for a long statement."""

    dialect = DIALECT

    def __init__(self, path: str) -> None:
        """Open `path`, a file or a `file:` URI. Raises Unavailable if that cannot be."""
        try:
            self._reader, self._long_reader, self._writer = Connection(path), Connection(path), Connection(path)
        except sqlite3.Error as error:
            raise explain(error) or error from error
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
            with suppress(_TooLong):
                return await self._reader.run(self._reader.execute, compiled.sql, arguments)
        async with self._long_reader.alone() as connection:
            return await connection.run(connection.execute, compiled.sql, arguments, in_thread=True)

    async def _write(self, sql: str, arguments: Sequence[Any]) -> list[Row]:
        try:
            with suppress(_TooLong):
                if not self._writer.is_taken:
                    with suppress(_Busy):
                        return self._writer.write(sql, arguments)
                async with self._writer.alone() as connection:
                    return await connection.run(connection.write, sql, arguments)
            async with self._writer.alone() as connection:
                return await connection.run(connection.write, sql, arguments, in_thread=True)
        finally:
            self._checkpoint_if_due()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Runs]:
        async with self._writer.alone() as connection:
            await connection.run(connection.begin)
            transaction = Transaction(DIALECT, self._run_in_transaction)
            async with hold(transaction, commit=self._commit, rollback=self._rollback) as db:
                yield db
        self._checkpoint_if_due()

    async def _run_in_transaction(self, statement: Statement, values: Values) -> list[Row]:
        compiled = statement.on(DIALECT)
        arguments = compiled.arguments(values)
        # A write that is interrupted takes its whole transaction along, so it gets its time at once.
        if not statement.writes and not statement.unbounded:
            with suppress(_TooLong):
                return await self._writer.run(self._writer.execute, compiled.sql, arguments)
        return await self._writer.run(self._writer.execute, compiled.sql, arguments, in_thread=True)

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


class Connection:
    """On the loop for statements of microseconds; with a thread of its own, for whoever has it alone, for the rest."""

    def __init__(self, path: str) -> None:
        # isolation_level=None: autocommit. Python's default begins transactions behind one's back.
        self.sqlite = sqlite3.connect(
            path, isolation_level=None, cached_statements=256, check_same_thread=False, uri=path.startswith("file:")
        )
        prepare(self.sqlite)
        self.sqlite.executescript("PRAGMA busy_timeout=0; PRAGMA wal_autocheckpoint=0")
        self._deadline = 0.0
        self.sqlite.set_progress_handler(lambda: time.monotonic() > self._deadline, STEPS)
        self._thread = ThreadPoolExecutor(1, "sqlite")
        self._turn = asyncio.Lock()
        self._holder: asyncio.Task[object] | None = None

    @property
    def is_taken(self) -> bool:
        return self._turn.locked()

    def close(self) -> None:
        if self.is_taken:  # else it would keep SQLite from writing the rest of the log into the file
            self.sqlite.interrupt()
        self._thread.shutdown(cancel_futures=True)
        self.sqlite.close()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator["Connection"]:
        """The connection, for this task alone. Raises Unavailable when it is not free in time."""
        if self._holder is asyncio.current_task():
            raise RuntimeError("Inside transaction() give verbs what it yields, not the caller.")
        async with waiting.place(self._turn):
            self._holder = asyncio.current_task()
            try:
                yield self
            finally:
                self._holder = None

    def execute(self, sql: str, arguments: Sequence[Any] = (), limit: float | None = None) -> list[Row]:
        """Now, and for no longer than `limit` seconds."""
        self._deadline = time.monotonic() + (limit or LOOP_LIMIT)
        try:
            return self.sqlite.execute(sql, arguments).fetchall()
        except OverflowError:
            raise Invalid(OUT_OF_RANGE) from None
        except sqlite3.Error as error:
            if is_busy(error):
                raise _Busy(waiting.BUSY) from error
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
                raise _TooLong(TOO_LONG) from None
            raise explain(error) or error from error

    def write(self, sql: str, arguments: Sequence[Any], limit: float | None = None) -> list[Row]:
        """`execute` as a transaction of its own: kept if it returns, and undone if it raises."""
        # Without BEGIN the interruption may come after the commit, and what is begun anew would be done twice.
        self.begin()
        try:
            rows = self.execute(sql, arguments, limit)
            self.commit()
            return rows
        finally:
            self.rollback()

    # The clock is looked at once more after each statement, so these three would be interrupted when they are done.

    def begin(self) -> list[Row]:
        return self.execute("BEGIN IMMEDIATE", limit=math.inf)

    def commit(self) -> list[Row]:
        return self.execute("COMMIT", limit=math.inf)

    def rollback(self) -> None:
        """Unless it is committed."""
        while self.sqlite.in_transaction:
            with suppress(_TooLong):  # an interruption that was meant for the statement
                self.execute("ROLLBACK", limit=math.inf)

    async def run(self, work: Callable[..., list[Row]], *arguments: object, in_thread: bool = False) -> list[Row]:
        """`work` on the loop; or `in_thread`, for whoever has the connection alone and a statement that may take long.

        Another process's lock is waited for without holding up the loop: busy_timeout would sleep inside C.
        """
        deadline, pause = time.monotonic() + waiting.PATIENCE, 0.0005
        while True:
            try:
                return await self._in_thread(work, *arguments) if in_thread else work(*arguments)
            except _Busy:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.02)

    async def _in_thread(self, work: Callable[..., list[Row]], *arguments: object) -> list[Row]:
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._thread, partial(work, *arguments, limit=STATEMENT_LIMIT))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            # Nobody waits for it any more, but the connection is not free before it has ended.
            running.add_done_callback(lambda done: done.exception())
            while not running.done():
                self.sqlite.interrupt()
                with suppress(asyncio.CancelledError):  # once more, which changes nothing
                    await asyncio.wait([running], timeout=0.01)
            raise


def prepare(connection: sqlite3.Connection) -> None:
    """Set PRAGMAS on a new connection. Of many that turn a new file to WAL at once, some are refused at once: again."""
    deadline = time.monotonic() + waiting.PATIENCE
    for pragma in PRAGMAS:
        while True:
            try:
                connection.execute(f"PRAGMA {pragma}")
                break
            except sqlite3.Error as error:
                if not is_busy(error) or time.monotonic() > deadline:
                    connection.close()
                    raise
                time.sleep(0.005)


class _Busy(Unavailable):
    """Somebody else holds the lock: worth another try."""


class _TooLong(Unavailable):
    """Interrupted, and undone."""
