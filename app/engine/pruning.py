"""What is older than the team wants to keep goes, in steps so small that nobody waits for one."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from sqlalchemy import BigInteger, bindparam, delete, exists, func, insert, select, update

from app.engine.history import PRUNED
from app.engine.records import changes
from app.engine.statement import Database, Row, Runs, Statement
from app.models.base import utcnow

STEP = 1000  # changes that are looked at in one statement
PAUSE = 0.05  # seconds between two steps
EVERY = 3600.0  # seconds between two rounds

_newer = changes.alias()
_low, _high = bindparam("low", type_=BigInteger), bindparam("high", type_=BigInteger)
_window = select(changes.c.id, changes.c.at).where(changes.c.id > _low, changes.c.action != PRUNED)
_next = _window.order_by(changes.c.id).limit(STEP).subquery()
_WINDOW = Statement(select(func.max(_next.c.id), func.count().filter(_next.c.at < bindparam("before"))))
# The newest change of a row that is still there stays: it is what was there before the next one.
_PRUNE = Statement(
    delete(changes)
    .where(changes.c.id > _low, changes.c.id <= _high, changes.c.at < bindparam("before"), changes.c.action != PRUNED)
    .where(
        (changes.c.action == "deleted")
        | exists().where(
            _newer.c.entity == changes.c.entity, _newer.c.row_id == changes.c.row_id, _newer.c.id > changes.c.id
        )
    )
    .returning(changes.c.entity, changes.c.transaction_id)
)
_MARK = Statement(
    update(changes)
    .where(changes.c.entity == bindparam("entity_"), changes.c.row_id == 0)
    .values(transaction_id=bindparam("transaction"))
    .returning(changes.c.id)
)
_FIRST_MARK = Statement(
    insert(changes).values(
        entity=bindparam("entity_"),
        transaction_id=bindparam("transaction"),
        row_id=0,
        action=PRUNED,
        at=bindparam("at_"),
        image={},
    )
)


async def prune(db: Runs, before: datetime) -> int:
    """Forget the changes before that instant, but for the newest of each row that is there. Says how many went."""
    low, gone = 0, 0
    while True:
        ((high, old),) = await db.run(_WINDOW, {"low": low, "before": before})
        if not old:
            return gone
        async with db.transaction() as tx:
            pruned = await tx.run(_PRUNE, {"low": low, "high": high, "before": before})
            for entity, transaction in _newest(pruned):
                # Up to where a reader of the feed may have missed something.
                mark = {"entity_": entity, "transaction": transaction}
                if not await tx.run(_MARK, mark):
                    await tx.run(_FIRST_MARK, {**mark, "at_": utcnow()})
        low, gone = high, gone + len(pruned)
        await asyncio.sleep(PAUSE)


def _newest(pruned: list[Row]) -> list[Row]:
    """Of each entity the highest transaction."""
    return [*dict(sorted(pruned)).items()]


async def keep_pruning(database: Database, days: int, *others: Callable[[Database], Awaitable[object]]) -> None:
    """Until it is cancelled: history older than so many `days` goes, for ever kept if 0; and `others` do their part."""
    while True:
        try:
            if days:
                await prune(database, utcnow() - timedelta(days=days))
            for other in others:
                await other(database)
        except Exception:
            logging.getLogger("app").exception("Nothing was pruned this time")
        await asyncio.sleep(EVERY)
