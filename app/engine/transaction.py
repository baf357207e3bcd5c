"""All or nothing, the same on every database: a time limit, and a first failure that is the last word."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from sqlalchemy import Dialect

from app.engine.statement import Begun, Row, Statement, Values
from app.errors import Refusal, Unavailable

TRANSACTION_LIMIT = 10.0  # seconds
Run = Callable[[Statement, Values], Awaitable[list[Row]]]
Command = Callable[[str], Awaitable[object]]
Finish = Callable[[], Awaitable[object]]


class Transaction:
    """What has begun and not ended. `run` must run on a connection that nobody else uses meanwhile.

    `command` does what has no arguments and no rows, and no limit in time.
    """

    def __init__(self, dialect: Dialect, run: Run, command: Command) -> None:
        self.dialect, self._run, self._command = dialect, run, command
        # PostgreSQL gives up the whole transaction at the first failure, and its COMMIT would silently keep nothing.
        # So everywhere, even if the failure is caught.
        self.failure: Exception | None = None

    async def run(self, statement: Statement, values: Values) -> list[Row]:
        if self.failure:
            raise self.failure
        try:
            return await self._run(statement, values)
        except Exception as error:
            self.failure = error
            raise

    @asynccontextmanager
    async def transaction(self, *, limit: float | None = None) -> AsyncIterator[Begun]:
        try:
            yield self
        except Exception as error:
            self.failure = self.failure or error  # what should be all or nothing has begun
            raise

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        if self.failure:
            raise self.failure
        await self._command("SAVEPOINT part")  # within another it hides that one, until it is released
        try:
            yield
            if self.failure:
                raise self.failure  # also if the block has caught it
        except Exception as error:
            self.failure = self.failure or error
            if _is_undone_alone(error) and _is_undone_alone(self.failure):
                await self._command("ROLLBACK TO SAVEPOINT part")
                await self._command("RELEASE SAVEPOINT part")
                self.failure = None
            raise
        await self._command("RELEASE SAVEPOINT part")


def _is_undone_alone(failure: Exception) -> bool:
    return isinstance(failure, Refusal) and not isinstance(failure, Unavailable)


@asynccontextmanager
async def hold(
    transaction: Transaction, seconds: float | None, *, commit: Finish, rollback: Finish
) -> AsyncIterator[Begun]:
    """`commit` when the block ends; `rollback` is called in any case, and undoes what was not committed.

    Raises Unavailable after so many `seconds`, or TRANSACTION_LIMIT.
    """
    try:
        async with asyncio.timeout(seconds or TRANSACTION_LIMIT) as limit:
            yield transaction
        if transaction.failure:
            raise transaction.failure
        # With a limit of its own: of a commit that was sent nobody can say that nothing was kept.
        await commit()
    except TimeoutError:
        if not limit.expired():
            raise
        raise Unavailable("That took too long, and nothing of it was kept.") from None
    finally:
        transaction.failure = transaction.failure or RuntimeError("This transaction has ended.")
        await rollback()
