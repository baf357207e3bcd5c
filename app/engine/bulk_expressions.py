"""How bulks are said in SQL: as the single verbs, under the same conditions, for all the rows that are sent at once."""

from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, func, or_, true
from sqlalchemy.sql import ClauseElement
from sqlmodel import SQLModel, delete, insert, select, update

from app.engine import visibility
from app.engine.caller import Standing
from app.engine.expressions import Expressions
from app.engine.recording import acting
from app.engine.sent import sent
from app.models.base import Entity


class BulkExpressions(Expressions):
    """Of `entity`'s bulks, in the words of `dialect`: what is `new` of a row, comes with the rows that are sent."""

    def __init__(self, entity: type[Entity], read: type[SQLModel], standing: Standing, dialect: str) -> None:
        super().__init__(entity, read, standing)
        self._sent, self._dialect = sent(self.table, dialect), dialect

    def create_all(self, role: str, *names: str) -> ClauseElement:
        """In their order, so that ids ascend with positions."""
        rows: Any = select(*(self._new(name) for name in names)).where(acting(), *self._creatable(role))
        rows = rows.where(*self._refer(role, names)).order_by(self._sent.c.position)
        return insert(self.table).from_select(names, rows, include_defaults=False).returning(*self.columns)

    def find_all(self, role: str, deletes: bool) -> ClauseElement:
        """The rows, which nobody else changes from now on. In one order, or two bulks could wait for each other."""
        rows: Any = select(*self.columns).where(self._is_sent(), *self._visible(role)).order_by(self.table.c.id)
        found: Select[Any] = rows.with_for_update(of=self.table, key_share=not deletes)
        return found

    def update_all(self, role: str, *names: str) -> ClauseElement:
        rows = update(self.table).where(self._is_sent(), self.table.c.id == self._sent.c.row_id, acting())
        rows = rows.where(*self._visible(role))
        rows = rows.where(*self._joins(role, names), *self._refer(role, names))
        changed = {
            name: case((self._sent.c[f"has_{name}"], self._new(name)), else_=self.table.c[name]) for name in names
        }
        return rows.values(changed).returning(*self.columns)

    def delete_all(self, role: str) -> ClauseElement:
        rows = delete(self.table).where(self._is_sent(), acting(), *self._visible(role))
        return rows.returning(self.table.c.id)

    def remain_all(self, role: str) -> ClauseElement:
        """Which of the rows are there, for anybody."""
        rows: Select[Any] = select(self.table.c.id).where(self._is_sent())
        return rows

    def refer_all(self, role: str, *names: str) -> ClauseElement:
        """The positions of rows, and for each of `names` whether what it shall refer to is there for this caller."""
        seen = (and_(*self._joins(role, (name,)), *self._refer(role, (name,))).label(name) for name in names)
        rows: Select[Any] = select(self._sent.c.position, *seen).where(*self._holds(role))
        return rows

    def clash_all(self, role: str, number: int) -> ClauseElement:
        """Whether one of the rows breaks the conflict of that `number`."""
        new, other = self.table.alias("new"), self.table.alias("other")
        met = self.entity.__conflicts__[number].between(new.c, other.c)
        pair: Select[Any] = select(new.c.id).where(new.c.id == self._sent.c.row_id, other.c.id != new.c.id, met)
        return pair.limit(1)

    def _visible(self, role: str) -> list[ColumnElement[bool]]:
        # The ids find the rows: no index that knows whose they are shall, or all of those are looked through.
        seen = visibility.seen(self.entity, self.table, role)
        return [*self._holds(role), *(each.is_(true()) for each in seen)]

    def _is_sent(self) -> ColumnElement[bool]:
        ids: Any = select(self._sent.c.row_id)
        if self._dialect == "sqlite":
            return self.table.c.id.in_(ids)
        # A plan that was made when the table was small would join the two by comparing every row with every other.
        return self.table.c.id == func.any(func.array(ids.scalar_subquery()))

    def _new(self, name: str) -> ColumnElement[Any]:
        return self._sent.c[f"new_{name}"]

    def _joins(self, role: str, names: tuple[str, ...]) -> list[ColumnElement[bool]]:
        return [or_(self._new(self.entity.__team__).is_(None), each) for each in super()._joins(role, names)]

    def _refer(self, role: str, names: tuple[str, ...]) -> list[ColumnElement[bool]]:
        """An empty one refers to nothing, and neither does one that is not changed."""
        references = [name for name in names if name in self.references]
        conditions = zip(references, super()._refer(role, tuple(references)), strict=True)
        return [or_(self._new(name).is_(None), there) for name, there in conditions]
