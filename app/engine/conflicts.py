"""Rules over rows, asked after a write and before its commit, while nobody else writes to the table."""

from typing import Any

from sqlalchemy import BigInteger, bindparam, select, text

from app.engine.statement import Runs, Statement
from app.errors import Clash
from app.models.base import Entity


class Conflicts:
    """Those that `entity` declares."""

    def __init__(self, entity: type[Entity]) -> None:
        # Holds off every other writer, a Session or psql too, to the end of the transaction.
        self.lock = text(f'LOCK TABLE "{entity.__table__.name}" IN SHARE ROW EXCLUSIVE MODE')
        new, other = entity.__table__.alias("new"), entity.__table__.alias("other")
        pair: Any = select(new.c.id).where(new.c.id == bindparam("row_id", type_=BigInteger), other.c.id != new.c.id)
        #: Whether the row `row_id` breaks a rule, and the sentence that says so.
        self.rules = [
            (pair.where(rule.between(new.c, other.c)).limit(1), rule.sentence) for rule in entity.__conflicts__
        ]
        self._lock, self._rules = Statement(self.lock), [(Statement(asked), said) for asked, said in self.rules]

    async def hold_off_others(self, db: Runs) -> None:
        """Until the transaction `db` ends. On SQLite it is the only writer anyway."""
        if db.dialect.name == "postgresql":
            await db.run(self._lock, {})

    async def check(self, db: Runs, row_id: int) -> None:
        """Raise Clash if the row that was just written stands against another."""
        for statement, sentence in self._rules:
            if await db.run(statement, {"row_id": row_id}):
                raise Clash(sentence)
