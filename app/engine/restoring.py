"""A deleted row comes back as it was, under its own id, and with it the rows that its deletion took along."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from sqlalchemy import BigInteger, Column, bindparam, insert, select

from app.engine.caller import Caller
from app.engine.conflicts import Conflicts
from app.engine.history import NEWEST, value_of
from app.engine.queries import shown
from app.engine.recording import acting
from app.engine.records import changes, recorded
from app.engine.statement import Statement
from app.engine.verbs import Read, Verbs
from app.engine.violations import Dangling
from app.engine.visibility import entities
from app.engine.waiting import retried
from app.errors import Clash, Missing
from app.models.base import Entity, utcnow

NAMES = [column.name for column in recorded]
# What one transaction deleted of an entity.
_DELETED = Statement(
    select(*recorded).where(
        changes.c.entity == bindparam("entity"),
        changes.c.transaction_id == bindparam("transaction", type_=BigInteger),
        changes.c.action == "deleted",
    ),
    unbounded=True,
)


@retried
async def restore(verbs: Verbs[Read], caller: Caller, row_id: int) -> Read:
    """The deleted row, there again, with all that its deletion took along.

    Raises Missing if there was none that the caller could see, and Clash if it was not deleted, held a secret, or if
    something stands in its way: what it refers to is gone, or its name is taken by now.
    """
    async with caller.db.transaction() as db:
        tx = replace(caller, db=db)
        found = await verbs.run(tx, "past", (), {"row_id": row_id, "before": NEWEST, "limit": 1})
        if not found:
            raise Missing
        last = dict(zip(NAMES, found[0], strict=True))
        if last["action"] != "deleted":
            raise Clash("It is not deleted.")
        await _insert(tx, verbs.entity, json.loads(last["image"]))
        await _restore_children(tx, verbs.entity, {row_id}, last["transaction_id"])
        return await verbs.get(tx, row_id)


async def _restore_children(tx: Caller, parent: type[Entity], ids: set[int], transaction: int) -> None:
    for child, column in _taken_along_with(parent):
        rows = await tx.db.run(_DELETED, {"entity": child.__table__.name, "transaction": transaction})
        images = [json.loads(dict(zip(NAMES, row, strict=True))["image"]) for row in rows]
        theirs = [image for image in images if image.get(column.name) in ids]
        for image in sorted(theirs, key=lambda image: int(image["id"])):
            await _insert(tx, child, image)
        if theirs:
            await _restore_children(tx, child, {image["id"] for image in theirs}, transaction)


def _taken_along_with(parent: type[Entity]) -> Iterator[tuple[type[Entity], Column[Any]]]:
    """The entities whose rows go with the rows they refer to, and the columns by which they do."""
    for entity in entities().values():
        for key in entity.__table__.foreign_keys:
            if key.column.table is parent.__table__ and key.ondelete == "CASCADE" and not _hidden(entity):
                yield entity, key.parent


async def _insert(tx: Caller, entity: type[Entity], image: dict[str, Any]) -> None:
    table, name = entity.__table__, entity.__table__.name.replace("_", " ")
    if hidden := _hidden(entity):
        raise Clash(f"The {hidden[0].replace('_', ' ')} is not in the history, so it cannot come back.")
    values = {column: value_of(table.c[column], image[column]) for column in shown(entity) if column in image}
    values |= {"updated_at": utcnow(), "version": image["version"] + 1}
    row = select(*(bindparam(f"new_{column}", type_=table.c[column].type) for column in values)).where(acting())
    statement = Statement(insert(table).from_select([*values], row, include_defaults=False).returning(table.c.id))
    rules = Conflicts(entity) if entity.__conflicts__ else None
    try:
        if rules:
            await rules.hold_off_others(tx.db)
        await tx.db.run(statement, {**{f"new_{column}": value for column, value in values.items()}, **tx.binds})
        if rules:
            await rules.check(tx.db, image["id"])
    except Dangling:
        raise Clash(f"Something that {name} {image['id']} refers to is gone. Restore that first.") from None


def _hidden(entity: type[Entity]) -> list[str]:
    """What a row must have, and no answer shows, so that no history has it either."""
    of = entity.__table__.c
    return [column.name for column in of if column.name not in shown(entity) and not column.nullable]
