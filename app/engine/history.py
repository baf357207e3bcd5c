"""What was recorded, read again: what a row was, who changed what, and what has changed since."""

import json
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, Generic, Literal, NamedTuple
from uuid import UUID

from pydantic import BaseModel, Field, JsonValue
from sqlalchemy import Column, Date, DateTime, Float, LargeBinary, Numeric, Uuid, bindparam, func, literal, select, true

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
# The action of an entity's row 0, which says up to which change something may be lost: `whose` holds that one's id.
PRUNED = "pruned"
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
        if not found:
            await self._must_exist(caller, row_id)
        told = [self._change(row) for row in found]
        pairs = zip(told[:limit], [*told[1:], None], strict=False)
        return [PastChange(**dict(each), changed=_differences(each, earlier)) for each, earlier in pairs]

    async def _must_exist(self, caller: Caller, row_id: int) -> None:
        """Raise Missing unless it is there, or was."""
        if not await self._verbs.run(caller, "past", (), {"row_id": row_id, "before": NEWEST, "limit": 1}):
            await self._verbs.get(caller, row_id)  # from before there was a history

    async def since(self, caller: Caller, after: str = "", *, limit: int = FULL) -> tuple[list[Change], str]:
        """What came to pass after a position, the oldest first, and the position where to go on.

        `after` may be "" for all that is wholly kept, and "now" for what is still to come. Nothing is missed, however
        long a transaction took: what is told is only what none can come before any more. Raises Gone if what came after
        that position may not all be kept, and Invalid for what is no position.
        """
        start = await _place(caller, after) if after else (await self._known(caller))[0]
        here, found = start, list[Row]()
        for _ in range(WINDOWS):
            ends = await caller.db.run(_END, {**here.named("after"), "limit": WINDOW})
            end = Place(*ends[0]) if ends else here
            values = {**here.named("after"), **end.named("until"), "limit": limit - len(found)}
            found += await self._verbs.run(caller, "since", (), values)
            here = end
            if not ends or len(found) == limit:
                break
        # Afterwards: it may have been pruned meanwhile. And a database may be the copy of an older one.
        first, last = await self._known(caller)
        if not first <= start <= last:
            raise Gone("What changed since then is not all kept: read the list anew, and begin with after=now.")
        told = [self._change(row) for row in found]
        return told, told[-1].position if len(told) == limit else str(here)

    async def _known(self, caller: Caller) -> tuple["Place", "Place"]:
        """From where on all is kept, and up to where anything can have been told."""
        ((transaction, change, end),) = await caller.db.run(_KNOWN, {"entity": self._verbs.entity.__table__.name})
        return Place(transaction, change), Place(end, 0)

    def _change(self, row: Row) -> Change:
        """As the verbs tell a row: what they leave out, its past does too."""
        told = change(row)
        told.row = {name: value for name, value in told.row.items() if name in self._verbs.read.model_fields}
        return told


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
_mark = (
    select(changes.c.transaction_id, changes.c.whose)
    .where(changes.c.entity == bindparam("entity"), changes.c.row_id == 0)
    .order_by(changes.c.transaction_id.desc(), changes.c.whose.desc())
    .limit(1)
    .subquery()
)
_one = select(literal(1)).subquery()
_KNOWN = Statement(
    select(*(func.coalesce(each, 0) for each in _mark.c), horizon()).select_from(_one.outerjoin(_mark, true()))
)


async def _place(caller: Caller, text: str) -> Place:
    if text == NOW:
        ((transaction,),) = await caller.db.run(_HORIZON, {})
        return Place(transaction, 0)
    found = re.fullmatch(r"(\d{1,19})-(\d{1,19})", text, re.ASCII)
    if not found or max(int(found[1]), int(found[2])) > NEWEST:
        raise Invalid("That is no position in the feed of changes.")
    return Place(int(found[1]), int(found[2]))


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
        return datetime.fromisoformat(recorded).astimezone(UTC)  # psql may have had another time zone
    if isinstance(kind, Date):
        return date.fromisoformat(recorded)
    if isinstance(kind, Numeric) and not isinstance(kind, Float):
        value = Decimal(str(recorded))
        return value if kind.scale is None else value.quantize(Decimal(1).scaleb(-kind.scale))
    if isinstance(kind, Uuid):
        return UUID(recorded)
    return bytes.fromhex(recorded[2:]) if isinstance(kind, LargeBinary) else recorded


def _told(entity: type[Entity], image: dict[str, Any]) -> dict[str, JsonValue]:
    """An image as the API tells a row, in the order of its fields. What was added to the entity since is not there."""
    columns = (entity.__table__.c[name] for name in shown(entity) if name in image)
    return {column.name: _json(entity, column, image[column.name]) for column in columns}


def _json(entity: type[Entity], column: Column[Any], recorded: Any) -> JsonValue:  # noqa: ANN401  # of any column
    try:
        value = value_of(column, recorded)
    except (ValueError, TypeError, ArithmeticError):
        value = recorded  # from before the column had this type
    if value is recorded:
        return recorded  # type: ignore[no-any-return]  # JSON has it as it is
    told: JsonValue = adapter(entity, column.name).dump_python(value, mode="json")
    return told


def _differences(change: Change, before: Change | None) -> dict[str, Difference] | None:
    if change.action != "changed":
        return {}
    # Between the two it may have been somebody else's, and what was done then is not told.
    if before is None or _version(change) > _version(before) + 1:
        return None
    return {
        name: Difference(before=before.row.get(name), after=after)
        for name, after in change.row.items()
        if before.row.get(name) != after and name not in EVERY
    }


def _version(change: Change) -> int:
    return int(str(change.row.get("version", 0)))
