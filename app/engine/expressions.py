"""How each verb is said in SQL: one statement that acts, and asks whether its caller may. Said once for each shape."""

from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Select, bindparam, func, union_all
from sqlalchemy.sql import ClauseElement
from sqlmodel import SQLModel, delete, insert, select, update

from app.engine import visibility
from app.engine.caller import ME, Standing
from app.engine.filters import beyond, conditions, order
from app.engine.queries import Shape
from app.engine.recording import acting
from app.engine.records import changes, place, position, recorded
from app.models.base import Access, Entity

LIMIT, SKIP = bindparam("limit", type_=BigInteger), bindparam("skip", type_=BigInteger)


class Expressions:
    """Of `entity`'s verbs, which answer with the fields of `read`. A caller's role decides what they may see."""

    def __init__(self, entity: type[Entity], read: type[SQLModel], standing: Standing) -> None:
        self.entity, self.table, self.standing = entity, entity.__table__, standing
        if entity.__access__ is Access.TEAM and self.table.c[entity.__team__].nullable:
            raise TypeError(f"{self.table.name}.{entity.__team__} must not be optional: a row of no team is nobody's.")
        self.columns = [self.table.c[name] for name in read.model_fields]
        # The column that says whose a new row is; an account is nobody's but its own.
        self.owner = entity.__owner__ if entity.__owner__ in self.table.c and entity.__owner__ != "id" else None
        # Its foreign keys. The owner's is a matter of who may act for whom.
        self.references = frozenset(c.name for c in self.table.c if c.foreign_keys and c.name != self.owner)

    def page(self, role: str, shape: Shape) -> ClauseElement:
        met, stretches = [*self._visible(role), *conditions(self.entity, shape)], beyond(self.table, shape)
        rows: Any = self.table
        if len(stretches) > 1:
            # Each from an index of its own, and no more of it than the page.
            found: Any = (select(rows).where(*met, each).order_by(*order(rows, shape.sort)) for each in stretches)
            rows = union_all(*(select(each.limit(LIMIT + SKIP).subquery()) for each in found)).subquery()
            met, stretches = [], []
        page: Select[Any] = select(*(rows.c[each.name] for each in self.columns)).where(*met, *stretches)
        return page.order_by(*order(rows, shape.sort)).limit(LIMIT).offset(SKIP)

    def count(self, role: str, shape: Shape) -> ClauseElement:
        """How many; no row at all if the caller is not who the token says, as of every other verb."""
        seen = visibility.seen(self.entity, self.table, role)
        counted = select(func.count()).select_from(self.table).where(*seen, *conditions(self.entity, shape))
        total: Select[Any] = select(counted.scalar_subquery()).where(*self._holds(role))
        return total

    def get(self, role: str) -> ClauseElement:
        row: Select[Any] = select(*self.columns).where(self._is_row(), *self._visible(role))
        return row

    def children(self, role: str, column: str, shape: Shape) -> ClauseElement:
        """The newest `limit` rows of each value of `column`."""
        newest = self.table.c.id.desc()
        place = func.row_number().over(partition_by=self.table.c[column], order_by=newest).label("place_")
        rows: Any = (
            select(*self.columns)
            .add_columns(place)
            .where(*self._visible(role), *conditions(self.entity, shape))
            .subquery()
        )
        found: Select[Any] = select(*(rows.c[each.name] for each in self.columns)).where(rows.c.place_ <= LIMIT)
        return found.order_by(rows.c.id.desc())

    def create(self, role: str, refers: tuple[str, ...], *names: str) -> ClauseElement:
        row = select(*(self._new(name) for name in names)).where(acting(), *self._creatable(role))
        row = row.where(*self._refer(role, refers))
        return insert(self.table).from_select(names, row, include_defaults=False).returning(*self.columns)

    def update(self, role: str, refers: tuple[str, ...], checked: bool, *names: str) -> ClauseElement:
        rows = update(self.table).where(self._is_row(), acting(), *self._visible(role), *self._unchanged(checked))
        rows = rows.where(*self._joins(role, names), *self._refer(role, refers))
        return rows.values({name: self._new(name) for name in names}).returning(*self.columns)

    def delete(self, role: str, checked: bool) -> ClauseElement:
        rows = delete(self.table).where(self._is_row(), acting(), *self._visible(role), *self._unchanged(checked))
        return rows.returning(self.table.c.id)

    def past(self, role: str) -> ClauseElement:
        """What a row became, the newest first: below the id `before`."""
        found = self._changes(role).where(changes.c.row_id == bindparam("row_id", type_=BigInteger))
        found = found.where(changes.c.id < bindparam("before", type_=BigInteger))
        return found.order_by(changes.c.id.desc()).limit(LIMIT)

    def since(self, role: str) -> ClauseElement:
        """What the rows became after a position, and up to another."""
        # Not the column itself: the index that begins with it would find the whole past of the entity.
        found = self._changes(role, changes.c.entity.concat(""))
        found = found.where(place > position("after"), place <= position("until"))
        return found.order_by(changes.c.transaction_id, changes.c.id).limit(LIMIT)

    def _changes(self, role: str, entity: ColumnElement[str] = changes.c.entity) -> Select[Any]:
        """Of those, what the caller may see: by whose the row was then."""
        seen = visibility.seen_by(self.entity, changes.c.whose, role)
        of_rows = entity == self.table.name, changes.c.row_id > 0
        return select(*recorded).where(*of_rows, *self._holds(role), *seen)

    def refers(self, role: str, name: str) -> ClauseElement:
        """Whether what `name` shall refer to is there, for this caller; a row's team, whether they are in it."""
        row: Select[Any] = select(self._new(name)).where(*self._joins(role, (name,)), *self._refer(role, (name,)))
        return row

    def _visible(self, role: str) -> list[ColumnElement[bool]]:
        return [*self._holds(role), *visibility.seen(self.entity, self.table, role)]

    def _creatable(self, role: str) -> list[ColumnElement[bool]]:
        """A row of one's own, where rows have owners; the row itself is not there yet to be asked."""
        access, team = self.entity.__access__, self.entity.__team__
        if role == "user" and access is Access.OWNED:
            return [*self._holds(role), self._new(self.owner) == ME] if self.owner else [visibility.NOTHING]
        if role == "user" and access is Access.TEAM:
            # A new team has no members yet: see docs/access.md for who becomes the first.
            return self._holds(role) + ([] if team == "id" else self._joins(role, (team,)))
        return self._visible(role)

    def _joins(self, role: str, names: tuple[str, ...]) -> list[ColumnElement[bool]]:
        """A row goes only into a team that its caller is in, also where everyone sees the teams."""
        team = self.entity.__team__
        joins = role == "user" and self.entity.__access__ is Access.TEAM and team in names
        return [visibility.is_member(self.entity, self._new(team))] if joins else []

    def _holds(self, role: str) -> list[ColumnElement[bool]]:
        return [] if role == "application" else [self.standing.holds]

    def _refer(self, role: str, refers: tuple[str, ...]) -> list[ColumnElement[bool]]:
        return [visibility.refers_to_seen(self.table.c[name], self._new(name), role) for name in refers]

    def _is_row(self) -> ColumnElement[bool]:
        return self.table.c.id == bindparam("row_id", type_=self.table.c.id.type)

    def _unchanged(self, checked: bool) -> list[ColumnElement[bool]]:
        return [self.table.c.version == bindparam("seen_version", type_=BigInteger)] if checked else []

    def _new(self, name: str) -> ColumnElement[Any]:
        return bindparam(f"new_{name}", type_=self.table.c[name].type)
