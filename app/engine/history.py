"""What was recorded, read again: what a row was, who changed what, and what has changed since."""

import json
import re
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, Generic, Literal, NamedTuple
from uuid import UUID

from pydantic import BaseModel, Field, JsonValue
from sqlalchemy import Column, Date, DateTime, Float, LargeBinary, Numeric, Uuid, bindparam, select

from app.engine.caller import Caller
from app.engine.cursors import adapter
from app.engine.expressions import LIMIT
from app.engine.queries import plain, shown
from app.engine.recording import horizon, settled
from app.engine.records import changes, place, position, recorded
from app.engine.statement import Row, Statement
from app.engine.verbs import Read, Verbs
from app.engine.visibility import entities
from app.errors import Gone, Invalid
from app.models.base import Entity

NEWEST = 2**63 - 1
EVERY = ("version", "updated_at")  # what every change changes
PRUNED = "pruned"  # the action of an entity's row 0, which stands where the last change that is lost stood
NOW = "now"
FULL = 100  # changes told at once
WINDOW, WINDOWS = 5000, 10  # changes looked at in one statement, and statements for one answer
POSITION = r"^(\d{1,19}-\d{1,19}|now)$"


class Change(BaseModel):
    """What happened to a row, by whom, and what became of it."""

    id: int
    position: str = Field(description="Where `after` goes on after this one.")
    at: datetime
    entity: str
    row_id: int
    action: Literal["created", "changed", "deleted", "restored"]
    user_id: int | None = Field(description="Who did it. Null for the application, and for what is not known.")
    request_id: str | None = Field(description="In which request: its `X-Request-Id`.")
    row: dict[str, JsonValue] = Field(description="What the row became; or was, if it was deleted.")


class Difference(BaseModel):
    before: JsonValue
    after: JsonValue


class PastChange(Change):
    """A change, and what differs from what was there before."""

    changed: dict[str, Difference] | None = Field(
        description="The fields that differ. Null if what was there before is not known any more."
    )


class History(Generic[Read]):
    """Of the entity that `verbs` are for. Whoever may not see a row sees nothing of its past."""

    def __init__(self, verbs: Verbs[Read]) -> None:
        self._verbs = verbs

    async def of_row(self, caller: Caller, row_id: int, *, before: int = NEWEST, limit: int = FULL) -> list[PastChange]:
        """What a row became, the newest first: below the id `before`. Raises Missing."""
        # One more than is wanted: what was there before the last.
        found = await self._verbs.run(caller, "past", (), {"row_id": row_id, "before": before, "limit": limit + 1})
        if not found and before == NEWEST:
            await self._verbs.get(caller, row_id)  # of before there was a history, if it is there at all
        told = [change(row) for row in found]
        befores = [each.row for each in told[1:]] + [None] * (len(told) <= limit)
        return [
            PastChange(**dict(each), changed=_differences(each, before))
            for each, before in zip(told, befores, strict=False)
        ]

    async def since(self, caller: Caller, after: str = "", *, limit: int = FULL) -> tuple[list[Change], str]:
        """What came to pass after a position, the oldest first, and the position where to go on.

        `after` may be "" for all that is wholly kept, and "now" for what is still to come. Nothing is missed, however
        long a transaction took: what is told is only what none can come before any more. Raises Gone if what came after
        that position may not all be kept, and Invalid for what is no position.
        """
        here = start = await _place(caller, after) if after else await self._pruned(caller)
        found = list[Row]()
        for _ in range(WINDOWS):
            ends = await caller.db.run(_END, {**here.named("after"), "limit": WINDOW})
            end = Place(*ends[0]) if ends else here
            values = {**here.named("after"), **end.named("until"), "limit": limit - len(found)}
            found += await self._verbs.run(caller, "since", (), values)
            here = end
            if not ends or len(found) == limit:
                break
        # Asked last: what was pruned while this was read may be missing in it. And only of who may ask.
        # A position that is still to come is of a database that was ahead, until this one was restored from a backup.
        if start < await self._pruned(caller) or (not found and start > await _now(caller)):
            raise Gone("What changed since then is not all kept: read the list anew, and begin with after=now.")
        told = [change(row) for row in found]
        return told, told[-1].position if len(told) == limit else str(here)

    async def _pruned(self, caller: Caller) -> "Place":
        """The last place of which something may be lost."""
        marks = await caller.db.run(_PRUNED, {"entity": self._verbs.entity.__table__.name})
        return Place(*marks[0]) if marks else Place(0, 0)


class Place(NamedTuple):
    """In the feed: after the change of that id in that transaction."""

    transaction: int
    id: int

    def __str__(self) -> str:
        return f"{self.transaction}-{self.id}"

    def named(self, name: str) -> dict[str, int]:
        return {f"{name}_transaction": self.transaction, f"{name}_id": self.id}


_HORIZON = Statement(select(horizon()))
# The last of the changes that are looked at in one statement, whoever may see them.
_next = select(changes.c.transaction_id, changes.c.id).where(
    place > position("after"), settled(changes.c.transaction_id)
)
_window = _next.order_by(changes.c.transaction_id, changes.c.id).limit(LIMIT).subquery()
_END = Statement(select(*_window.c).order_by(_window.c.transaction_id.desc(), _window.c.id.desc()).limit(1))
# Of the marks: processes that prune at the same moment may leave one each.
_mark = changes.c.entity == bindparam("entity"), changes.c.row_id == 0
_marks = select(changes.c.transaction_id, changes.c.id).where(*_mark)
_PRUNED = Statement(_marks.order_by(changes.c.transaction_id.desc(), changes.c.id.desc()).limit(1))


async def _place(caller: Caller, text: str) -> Place:
    if text == NOW:
        return await _now(caller)
    found = re.fullmatch(r"(\d{1,19})-(\d{1,19})", text, re.ASCII)
    if not found:
        raise Invalid("That is no position in the feed of changes.")
    return Place(int(found[1]), int(found[2]))


async def _now(caller: Caller) -> Place:
    ((transaction,),) = await caller.db.run(_HORIZON, {})
    return Place(transaction, 0)


async def overall(caller: Caller, *, before: int = NEWEST, limit: int = FULL, **asked: object) -> list[Change]:
    """What anybody did to any entity, the newest first, below the id `before`; `asked` by columns. For superusers only:
    whoever calls this has checked that."""
    given = {name: value for name, value in asked.items() if value is not None}
    found = await caller.db.run(_overall(tuple(sorted(given))), {**given, "before": before, "limit": limit})
    return [change(row) for row in found]


@lru_cache(64)
def _overall(names: tuple[str, ...]) -> Statement:
    met = [changes.c[name] == bindparam(name, type_=changes.c[name].type) for name in names]
    found = select(*recorded).where(*met, changes.c.id < bindparam("before"), changes.c.action != PRUNED)
    return Statement(found.order_by(changes.c.id.desc()).limit(LIMIT), unbounded=True)


def change(row: Row) -> Change:
    """A row of `recorded`, as it is told."""
    of = dict(zip((column.name for column in recorded), row, strict=True))
    of["at"] = datetime.fromisoformat(of["at"] + "+00:00") if isinstance(of["at"], str) else of["at"]
    image, entity = json.loads(of.pop("image")), entities().get(of["entity"])
    told = _told(entity, image) if entity else image
    return Change(**of, position=f"{of['transaction_id']}-{of['id']}", row=told)


def value_of(column: Column[Any], recorded: Any) -> Any:  # noqa: ANN401  # of any column
    """What stands in an image, as the column's value in Python."""
    kind = plain(column)
    if recorded is None:
        return None
    if isinstance(kind, DateTime):
        return datetime.fromisoformat(recorded)
    if isinstance(kind, Date):
        return date.fromisoformat(recorded)
    if isinstance(kind, Numeric) and not isinstance(kind, Float):
        return Decimal(str(recorded)).quantize(Decimal(1).scaleb(-(kind.scale or 0)))
    if isinstance(kind, Uuid):
        return UUID(recorded)
    return bytes.fromhex(recorded[2:]) if isinstance(kind, LargeBinary) else recorded


def _told(entity: type[Entity], image: dict[str, Any]) -> dict[str, JsonValue]:
    """An image as the API tells a row, in the order of its fields. What was added to the entity since is not there."""
    columns = (entity.__table__.c[name] for name in shown(entity) if name in image)
    return {column.name: _json(entity, column, image[column.name]) for column in columns}


def _json(entity: type[Entity], column: Column[Any], recorded: Any) -> JsonValue:  # noqa: ANN401  # of any column
    value = value_of(column, recorded)
    if value is recorded:
        return recorded  # type: ignore[no-any-return]  # JSON has it as it is
    told: JsonValue = adapter(entity, column.name).dump_python(value, mode="json")
    return told


def _differences(change: Change, before: dict[str, JsonValue] | None) -> dict[str, Difference] | None:
    if change.action != "changed":
        return {}
    if before is None:
        return None
    return {
        name: Difference(before=before.get(name), after=after)
        for name, after in change.row.items()
        if before.get(name) != after and name not in EVERY
    }
