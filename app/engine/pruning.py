"""What is older than the team wants to keep goes, in steps so small that nobody waits for one."""

import asyncio
import logging
from datetime import datetime, timedelta

from sqlalchemy import BigInteger, bindparam, delete, exists, func, insert, select

from app.engine import keys
from app.engine.expressions import LIMIT
from app.engine.history import PRUNED
from app.engine.records import changes
from app.engine.statement import Database, Runs, Statement
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
# The last of an entity's changes that are lost leaves its place to a mark: who comes from before it comes too late.
_UNMARK = Statement(
    delete(changes)
    .where(changes.c.entity == bindparam("entity_"), changes.c.row_id == 0)
    .returning(changes.c.entity, changes.c.transaction_id, changes.c.id)
)
_MARK = Statement(
    insert(changes).values(
        **{
            name: bindparam(f"{name}_", type_=changes.c[name].type) for name in ("id", "transaction_id", "entity", "at")
        },
        row_id=0,
        action=PRUNED,
        image={},
    )
)


async def prune(db: Runs, before: datetime) -> int:
    """Forget the changes before that instant, but for the newest of each row that is there. Says how many went."""
    low, gone = 0, 0
    while True:
        ((high, old),) = await db.run(_WINDOW, {"low": low, "before": before, "limit": STEP})
        if not old:
            return gone
        async with db.transaction() as tx:
            pruned = await tx.run(_PRUNE, {"low": low, "high": high, "before": before})
            for entity in {entity for entity, *_ in pruned}:
                # Transactions may end in another order than that of the ids: an earlier mark may be the later place.
                lost = [*pruned, *await tx.run(_UNMARK, {"entity_": entity})]
                transaction, change = max((row[1], row[2]) for row in lost if row[0] == entity)
                mark = {"id_": change, "transaction_id_": transaction, "entity_": entity, "at_": utcnow()}
                await tx.run(_MARK, mark)
        low, gone = high, gone + len(pruned)
        await asyncio.sleep(PAUSE)


async def keep_pruning(database: Database, *, history_days: int) -> None:
    """Until it is cancelled: history older than that goes, unless it is 0; and so do keys that have expired."""
    while True:
        try:
            await keys.prune(database, utcnow())
            if history_days:
                await prune(database, utcnow() - timedelta(days=history_days))
        except Exception:
            logging.getLogger("app").exception("Nothing was pruned this time")
        await asyncio.sleep(EVERY)
