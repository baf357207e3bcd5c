"""The verbs of every entity, each one statement. What a caller may not see does not exist in any of them."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from sqlmodel import SQLModel

from app.engine.caller import Caller, Standing
from app.engine.conflicts import Conflicts
from app.engine.cursors import cursor_of
from app.engine.expressions import Expressions
from app.engine.filters import shaped
from app.engine.queries import Query, Shape
from app.engine.statement import Row
from app.engine.statements import Read as Read
from app.engine.statements import Statements
from app.engine.violations import Dangling
from app.engine.waiting import retried
from app.errors import Missing
from app.models.base import Entity, utcnow

FIRST_PAGE = Query()
AT_ONCE = 1024  # ids: ten thousand would hold up the loop while they are compiled, and PostgreSQL takes 65,535


class Verbs(Statements[Read]):
    """page, get, create, update and delete for `entity`, answered as `read`.

    Every verb takes the caller first. What they may not see is Missing for them; a token that no longer holds is
    Unauthenticated. What the database refuses is a Clash or Invalid. A single verb is its own transaction.
    """

    def __init__(self, entity: type[Entity], read: type[Read], standing: Standing) -> None:
        super().__init__(Expressions(entity, read, standing), read)

    async def page(
        self,
        caller: Caller,
        query: Query | None = None,
        *,
        skip: int | None = None,
        limit: int | None = None,
        **asked: object,
    ) -> list[Read]:
        """At most `limit` rows after `skip` of them, newest first unless `query` or `sort=` says otherwise.

        What is given here comes on top of the `query`: `owner_id=1`, `due__gte=today`, `q="paint"`, any column by name.
        The query hears where the next page begins, and how many rows there are in all if it wants to know.
        """
        part = query or FIRST_PAGE
        skip, limit = part.skip if skip is None else skip, part.limit if limit is None else limit
        shape, values = shaped(self.entity, {**part.asked(), **asked})
        # One more than is wanted tells whether there is a next page.
        rows = await self.run(caller, "page", (shape,), {**values, "skip": skip, "limit": limit + 1})
        found = self._hydrator(caller.db.dialect)(rows[:limit])
        if query:
            following = cursor_of(self.entity, shape.sort, found[-1]) if found and len(rows) > limit else None
            total = await self._count(caller, shape, values) if query.count else None
            query.tell(following, total)
        return found

    async def get(self, caller: Caller, row_id: int) -> Read:
        """The row. Raises Missing."""
        return self._one(caller, await self.run(caller, "get", (), {"row_id": row_id}))

    async def by_ids(self, caller: Caller, ids: Iterable[int]) -> dict[int, Read]:
        """The rows with these `ids`, by id: those that there are for the caller. One statement for each 1024."""
        wanted, found = sorted(set(ids)), dict[int, Read]()
        for first in range(0, len(wanted), AT_ONCE):
            rows = await self.page(caller, limit=AT_ONCE, id__in=wanted[first : first + AT_ONCE])
            found |= {row.id: row for row in rows}  # type: ignore[attr-defined]  # every Read has one
        return found

    async def children(
        self, caller: Caller, column: str, ids: Iterable[int], *, limit: int = 100
    ) -> dict[int, list[Read]]:
        """For each of `ids` the newest rows whose `column` it is, at most `limit`. One statement for all of them."""
        found: dict[int, list[Read]] = {row_id: [] for row_id in ids}
        if found:
            shape, values = shaped(self.entity, {f"{column}__in": list(found)})
            rows = await self.run(caller, "children", (column, shape), {**values, "limit": limit})
            for row in self._hydrator(caller.db.dialect)(rows):
                found[getattr(row, column)].append(row)
        return found

    async def create(self, caller: Caller, data: SQLModel, **more: object) -> Read:
        """The new row: `data`, and `more` that clients cannot set. Unless they say otherwise, it belongs to the caller.

        Raises Missing if it would belong to somebody whom the caller may not act for, and Invalid if it refers to a row
        that is not there for them.
        """
        names, values = self._columns_in(self._new_row(caller, data, more, utcnow()))
        rows = await self._write(caller, "create", names, values)
        if not rows:
            await self._check_references(caller, values)
        return self._one(caller, rows)

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

        Raises Missing, Stale if a `version` is given and the row has another by now, and Invalid if it would refer to a
        row that is not there for the caller.
        """
        sent = {name: getattr(changes, name) for name in changes.model_fields_set} if changes else {}
        names, values = self._columns_in({**sent, **self._known(more)})
        if not names:
            return self._unless_stale(await self.get(caller, row_id), version)
        names, values = self._columns_in({**sent, **more, "updated_at": utcnow()})
        values |= {"row_id": row_id, "seen_version": version}
        rows = await self._write(caller, "update", (version is not None, *names), values)
        if rows:
            return self._one(caller, rows)
        # No row: it is missing, it has changed, or it would refer to what is missing.
        self._unless_stale(await self.get(caller, row_id), version)
        await self._check_references(caller, values)
        # Neither: the caller was in another role for a moment. Nothing was changed yet.
        return await self.update(caller, row_id, changes, version=version, **more)

    async def delete(self, caller: Caller, row_id: int, *, version: int | None = None) -> None:
        """Gone. Raises Missing, Stale if a `version` is given and the row has another by now, Clash if it is in use."""
        values: dict[str, object] = {"row_id": row_id, "seen_version": version}
        try:
            rows = await self._write(caller, "delete", (version is not None,), values)
        except Dangling:
            raise self._in_use() from None
        if not rows:
            self._unless_stale(await self.get(caller, row_id), version)
            await self.delete(caller, row_id, version=version)  # for a moment the caller was in another role

    async def _write(self, caller: Caller, verb: str, shape: tuple[Any, ...], values: dict[str, Any]) -> list[Row]:
        if verb != "delete":
            # Which references are not empty, and so must be of rows that are there.
            shape = (tuple(name for name in self._say.references if values.get(f"new_{name}") is not None), *shape)
        if self._conflicts is None:
            return await self.run(caller, verb, shape, values)
        return await self._write_checked(self._conflicts, caller, verb, shape, values)

    @retried
    async def _write_checked(
        self, rules: Conflicts, caller: Caller, verb: str, shape: tuple[Any, ...], values: dict[str, Any]
    ) -> list[Row]:
        async with caller.db.transaction() as db:
            # Before a deletion too: two that deleted, and go on to create, would wait for each other.
            await rules.hold_off_others(db)
            rows = await self.run(replace(caller, db=db), verb, shape, values)
            if rows and verb != "delete":
                await rules.check(db, rows[0][self._say.columns.index(self._table.c.id)])
            return rows

    async def _count(self, caller: Caller, shape: Shape, values: dict[str, Any]) -> int:
        rows = await self.run(caller, "count", (shape._replace(place=""),), values)
        return int(rows[0][0])

    async def _check_references(self, caller: Caller, values: dict[str, Any]) -> None:
        """Raise Invalid for the first that is not there for the caller: missing and invisible are told alike."""
        for name in sorted(self._say.references):
            if values.get(f"new_{name}") is not None and not await self.run(caller, "refers", (name,), values):
                raise self._unseen(name)

    def _one(self, caller: Caller, rows: list[Row]) -> Read:
        if not rows:
            raise Missing
        return self._hydrator(caller.db.dialect)(rows)[0]

    def _columns_in(self, given: dict[str, object]) -> tuple[tuple[str, ...], dict[str, object]]:
        """The names of those that are columns, in a fixed order, and their values as bind parameters."""
        names = tuple(sorted(name for name in given if name in self._table.c))
        return names, {f"new_{name}": given[name] for name in names}
