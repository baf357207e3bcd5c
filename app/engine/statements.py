"""What single verbs and bulks of an entity share: their statements, run as a caller in the role that they have now."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Generic, TypeVar

from sqlalchemy import Dialect
from sqlmodel import SQLModel

from app.engine import scopes
from app.engine.caller import Caller
from app.engine.conflicts import Conflicts
from app.engine.expressions import Expressions
from app.engine.statement import Row, Statement, hydrator
from app.engine.visibility import target_of
from app.errors import Clash, Invalid, Stale
from app.models.base import Access

Read = TypeVar("Read", bound=SQLModel)
SHAPES = 256  # statements kept for each entity


class Statements(Generic[Read]):
    """Those that `say` says, answered as `read`. Each is compiled once for each shape that it comes in."""

    def __init__(self, say: Expressions, read: type[Read]) -> None:
        self.entity, self.read, self.standing = say.entity, read, say.standing
        self.owner = say.owner  # the column that says whose a row is
        self._say, self._table = say, say.table
        scopes.reading(self._table.name), scopes.writing(self._table.name)  # so that a token can ask for them
        self._conflicts = Conflicts(say.entity) if say.entity.__conflicts__ else None
        fields: Any = say.entity.model_fields  # type: ignore[attr-defined]  # every entity is a SQLModel
        self._defaults = {n: field for n, field in fields.items() if n != "id" and not field.is_required()}
        self._statement = lru_cache(SHAPES)(self._compile)
        self._hydrator = lru_cache(8)(self._make_hydrator)

    async def run(self, caller: Caller, verb: str, shape: tuple[Any, ...], values: dict[str, Any]) -> list[Row]:
        """The rows of a statement, in the role that the caller has now. For the engine's own."""
        statement, given = self._statement(verb, caller.role, shape), {**values, **caller.binds}
        scopes.require_for(caller.identity, self._table.name, writes=statement.writes)
        if statement.writes:
            given["acting"] = caller.acting
        rows = await caller.db.run(statement, given)
        if rows or caller.identity is None:
            return rows
        # Nothing came back: is there nothing, or is the caller no longer who the token says?
        known = await self.standing.recognise(caller)
        # Not by their role: without the scope `admin` that is the same before and after.
        if known.identity != caller.identity:
            return await self.run(known, verb, shape, values)
        if self.entity.__access__ is Access.RESTRICTED:
            known.require_superuser()
        return rows

    def _new_row(self, caller: Caller, data: SQLModel, more: Mapping[str, object], now: datetime) -> dict[str, object]:
        """What a new row begins with: unless `more` says otherwise, it belongs to the caller."""
        given = {**data.__dict__, **self._known(more), "created_at": now, "updated_at": now, "version": 1}
        if self._say.owner and self._say.owner not in given:
            given[self._say.owner] = caller.id
        for name, field in self._defaults.items():
            if name not in given:
                given[name] = field.get_default(call_default_factory=True)
        return given

    def _known(self, more: Mapping[str, object]) -> Mapping[str, object]:
        if unknown := more.keys() - self._table.c.keys():
            raise TypeError(f"{self._table.name} has no column {', '.join(sorted(unknown))}.")
        return more

    def _unseen(self, name: str) -> Invalid:
        """That what `name` refers to is not there for the caller: missing and invisible are told alike."""
        thing = target_of(self._table.c[name]).name.replace("_", " ")
        return Invalid(f"{name} is none of the {thing} that you can see.")

    def _in_use(self) -> Clash:
        """That a row cannot be deleted: "It is still in use by projects or notes."""
        keys = (key for table in SQLModel.metadata.sorted_tables for key in table.foreign_keys)
        tables = [
            key.parent.table.name.replace("_", " ")
            for key in keys
            if key.column.table is self._table and key.ondelete in (None, "RESTRICT")
        ]
        users = f" by {' or '.join(dict.fromkeys(tables))}" if tables else ""
        return Clash(f"It is still in use{users}.")

    def _unless_stale(self, row: Read, version: int | None) -> Read:
        if version is not None and row.version != version:  # type: ignore[attr-defined]  # every Read has one
            raise Stale("Somebody changed it since you read it.")
        return row

    def _make_hydrator(self, dialect: Dialect) -> Callable[[Sequence[Row]], list[Read]]:
        return hydrator(self.read, self._say.columns, dialect)

    def _compile(self, verb: str, role: str, shape: tuple[Any, ...]) -> Statement:
        return Statement(getattr(self._say, verb)(role, *shape), unbounded=verb == "count")
