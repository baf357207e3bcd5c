"""A deleted row comes back as it was, under its own id, and with it the rows that its deletion took along."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, bindparam, insert, select

from app.engine import scopes
from app.engine.caller import Caller
from app.engine.conflicts import Conflicts
from app.engine.history import NEWEST, value_of
from app.engine.queries import shown
from app.engine.recording import acting
from app.engine.records import changes, recorded
from app.engine.statement import Row, Statement
from app.engine.verbs import Read, Verbs
from app.engine.violations import Dangling
from app.engine.visibility import entities
from app.engine.waiting import retried
from app.errors import Clash
from app.models.base import Entity, utcnow

NAMES = [column.name for column in recorded]
# Of two who restore a row at once, the second waits, and then sees that it is there.
_TAKE_TURN = Statement(
    select(changes.c.id)
    .where(
        changes.c.entity == bindparam("entity"),
        changes.c.row_id == bindparam("row_id", type_=BigInteger),
        changes.c.action == "deleted",
    )
    .with_for_update()
)
# All that one transaction deleted.
_DELETED = Statement(
    select(*recorded)
    .where(changes.c.transaction_id == bindparam("transaction", type_=BigInteger), changes.c.action == "deleted")
    .order_by(changes.c.id),
    unbounded=True,
)


class Key(NamedTuple):
    """Which row of which table."""

    table: str
    id: int


Images = dict[Key, dict[str, Any]]


@retried
async def restore(verbs: Verbs[Read], caller: Caller, row_id: int) -> Read:
    """The deleted row, there again, with all that its deletion took along.

    Raises Missing if there was none that the caller could see, and Clash if it was not deleted, held a secret, or if
    something stands in its way: what it refers to is gone, or its name is taken by now. What went along takes its own
    entity's scope too.
    """
    root = Key(verbs.entity.__table__.name, row_id)
    scopes.require_for(caller.identity, root.table, writes=True)
    async with caller.db.transaction() as db:
        tx = replace(caller, db=db)
        await db.run(_TAKE_TURN, {"entity": root.table, "row_id": row_id})
        found = await verbs.run(tx, "past", (), {"row_id": row_id, "before": NEWEST, "limit": 1})
        last = _named(found[0]) if found else {}
        if last.get("action") != "deleted":
            await verbs.get(tx, row_id)
            raise Clash("It is not deleted.")
        rows = await db.run(_DELETED, {"transaction": last["transaction_id"]})
        deleted = {Key(each["entity"], each["row_id"]): json.loads(each["image"]) for each in map(_named, rows)}
        images = _taken_along_with(root, deleted)
        for table in {key.table for key in images}:
            scopes.require_for(caller.identity, table, writes=True)
        await _insert_all(tx, root, images, deleted)
        return await verbs.get(tx, row_id)


def _named(row: Row) -> dict[str, Any]:
    return dict(zip(NAMES, row, strict=True))


def _taken_along_with(root: Key, deleted: Images) -> Images:
    """Of what was deleted, the row itself, and whatever the database deletes with it; those that others need first."""
    referring: dict[Key, list[Key]] = {}
    for key, image in deleted.items():
        for ondelete, target in _references(key, image):
            if ondelete == "CASCADE" and not _hidden(entities()[key.table]):
                referring.setdefault(target, []).append(key)
    found = {root: deleted[root]}
    for parent in (waiting := [root]):  # which grows meanwhile
        new = [key for key in referring.get(parent, ()) if key not in found]
        found |= {key: deleted[key] for key in new}
        waiting += new
    needs = {key: [target for _, target in _references(key, image) if target in found] for key, image in found.items()}
    try:
        return {key: found[key] for key in TopologicalSorter(needs).static_order()}
    except CycleError:
        raise Clash("It and what was deleted with it refer to each other in a circle.") from None


async def _insert_all(tx: Caller, root: Key, images: Images, deleted: Images) -> None:
    left: set[Key] = set()
    for key, image in images.items():
        for _, target in _references(key, image):
            # What went at the same time, but not along with this, has a restoration of its own, and this comes then.
            is_elsewhere = target in deleted and target not in images
            if target in left or (is_elsewhere and not await tx.db.run(_there(target.table), {"row_id": target.id})):
                left.add(key)
        if key == root or key not in left:
            await _insert(tx, entities()[key.table], image)


def _references(key: Key, image: dict[str, Any]) -> Iterator[tuple[str | None, Key]]:
    """What becomes of a row when what it refers to is deleted; and what that is, but for itself."""
    entity = entities().get(key.table)
    for foreign in entity.__table__.foreign_keys if entity else ():
        target = Key(foreign.column.table.name, image.get(foreign.parent.name) or 0)
        if target.id and target != key:
            yield foreign.ondelete, target


@lru_cache(256)
def _there(table: str) -> Statement:
    rows = entities()[table].__table__
    return Statement(select(rows.c.id).where(rows.c.id == bindparam("row_id", type_=BigInteger)))


async def _insert(tx: Caller, entity: type[Entity], image: dict[str, Any]) -> None:
    if hidden := _hidden(entity):
        raise Clash(f"The {_words(hidden[0])} is not in the history, so it cannot come back.")
    values = {**_values(entity, image), "updated_at": utcnow(), "version": image["version"] + 1}
    statement, new = (
        _insertion(entity.__table__.name, tuple(values)),
        {f"new_{name}": value for name, value in values.items()},
    )
    rules = Conflicts(entity) if entity.__conflicts__ else None
    try:
        if rules:
            await rules.hold_off_others(tx.db)
        await tx.db.run(statement, {**new, "acting": tx.acting})
        if rules:
            await rules.check(tx.db, image["id"])
    except Dangling:
        which = f"{_words(entity.__table__.name)} {image['id']}"
        raise Clash(f"Something that {which} refers to is gone. Restore that first.") from None


@lru_cache(256)
def _insertion(of: str, names: tuple[str, ...]) -> Statement:
    table = entities()[of].__table__
    row = select(*(bindparam(f"new_{name}", type_=table.c[name].type) for name in names)).where(acting())
    return Statement(insert(table).from_select(names, row, include_defaults=False).returning(table.c.id))


def _values(entity: type[Entity], image: dict[str, Any]) -> dict[str, Any]:
    """What stands in the image, as the table has it today. Raises Clash if that cannot be told."""
    values, fields = {}, entity.model_fields  # type: ignore[attr-defined]  # every entity is a SQLModel
    for column in (entity.__table__.c[name] for name in shown(entity)):
        try:
            if column.name in image:
                values[column.name] = value_of(column, image[column.name])
            elif not fields[column.name].is_required():
                values[column.name] = fields[column.name].get_default(call_default_factory=True)
            elif not column.nullable:
                raise ValueError
        except (ValueError, TypeError, ArithmeticError):
            raise Clash(f"It is from before its {_words(column.name)} was what it is today.") from None
    return values


def _hidden(entity: type[Entity]) -> list[str]:
    """What no answer shows, so that no history has it either."""
    of = entity.__table__.c
    return [column.name for column in of if column.name not in shown(entity) and not column.computed]


def _words(name: str) -> str:
    return name.replace("_", " ")
