"""The five verbs of every entity, each one statement. What a caller may not see does not exist in any of them."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Generic, TypeVar

from sqlalchemy import BigInteger, ColumnElement, Dialect, Select, bindparam, false
from sqlalchemy.sql import ClauseElement
from sqlmodel import SQLModel, delete, insert, select, update

from app.engine.caller import ME, Caller, Standing
from app.engine.statement import Row, Statement, hydrator
from app.errors import Forbidden, Missing, Stale
from app.models.base import Access, Entity, utcnow

Read = TypeVar("Read", bound=SQLModel)
SHAPES = 256  # statements kept for each entity


class Verbs(Generic[Read]):
    """page, get, create, update and delete for `table`, answered as `read`.

    Every verb takes the caller first. What they may not see is Missing for them; a token that no longer holds is
    Unauthenticated. What the database refuses is a Clash or Invalid. A single verb is its own transaction.
    """

    def __init__(self, table: type[Entity], read: type[Read], standing: Standing) -> None:
        self._entity, self._read, self._standing = table, read, standing
        self._table = table.__table__
        # The column that says whose a new row is; an account is nobody's but its own.
        self._owner = table.__owner__ if table.__owner__ in self._table.c and table.__owner__ != "id" else None
        self._columns = [self._table.c[name] for name in read.model_fields]
        fields: Any = table.model_fields  # type: ignore[attr-defined]  # every entity is a SQLModel
        self._defaults = {n: field for n, field in fields.items() if n != "id" and not field.is_required()}
        self._statement = lru_cache(SHAPES)(self._compile)
        self._hydrator = lru_cache(8)(self._make_hydrator)

    async def page(self, caller: Caller, *, skip: int = 0, limit: int = 100, **equal: object) -> list[Read]:
        """At most `limit` rows, newest first, after `skip` of them; only those whose columns `equal` what is given."""
        values = {f"equal_{name}": value for name, value in equal.items()}
        shape = tuple((name, value is None) for name, value in equal.items())
        rows = await self._run(caller, "page", shape, {**values, "skip": skip, "limit": limit})
        return self._hydrator(caller.db.dialect)(rows)

    async def get(self, caller: Caller, row_id: int) -> Read:
        """The row. Raises Missing."""
        return self._one(caller, await self._run(caller, "get", (), {"row_id": row_id}))

    async def create(self, caller: Caller, data: SQLModel, **more: object) -> Read:
        """The new row: `data`, and `more` that clients cannot set. Unless they say otherwise, it belongs to the caller.

        Raises Missing if it would belong to somebody whom the caller may not act for.
        """
        given = {**data.__dict__, **self._known(more)}
        if self._owner and self._owner not in given:
            given[self._owner] = caller.id
        defaults = {name: field.get_default(call_default_factory=True) for name, field in self._defaults.items()}
        now = utcnow()
        stamps = {"created_at": now, "updated_at": now, "version": 1}
        names, values = self._columns_in({**defaults, **given, **stamps})
        return self._one(caller, await self._run(caller, "create", names, values))

    async def update(
        self,
        caller: Caller,
        row_id: int,
        changes: SQLModel | None = None,
        *,
        version: int | None = None,
        **more: object,
    ) -> Read:
        """The row after `changes`: only what was set in them, and `more` that clients cannot set.

        Raises Missing, or Stale if a `version` is given and the row has another by now.
        """
        sent = {name: getattr(changes, name) for name in changes.model_fields_set} if changes else {}
        names, values = self._columns_in({**sent, **self._known(more)})
        if not names:
            return self._unless_stale(await self.get(caller, row_id), version)
        names, values = self._columns_in({**sent, **more, "updated_at": utcnow()})
        values |= {"row_id": row_id, "seen_version": version}
        rows = await self._run(caller, "update", (version is not None, *names), values)
        if rows:
            return self._one(caller, rows)
        # No row: it is missing, or it has changed.
        self._unless_stale(await self.get(caller, row_id), version)
        # Neither: the caller was in another role for a moment. Nothing was changed yet.
        return await self.update(caller, row_id, changes, version=version, **more)

    async def delete(self, caller: Caller, row_id: int, *, version: int | None = None) -> None:
        """Gone. Raises Missing, or Stale if a `version` is given and the row has another by now."""
        values: dict[str, object] = {"row_id": row_id, "seen_version": version}
        if not await self._run(caller, "delete", (version is not None,), values):
            self._unless_stale(await self.get(caller, row_id), version)
            await self.delete(caller, row_id, version=version)  # for a moment the caller was in another role

    async def _run(self, caller: Caller, verb: str, shape: tuple[Any, ...], values: dict[str, object]) -> list[Row]:
        rows = await caller.db.run(self._statement(verb, caller.role, shape), {**values, **caller.binds})
        if rows or caller.identity is None:
            return rows
        # Nothing came back: is there nothing, or is the caller no longer who the token says?
        known = await self._standing.recognise(caller)
        if known.role != caller.role:
            return await self._run(known, verb, shape, values)
        if known.role == "user" and self._entity.__access__ is Access.RESTRICTED:
            raise Forbidden("That is for superusers.")
        return rows

    def _one(self, caller: Caller, rows: list[Row]) -> Read:
        if not rows:
            raise Missing
        return self._hydrator(caller.db.dialect)(rows)[0]

    def _unless_stale(self, row: Read, version: int | None) -> Read:
        if version is not None and row.version != version:  # type: ignore[attr-defined]  # every Read has one
            raise Stale("Somebody changed it since you read it.")
        return row

    def _columns_in(self, given: dict[str, object]) -> tuple[tuple[str, ...], dict[str, object]]:
        """The names of those that are columns, in a fixed order, and their values as bind parameters."""
        names = tuple(sorted(name for name in given if name in self._table.c))
        return names, {f"new_{name}": given[name] for name in names}

    def _known(self, more: dict[str, object]) -> dict[str, object]:
        if unknown := more.keys() - self._table.c.keys():
            raise TypeError(f"{self._table.name} has no column {', '.join(sorted(unknown))}.")
        return more

    def _make_hydrator(self, dialect: Dialect) -> Callable[[Sequence[Row]], list[Read]]:
        return hydrator(self._read, self._columns, dialect)

    # Below: how each verb is said in SQL. Done once for each shape.

    def _compile(self, verb: str, role: str, shape: tuple[Any, ...]) -> Statement:
        return Statement(getattr(self, f"_say_{verb}")(role, *shape))

    def _say_page(self, role: str, *equal: tuple[str, bool]) -> ClauseElement:
        columns = [(self._table.c[name], name, is_null) for name, is_null in equal]
        filters = [c.is_(None) if is_null else c == self._bind("equal", name) for c, name, is_null in columns]
        limit, skip = bindparam("limit", type_=BigInteger), bindparam("skip", type_=BigInteger)
        rows: Select[Any] = select(*self._columns).where(*self._visible(role), *filters)
        return rows.order_by(self._table.c.id.desc()).limit(limit).offset(skip)

    def _say_get(self, role: str) -> ClauseElement:
        row: Select[Any] = select(*self._columns).where(self._is_row(), *self._visible(role))
        return row

    def _say_create(self, role: str, *names: str) -> ClauseElement:
        row = select(*(self._bind("new", name) for name in names)).where(*self._creatable(role))
        return insert(self._table).from_select(names, row, include_defaults=False).returning(*self._columns)

    def _say_update(self, role: str, checked: bool, *names: str) -> ClauseElement:
        rows = update(self._table).where(self._is_row(), *self._visible(role), *self._unchanged(checked))
        return rows.values({name: self._bind("new", name) for name in names}).returning(*self._columns)

    def _say_delete(self, role: str, checked: bool) -> ClauseElement:
        rows = delete(self._table).where(self._is_row(), *self._visible(role), *self._unchanged(checked))
        return rows.returning(self._table.c.id)

    def _visible(self, role: str) -> list[ColumnElement[bool]]:
        """Whose rows: "own or superuser" in one OR would lose the index, so each role has a statement of its own."""
        if role == "application":
            return []
        if role == "superuser" or self._entity.__access__ is Access.SHARED:
            return [self._standing.holds]
        if self._entity.__access__ is Access.OWNED:
            return [self._standing.holds, self._table.c[self._entity.__owner__] == ME]
        return [false()]

    def _creatable(self, role: str) -> list[ColumnElement[bool]]:
        """A row of one's own, where rows have owners; the row itself is not there yet to be asked."""
        if role == "user" and self._entity.__access__ is Access.OWNED:
            owner = self._entity.__owner__
            return [self._standing.holds, self._bind("new", owner) == ME] if owner != "id" else [false()]
        return self._visible(role)

    def _is_row(self) -> ColumnElement[bool]:
        return self._table.c.id == bindparam("row_id", type_=self._table.c.id.type)

    def _unchanged(self, checked: bool) -> list[ColumnElement[bool]]:
        return [self._table.c.version == bindparam("seen_version", type_=BigInteger)] if checked else []

    def _bind(self, kind: str, name: str) -> ColumnElement[Any]:
        return bindparam(f"{kind}_{name}", type_=self._table.c[name].type)
