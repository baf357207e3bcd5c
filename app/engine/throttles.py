"""Throttles: how often something may be tried in a minute, counted before it is tried, by all processes together.

A window begins with the first attempt and is short, so that nobody is locked out for long. What succeeds is given back,
so that many may come from one address; it clears nothing, or whoever has an account of their own could begin anew.
"""

import hashlib
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Dialect, bindparam, case, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import SQLModel

from app.engine.expiring import Expiring
from app.engine.records import attempts
from app.engine.statement import Runs, Statement, hydrator
from app.errors import TooMany, Unavailable
from app.models.base import utcnow

WINDOW = timedelta(seconds=60)


class Limit(NamedTuple):
    """How often that may be tried in a window."""

    key: str
    most: int
    window: timedelta


def limit(most: int, *what: str | int, window: timedelta | None = None) -> Limit:
    """A limit on `what`, of which a hash is stored: somebody may have typed their password as a name."""
    return Limit(hashlib.sha256(repr(what).encode()).hexdigest(), most, window or WINDOW)


class Counted(SQLModel):
    """An attempt: the how manieth of its window, and when that ends."""

    key: str
    count: int
    ends_at: datetime


async def count(db: Runs, limit: Limit) -> Counted:
    """One attempt more. Raises TooMany. Not in a transaction, which a refusal would undo."""
    now = utcnow()
    given = {"which": limit.key, "now": now, "until": now + limit.window, "never": now + 2 * limit.window}
    rows = await db.run(_COUNT[db.dialect.name], given)
    (counted,) = _counted(db.dialect)(rows)
    if counted.count > limit.most:
        seconds = max(1, math.ceil((counted.ends_at - now).total_seconds()))
        raise TooMany(f"Too many attempts. Try again in {seconds} seconds.", retry_after=seconds)
    return counted


@asynccontextmanager
async def attempt(db: Runs, limit: Limit) -> AsyncIterator[None]:
    """An attempt at what is done within: it counts if that is refused. Raises TooMany."""
    counted = await count(db, limit)
    try:
        yield
    except (TooMany, Unavailable):
        await _give_back(db, counted)  # it was not tried at all
        raise
    await _give_back(db, counted)


async def prune(db: Runs, now: datetime) -> int:
    """Delete the counts whose window has ended by `now`; how many it were."""
    return await _ATTEMPTS.forget(db, now)


async def _give_back(db: Runs, counted: Counted) -> None:
    with suppress(Unavailable):  # then it counts
        await db.run(_GIVE_BACK, {"which": counted.key, "until": counted.ends_at})


def _count(insert: Any) -> Statement:  # noqa: ANN401  # each dialect has its own
    """One statement, so that of many attempts at once each has a number of its own."""
    instant = attempts.c.ends_at.type
    until = bindparam("until", type_=instant)
    # No clock but a wrong one puts an end so far away, and whoever set it right must not wait for that.
    has_ended = (attempts.c.ends_at <= bindparam("now", type_=instant)) | (
        attempts.c.ends_at > bindparam("never", type_=instant)
    )
    row = insert(attempts).values(key=bindparam("which", type_=attempts.c.key.type), count=1, ends_at=until)
    more = {
        "count": case((has_ended, 1), else_=attempts.c.count + 1),
        "ends_at": case((has_ended, row.excluded.ends_at), else_=attempts.c.ends_at),
    }
    return Statement(row.on_conflict_do_update(index_elements=[attempts.c.key], set_=more).returning(*_COLUMNS))


@lru_cache
def _counted(dialect: Dialect) -> Callable[[Any], list[Counted]]:
    return hydrator(Counted, _COLUMNS, dialect)


_COLUMNS = [attempts.c.key, attempts.c.count, attempts.c.ends_at]
_COUNT = {"sqlite": _count(sqlite.insert), "postgresql": _count(postgresql.insert)}
# Of the same window only: in the next one it was never counted.
_GIVE_BACK = Statement(
    update(attempts)
    .where(
        attempts.c.key == bindparam("which", type_=attempts.c.key.type),
        attempts.c.ends_at == bindparam("until", type_=attempts.c.ends_at.type),
    )
    .values(count=attempts.c.count - 1)
    .returning(attempts.c.key)
)
_ATTEMPTS = Expiring(attempts, "ends_at")
