"""Whose rows a caller sees, as a condition on a table or on an alias of it. What it leaves out does not exist for them.

"Own or superuser" in one OR would lose the index, so each role has a condition of its own.
"""

from typing import Any

from sqlalchemy import ColumnElement, FromClause, Table, exists, false, select
from sqlmodel import SQLModel

from app.engine.caller import ME
from app.models.base import Access, Entity

NOTHING: ColumnElement[bool] = false()


def seen(entity: type[Entity], rows: FromClause, role: str) -> list[ColumnElement[bool]]:
    """Of `rows`, those that a caller in `role` may see, read, change and delete."""
    column = whose(entity)
    return seen_by(entity, rows.c[column] if column else NOTHING, role)


def seen_by(entity: type[Entity], key: ColumnElement[Any], role: str) -> list[ColumnElement[bool]]:
    """Of what stands for rows with `key` as their owner or team, what a caller in `role` may see."""
    if role != "user" or entity.__access__ is Access.SHARED:
        return []
    if entity.__access__ is Access.OWNED:
        return [key == ME]
    return [is_member(entity, key)] if entity.__access__ is Access.TEAM else [NOTHING]


def whose(entity: type[Entity]) -> str | None:
    """The column that says who sees a row: its owner's, or its team's. None if that is alike for all rows."""
    return {Access.OWNED: entity.__owner__, Access.TEAM: entity.__team__}.get(entity.__access__)


def is_member(entity: type[Entity], team: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether the caller is in that `team`."""
    members = SQLModel.metadata.tables[entity.__members__].alias()
    return exists().where(members.c.team_id == team, members.c.user_id == ME)


def refers_to_seen(column: ColumnElement[Any], value: ColumnElement[Any], role: str) -> ColumnElement[bool]:
    """Whether `value` is the id of a row that the caller sees: of the table that the foreign key `column` refers to."""
    target = target_of(column)
    rows = target.alias()
    entity = entities().get(target.name)
    visible = seen(entity, rows, role) if entity else []
    return exists(select(1).select_from(rows).where(rows.c.id == value, *visible))


def target_of(column: Any) -> Table:  # noqa: ANN401  # a Column, which SQLAlchemy types in many ways
    """The table that a foreign key refers to."""
    (key,) = column.foreign_keys
    table: Table = key.column.table
    return table


def entities() -> dict[str, type[Entity]]:
    """Every entity there is, by its table's name."""
    mapped = (mapper.class_ for mapper in SQLModel._sa_registry.mappers)
    return {entity.__table__.name: entity for entity in mapped if issubclass(entity, Entity)}
