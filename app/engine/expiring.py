"""Rows that have an end go after it, in steps so small that nobody waits for one."""

from datetime import datetime

from sqlalchemy import Table, bindparam, delete, select, tuple_

from app.engine.statement import Runs, Statement

AT_ONCE = 1000  # rows that one statement deletes: on SQLite others wait to write meanwhile


class Expiring:
    """A table, and the column that says when each of its rows has ended."""

    def __init__(self, table: Table, instant: str = "expires_at") -> None:
        key, ends = table.primary_key.columns, table.c[instant]
        # Two that do this at once take different rows, and neither waits for somebody who uses one anew.
        ended = select(*key).where(ends <= bindparam("now", type_=ends.type)).limit(AT_ONCE)
        these = tuple_(*key).in_(ended.with_for_update(skip_locked=True))
        self._forget = Statement(delete(table).where(these).returning(*key))

    async def forget(self, db: Runs, now: datetime) -> int:
        """Delete what has ended by `now`; how many rows it were."""
        total = 0
        while deleted := len(await db.run(self._forget, {"now": now})):
            total += deleted
        return total
