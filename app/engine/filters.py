"""A list's question as SQL: values of a Query as bind parameters, and the conditions and the order of its shape."""

from typing import Any

from sqlalchemy import BigInteger, ColumnElement, FromClause, String, and_, bindparam, false, or_, tuple_
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from app.engine import cursors
from app.engine.queries import NEWEST, Filter, Shape, declared
from app.models.base import Entity

HOW = ("", "gt", "gte", "lt", "lte", "in", "contains", "null")
PLACE = bindparam("place_id", type_=BigInteger)


class folded(FunctionElement[str]):  # noqa: N801  # a function in SQL
    """A text in lower case, whatever its language. SQLite's own lower() knows ASCII only: see sqlite_connection.py."""

    type = String()
    inherit_cache = True


@compiles(folded)
def _lower(element: folded, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401  # SQLAlchemy's
    name = "fold" if compiler.dialect.name == "sqlite" else "lower"
    return f"{name}({compiler.process(element.clauses, **options)})"


def shaped(entity: type[Entity], given: dict[str, Any]) -> tuple[Shape, dict[str, Any]]:
    """The shape of what is `given`, filters by name, and the values of its statement's bind parameters.

    Raises TypeError for a filter that there is not, and Invalid for a cursor that is none of this list's.
    """
    filters, values = [], dict[str, Any]()
    sort, cursor, search = (
        given.pop(name, otherwise) for name, otherwise in (("sort", NEWEST), ("cursor", ""), ("q", ""))
    )
    for key, value in given.items():
        column, _, how = key.partition("__")
        if column not in entity.__table__.c or how not in HOW:
            raise TypeError(f"{entity.__table__.name} has no filter {key}.")
        size = 0 if value is None else 1
        if how == "in":
            value = padded(value)
            size = len(value)
            values |= {f"by_{key}_{number}": each for number, each in enumerate(value)}
        elif how == "null":
            size = int(value)
        elif value is not None:
            values[f"by_{key}"] = pattern(value) if how == "contains" else value
        filters.append(Filter(column, how, size))
    place = ""
    if cursor:
        values["place_id"], values["place"] = cursors.place_in(entity, sort, cursor)
        place = "null" if values["place"] is None else "value"
    if search:
        values["q"] = pattern(search)
    return Shape(tuple(filters), sort, place, bool(search)), values


def padded(values: Any) -> list[Any]:  # noqa: ANN401  # of any column
    """`values`, the last repeated until there are 1, 2, 4, 8, ... of them: few shapes, and so few statements."""
    values = list(values)
    return values + values[-1:] * ((1 << (len(values) - 1).bit_length()) - len(values)) if values else []


def pattern(text: str) -> str:
    """What LIKE takes for "contains `text`", with / as the escape."""
    for special in "/%_":
        text = text.replace(special, f"/{special}")
    return f"%{text}%"


def conditions(entity: type[Entity], shape: Shape) -> list[ColumnElement[bool]]:
    """What the rows must meet: every filter, and the search."""
    columns = entity.__table__.c
    found = [_condition(columns[name], name, how, size) for name, how, size in shape.filters]
    if shape.searches:
        named = [columns[name] for name, uses in declared(entity).items() if "search" in uses]
        found.append(or_(false(), *(_contains(column, "q") for column in named)))
    return found


def order(rows: FromClause, sort: str) -> list[ColumnElement[Any]]:
    """By that column, then by id, both the same way round. An empty value counts as the greatest."""
    column, by_id = rows.c[sort.removeprefix("-")], rows.c.id
    ordered = column.desc() if sort.startswith("-") else column.asc()
    if column.nullable:
        ordered = ordered.nulls_first() if sort.startswith("-") else ordered.nulls_last()
    ties = [by_id.desc() if sort.startswith("-") else by_id.asc()] if column is not by_id else []
    return [ordered, *ties]


def _condition(column: ColumnElement[Any], name: str, how: str, size: int) -> ColumnElement[bool]:
    # Named so that no column's is another parameter's: many a thing has a place.
    value = bindparam(f"by_{name}__{how}" if how else f"by_{name}", type_=column.type)
    match how:
        case "in":
            members = [bindparam(f"by_{name}__in_{number}", type_=column.type) for number in range(size)]
            return column.in_(members) if members else false()
        case "null":
            return column.is_(None) if size else column.is_not(None)
        case "contains":
            return _contains(column, f"by_{name}__contains")
        case "gt":
            return column > value
        case "gte":
            return column >= value
        case "lt":
            return column < value
        case "lte":
            return column <= value
    return column == value if size else column.is_(None)


def _contains(column: ColumnElement[str], name: str) -> ColumnElement[bool]:
    return folded(column).like(folded(bindparam(name, type_=String())), escape="/")


def beyond(rows: FromClause, shape: Shape) -> list[ColumnElement[bool]]:
    """What comes after the cursor, if there is one: a stretch of the index, or two where empty values begin or end it.

    Two values are compared at once, as an index has them. An OR, of these or of two stretches, would read them all.
    """
    if not shape.place:
        return []
    column, down = rows.c[shape.sort.removeprefix("-")], shape.sort.startswith("-")
    beyond_id = rows.c.id < PLACE if down else rows.c.id > PLACE
    if column is rows.c.id:
        return [beyond_id]
    if shape.place == "null":
        return [and_(column.is_(None), beyond_id), *([column.is_not(None)] if down else [])]
    here, there = tuple_(column, rows.c.id), tuple_(bindparam("place", type_=column.type), PLACE)
    return [here < there] if down else [here > there, *([column.is_(None)] if column.nullable else [])]
