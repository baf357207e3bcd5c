"""PostgreSQL through psycopg's libpq layer: one prepared statement, one round trip, no cursor, no reset query."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import psycopg
from psycopg import pq
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result
from psycopg.types.numeric import Int8BinaryDumper
from psycopg.types.string import StrBinaryDumperVarchar
from sqlalchemy import Dialect
from sqlalchemy.dialects.postgresql.psycopg import dialect as psycopg_dialect

from app.engine import waiting
from app.engine.statement import Begun, Row, Statement, Values
from app.engine.transaction import Transaction, hold
from app.engine.violations import GONE, OUT_OF_RANGE, TOO_LONG, explain, is_broken
from app.errors import Invalid, Overtaken, Unavailable

OUTDATED = ("0A000", "26000")  # "cached plan must not change result type", "prepared statement does not exist"
OPEN = (pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR)
STATEMENT_LIMIT = 10.0  # seconds; the server has a limit of its own, but one that is frozen does not keep it
PREPARED = 500  # statements that one connection keeps ready
# With any other time zone psycopg would give instants in that one.
SERVER_SETTINGS = (
    "-c TimeZone=UTC -c statement_timeout=5s -c lock_timeout=3s -c idle_in_transaction_session_timeout=10s"
)
DIALECT: Dialect = psycopg_dialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]  # as it comes


class Postgres:
    """At most `size` connections, opened when first needed. The last one given back goes out first."""

    dialect = DIALECT

    def __init__(self, url: str, *, size: int, pgbouncer: bool = False) -> None:
        self._url, self._pgbouncer = url, pgbouncer
        self._idle: list[Connection] = []
        self._places = asyncio.Semaphore(size)

    async def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    @waiting.retried
    async def run(self, statement: Statement, values: Values) -> list[Row]:
        connection = await self._take()
        try:
            return await connection.run(statement, values)
        finally:
            self._give_back(connection)

    @asynccontextmanager
    async def transaction(self, *, limit: float | None = None) -> AsyncIterator[Begun]:
        connection = await self._take()
        try:
            await connection.command("BEGIN")
            if limit:  # what takes its time may read a file meanwhile
                await connection.command(f"SET LOCAL idle_in_transaction_session_timeout = '{limit:.0f}s'")
            begun = Transaction(DIALECT, connection.run, connection.command)
            async with hold(begun, limit, commit=partial(connection.command, "COMMIT"), rollback=connection.rollback):
                yield begun
        finally:
            self._give_back(connection)

    async def _take(self) -> "Connection":
        await waiting.acquire(self._places)
        try:
            return self._idle.pop() if self._idle else await self._connect()
        except BaseException:
            self._places.release()
            raise

    def _give_back(self, connection: "Connection") -> None:
        self._places.release()
        if connection.is_idle:
            self._idle.append(connection)
        else:
            connection.close()  # broken, or cancelled in mid-query

    async def _connect(self) -> "Connection":
        # PgBouncer lends a server's connection for one transaction: what was prepared, or set, is somebody else's then.
        options: dict[str, Any] = {} if self._pgbouncer else {"options": SERVER_SETTINGS}
        try:
            async with asyncio.timeout(STATEMENT_LIMIT):
                connection = await psycopg.AsyncConnection.connect(
                    self._url, autocommit=True, connect_timeout=5, tcp_user_timeout=10_000, **options
                )
                if self._pgbouncer:  # one of the few settings that PgBouncer keeps for its client
                    await connection.execute("SET TimeZone TO 'UTC'")
        except (psycopg.Error, TimeoutError) as error:
            raise Unavailable(GONE) from error
        return Connection(connection, self._idle, prepares=not self._pgbouncer)


class Connection:
    """A connection that remembers which statements it has prepared."""

    def __init__(
        self, connection: psycopg.AsyncConnection[Row], idle: list["Connection"], *, prepares: bool = True
    ) -> None:
        # psycopg sizes an int by its value, and each size would be another prepared statement.
        connection.adapters.register_dumper(int, Int8BinaryDumper)
        connection.adapters.register_dumper(str, StrBinaryDumperVarchar)
        self._connection, self._pg, self._idle = connection, connection.pgconn, idle
        self._transformer = Transformer(connection)
        self._prepares, self._names = prepares, 0
        self._prepared: dict[tuple[str, tuple[int, ...]], bytes] = {}
        self._answer: asyncio.Future[pq.abc.PGresult] | None = None
        self._ready = asyncio.Event()
        self._last: pq.abc.PGresult | None = None
        self._loop = asyncio.get_running_loop()
        self._pg.nonblocking = 1
        self._socket = self._pg.socket
        self._loop.add_reader(self._socket, self._read)

    @property
    def is_idle(self) -> bool:
        return self._socket >= 0 and self._pg.transaction_status == pq.TransactionStatus.IDLE

    def close(self) -> None:
        if self._socket >= 0:
            with suppress(OSError):  # else the next connection might get its number
                self._loop.remove_writer(self._socket)
            self._loop.remove_reader(self._socket)
            self._socket = -1
            self._pg.finish()
            if self in self._idle:
                self._idle.remove(self)

    async def run(self, statement: Statement, values: Values) -> list[Row]:
        compiled = statement.on(DIALECT)
        arguments = compiled.arguments(values)
        try:
            return await self._fetch(compiled.sql, arguments)
        except OverflowError:
            raise Invalid(OUT_OF_RANGE) from None
        except psycopg.Error as error:
            if error.sqlstate in OUTDATED:
                # A migration changed the table: nothing has run yet, and what was prepared is of no use.
                self._prepared.clear()
                raise Overtaken(waiting.BUSY) from None
            if is_broken(error) and not statement.writes:
                raise Overtaken(GONE) from None  # it was killed, and reading twice does no harm
            raise explain(error) or _without_row(error) from None

    async def command(self, sql: str) -> None:
        """Something without arguments and rows, like BEGIN."""
        try:
            self._pg.send_query_params(sql.encode(), None)
            await self._result()
        except psycopg.Error as error:
            raise explain(error) or _without_row(error) from None

    async def rollback(self) -> None:
        """Undo what is open. A query under way, or no answer: the connection is given up, which undoes it as well."""
        if self._socket >= 0 and self._pg.transaction_status in OPEN:
            with suppress(Unavailable):
                await self.command("ROLLBACK")

    async def _fetch(self, sql: str, arguments: Sequence[Any]) -> list[Row]:
        transformer = self._transformer
        parameters = transformer.dump_sequence(arguments, [PyFormat.BINARY] * len(arguments))
        types, formats = tuple(transformer.types or ()), transformer.formats
        if not self._prepares:
            self._pg.send_query_params(sql.encode(), parameters, types, formats, result_format=1)
            return self._rows(await self._result())
        # By types too: a None has none, and the server would guess another for the next value.
        name = self._prepared.get((sql, types))
        if name is None:
            if len(self._prepared) >= PREPARED:
                await self.command("DEALLOCATE ALL")
                self._prepared.clear()
            self._names += 1  # never one again: a prepare that was cancelled may have taken its name
            name = b"cadre%d" % self._names
            self._pg.send_prepare(name, sql.encode(), param_types=types)
            await self._result()
            self._prepared[sql, types] = name
        self._pg.send_query_prepared(name, parameters, formats, result_format=1)
        return self._rows(await self._result())

    def _rows(self, result: pq.abc.PGresult) -> list[Row]:
        self._transformer.set_pgresult(result)
        return self._transformer.load_rows(0, result.ntuples, tuple)

    async def _result(self) -> pq.abc.PGresult:
        answer: asyncio.Future[pq.abc.PGresult] = self._loop.create_future()
        self._answer = answer
        # asyncio.timeout() would cost as much as half of the rest.
        timer = self._loop.call_later(STATEMENT_LIMIT, self._fail, Unavailable(TOO_LONG))
        try:
            while not answer.done() and self._pg.flush():
                await self._writable()
            result = await answer
        finally:
            timer.cancel()
            self._answer = None
        if result.status in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
            return result
        raise error_from_result(result)

    async def _writable(self) -> None:
        """The socket's buffer is full: wait until the server has taken some."""
        self._ready.clear()
        self._loop.add_writer(self._socket, self._ready.set)
        try:
            await self._ready.wait()
        finally:
            if self._socket >= 0:
                self._loop.remove_writer(self._socket)

    def _fail(self, error: Exception) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_exception(error)
        self._ready.set()

    def _read(self) -> None:
        """Called whenever the server has said something; also while idle, so that a dead one is noticed at once."""
        try:
            self._pg.consume_input()
            if not self._has_all():
                # uvloop calls only once for a connection that is reset, though it may have said something before.
                self._pg.consume_input()
                if not self._has_all():
                    return
        except psycopg.Error as error:
            self.close()
            self._fail(error)
            return
        if self._answer and not self._answer.done() and self._last is not None:
            self._answer.set_result(self._last)
        self._last = None

    def _has_all(self) -> bool:
        """Whether all has arrived; if not, get_result() would block."""
        while not self._pg.is_busy():
            result = self._pg.get_result()
            if result is None:
                return True
            self._last = result
        return False


def _without_row(error: psycopg.Error) -> RuntimeError:
    """A defect of ours, for the log: PostgreSQL's DETAIL would repeat the whole row, a password's hash included."""
    return RuntimeError(f"PostgreSQL says {error.sqlstate}: {error.diag.message_primary}")
