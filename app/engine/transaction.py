"""All or nothing, the same on every database: a time limit, and a first failure that is the last word."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from sqlalchemy import Dialect

from app.engine.statement import Row, Runs, Statement, Values
from app.errors import Unavailable

TRANSACTION_LIMIT = 10.0  # seconds
Run = Callable[[Statement, Values], Awaitable[list[Row]]]
Finish = Callable[[], Awaitable[object]]


class Transaction:
    """What has begun and not ended. `run` must run on a connection that nobody else uses meanwhile."""

    def __init__(self, dialect: Dialect, run: Run) -> None:
        self.dialect, self._run = dialect, run
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
    async def transaction(self) -> AsyncIterator[Runs]:
        try:
            yield self
        except Exception as error:
            self.failure = self.failure or error  # what should be all or nothing has begun
            raise


@asynccontextmanager
async def hold(transaction: Transaction, *, commit: Finish, rollback: Finish) -> AsyncIterator[Runs]:
    """`commit` when the block ends; `rollback` is called in any case, and undoes what was not committed.

    Raises Unavailable after TRANSACTION_LIMIT seconds.
    """
    try:
        async with asyncio.timeout(TRANSACTION_LIMIT) as limit:
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
