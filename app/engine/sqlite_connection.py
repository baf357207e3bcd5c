"""A connection to SQLite: on the event loop within a limit, in a thread beyond it, and never waiting inside C."""

import asyncio
import math
import sqlite3
import time
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any

from app.engine import waiting
from app.engine.recording import Acting, record
from app.engine.statement import Row
from app.engine.violations import OUT_OF_RANGE, TOO_LONG, explain, is_busy
from app.errors import Invalid, Unavailable

LOOP_LIMIT = 0.05  # seconds that a statement may hold up the loop
STATEMENT_LIMIT = 5.0  # seconds that it may take in a thread
STEPS = 10_000  # of SQLite's virtual machine between two looks at the clock: less than a millisecond
STEPS_IN_THREAD = 1_000_000  # there each look needs the GIL, and beside a busy loop waits for it
# WAL: readers and the writer don't wait for each other.
# SQLite ignores foreign keys unless every connection asks for them.
PRAGMAS = ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON")


class Connection:
    """On the loop for statements of microseconds; with a thread of its own, for whoever has it alone, for the rest."""

    def __init__(self, path: str, *, writes: bool = False) -> None:
        # isolation_level=None: autocommit. Python's default begins transactions behind one's back.
        self.sqlite = sqlite3.connect(
            path, isolation_level=None, cached_statements=256, check_same_thread=False, uri=path.startswith("file:")
        )
        prepare(self.sqlite)
        self.sqlite.executescript("PRAGMA busy_timeout=0; PRAGMA wal_autocheckpoint=0")
        self._acting = record(self.sqlite) if writes else Acting()
        self._deadline = 0.0
        self._look_at_the_clock_every(STEPS)
        self._thread = ThreadPoolExecutor(1, "sqlite")
        self._turn = asyncio.Lock()
        self._holder: asyncio.Task[object] | None = None

    @property
    def is_taken(self) -> bool:
        return self._turn.locked()

    def _look_at_the_clock_every(self, steps: int) -> None:
        self.sqlite.set_progress_handler(lambda: time.monotonic() > self._deadline, steps)

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
                raise Busy(waiting.BUSY) from error
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
                raise TooLong(TOO_LONG) from None
            if refusal := explain(error):
                raise refusal from error
            raise

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
        self._acting.begin()
        return self.execute("BEGIN IMMEDIATE", limit=math.inf)

    def commit(self) -> list[Row]:
        return self.execute("COMMIT", limit=math.inf)

    def rollback(self) -> None:
        """Unless it is committed."""
        while self.sqlite.in_transaction:
            with suppress(TooLong):  # an interruption that was meant for the statement
                self.execute("ROLLBACK", limit=math.inf)

    async def run(self, work: Callable[..., list[Row]], *arguments: object, in_thread: bool = False) -> list[Row]:
        """`work` on the loop; or `in_thread`, for whoever has the connection alone and a statement that may take long.

        Another process's lock is waited for without holding up the loop: busy_timeout would sleep inside C.
        """
        deadline, pause = time.monotonic() + waiting.PATIENCE, 0.0005
        while True:
            try:
                return await self._in_thread(work, *arguments) if in_thread else work(*arguments)
            except Busy:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.02)

    async def _in_thread(self, work: Callable[..., list[Row]], *arguments: object) -> list[Row]:
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._thread, self._for_long, work, *arguments)
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

    def _for_long(self, work: Callable[..., list[Row]], *arguments: object) -> list[Row]:
        self._look_at_the_clock_every(STEPS_IN_THREAD)
        try:
            return work(*arguments, limit=STATEMENT_LIMIT)
        finally:
            self._look_at_the_clock_every(STEPS)


def fold(text: str) -> str:
    """`text` in lower case, letter for letter as PostgreSQL does it: Python has two kinds of sigma, and a dotted i."""
    return text.lower().replace("\u03c2", "\u03c3").replace("i\u0307", "i")


def prepare(connection: sqlite3.Connection) -> None:
    """Set PRAGMAS on a new connection. Of many that turn a new file to WAL at once, some are refused at once: again."""
    # SQLite's own lower() knows no letter beyond ASCII. In lists' filters, on whatever is text.
    connection.create_function("fold", 1, lambda text: text and fold(text), deterministic=True)
    # Bytes come within JSON when there are many rows, and SQLite has a function of its own only from 3.41 on.
    connection.create_function("from_base64", 1, lambda text: None if text is None else b64decode(text))
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


class Busy(Unavailable):
    """Somebody else holds the lock: worth another try."""


class TooLong(Unavailable):
    """Interrupted, and undone."""
