"""What is older than the team wants to keep goes, in steps so small that nobody waits for one."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta

from sqlalchemy import BigInteger, bindparam, delete, exists, func, insert, select, tuple_

from app.engine import keys, throttles
from app.engine.expressions import LIMIT
from app.engine.history import PRUNED
from app.engine.records import changes
from app.engine.statement import Database, Row, Runs, Statement
from app.engine.waiting import retried
from app.models.base import utcnow

STEP = 1000  # changes that are looked at in one statement
PAUSE = 0.05  # seconds between two steps
EVERY = 3600.0  # seconds between two rounds

_newer = changes.alias()
_low, _high = bindparam("low", type_=BigInteger), bindparam("high", type_=BigInteger)
_window = select(changes.c.id, changes.c.at).where(changes.c.id > _low, changes.c.action != PRUNED)
_next = _window.order_by(changes.c.id).limit(LIMIT).subquery()
_WINDOW = Statement(select(func.max(_next.c.id), func.count().filter(_next.c.at < bindparam("before"))))
# The newest change of a row that is still there stays: it is what was there before the next one. And so does the newest
# of all, after whose id that of the next change comes.
_PRUNE = Statement(
    delete(changes)
    .where(changes.c.id > _low, changes.c.id <= _high, changes.c.at < bindparam("before"), changes.c.action != PRUNED)
    .where(changes.c.id < select(func.max(_newer.c.id)).scalar_subquery())
    .where(
        (changes.c.action == "deleted")
        | exists().where(
            _newer.c.entity == changes.c.entity, _newer.c.row_id == changes.c.row_id, _newer.c.id > changes.c.id
        )
    )
    .returning(changes.c.entity, changes.c.transaction_id, changes.c.id)
)
# How far a reader of the feed may have missed something. There is never a moment without the greatest.
_MARK = Statement(
    insert(changes).values(
        entity=bindparam("of_entity"),
        transaction_id=bindparam("of_transaction"),
        row_id=0,
        whose=bindparam("of_change"),
        action=PRUNED,
        at=bindparam("since"),
        image={},
    )
)
_greater = changes.alias()
_LOWER = Statement(
    delete(changes).where(
        changes.c.entity == bindparam("of_entity"),
        changes.c.row_id == 0,
        exists().where(
            _greater.c.entity == changes.c.entity,
            _greater.c.row_id == 0,
            tuple_(_greater.c.transaction_id, _greater.c.whose) > tuple_(changes.c.transaction_id, changes.c.whose),
        ),
    )
)


async def prune(db: Runs, before: datetime) -> int:
    """Forget the changes before that instant, but for the newest of each row that is there. Says how many went."""
    low, gone = 0, 0
    while True:
        ((high, old),) = await db.run(_WINDOW, {"low": low, "before": before, "limit": STEP})
        if not old:
            return gone
        gone += await _step(db, low, high, before)
        low = high
        await asyncio.sleep(PAUSE)


@retried
async def _step(db: Runs, low: int, high: int, before: datetime) -> int:
    async with db.transaction() as tx:
        pruned = await tx.run(_PRUNE, {"low": low, "high": high, "before": before})
        for entity, (transaction, change) in _last(pruned).items():
            mark = {"of_entity": entity, "of_transaction": transaction, "of_change": change}
            await tx.run(_MARK, {**mark, "since": utcnow()})
            await tx.run(_LOWER, mark)
        return len(pruned)


def _last(pruned: list[Row]) -> dict[str, tuple[int, int]]:
    """Of each entity, where the last of them stood in the feed."""
    return {entity: (transaction, change) for entity, transaction, change in sorted(pruned)}


async def keep_pruning(
    database: Database, *, history_days: int, also: Iterable[Callable[[], Awaitable[object]]] = ()
) -> None:
    """Until it is cancelled: history older than that goes, unless it is 0, and so does what has ended, `also` yours."""
    while True:
        try:
            await keys.prune(database, utcnow())
            await throttles.prune(database, utcnow())
            for prune_others in also:
                await prune_others()
            if history_days:
                await prune(database, utcnow() - timedelta(days=history_days))
        except Exception:
            logging.getLogger("app").exception("Nothing was pruned this time")
        await asyncio.sleep(EVERY)
