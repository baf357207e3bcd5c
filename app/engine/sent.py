"""Many rows on their way to the database: one argument of JSON, so that the SQL is the same for any number of them."""

import json
import math
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sqlalchemy import Column, ColumnElement, Dialect, FromClause, Table, bindparam, cast, column, func, select
from sqlalchemy.types import JSON, Boolean, Float, Integer, LargeBinary, Text, TypeEngine

from app.engine.queries import plain
from app.engine.violations import OUT_OF_RANGE
from app.errors import Invalid
from app.models.base import BigId

ROWS = bindparam("rows", type_=Text)
Process = Callable[[Any], Any]


def sent(table: Table, dialect: str) -> FromClause:
    """What `pack` has packed, as a table: `position`, `row_id`, and for each column of `table` a `new_` and a `has_`.

    What was not packed is NULL there.
    """
    types: dict[str, TypeEngine[Any]] = {"position": Integer(), "row_id": BigId}
    types |= {f"new_{each.name}": each.type for each in table.c}
    types |= {f"has_{each.name}": Boolean() for each in table.c}
    if dialect == "postgresql":
        columns = [column(name, kind) for name, kind in types.items()]
        return (
            func.json_to_recordset(cast(ROWS, JSON)).table_valued(*columns, name="sent").render_derived(with_types=True)
        )
    each = func.json_each(ROWS).table_valued("value", name="each")
    binary = {f"new_{of.name}" for of in table.c if isinstance(plain(of), LargeBinary)}
    values = (_extracted(each.c.value, name, kind, is_binary=name in binary) for name, kind in types.items())
    # With a limit, SQLite makes a table of it, and an index; else it would read all the JSON again for each row.
    sent = select(*(value.label(name) for value, name in zip(values, types, strict=True))).limit(2**31)
    return sent.subquery("sent")


def packer(table: Table, dialect: Dialect) -> Callable[[Iterable[Mapping[str, Any]]], str]:
    """A function that packs rows, each by the names of `sent`.

    It raises Invalid for a number that no database can keep.
    """
    processes = {f"new_{each.name}": _process(each, dialect) for each in table.c}
    changing = {name: process for name, process in processes.items() if process}

    def pack(rows: Iterable[Mapping[str, Any]]) -> str:
        packed = []
        for row in rows:
            values = dict(row)
            for name in values.keys() & changing.keys():
                if values[name] is not None:
                    values[name] = changing[name](values[name])
            packed.append(values)
        # Dates, decimals and UUIDs are texts that PostgreSQL reads as such; for SQLite their types have made them so.
        return json.dumps(packed, ensure_ascii=False, default=str)

    return pack


def _extracted(row: ColumnElement[Any], name: str, kind: TypeEngine[Any], *, is_binary: bool) -> ColumnElement[Any]:
    value: ColumnElement[Any] = func.json_extract(row, f"$.{name}", type_=kind)
    return func.from_base64(value, type_=kind) if is_binary else value


def _process(column: Column[Any], dialect: Dialect) -> Process | None:
    """What makes of a value what its type sends to the database, in a form that JSON has."""
    bind = column.type.dialect_impl(dialect).bind_processor(dialect)
    convert = _conversion(plain(column), dialect.name)
    if bind is None or convert is None:
        return bind or convert
    return lambda value: convert(bind(value))


def _conversion(kind: TypeEngine[Any], dialect: str) -> Process | None:
    if isinstance(kind, Integer):
        return _int64
    if isinstance(kind, LargeBinary):
        return _hexadecimal if dialect == "postgresql" else _base64
    if isinstance(kind, Float):
        return _float_for_postgres if dialect == "postgresql" else _float_for_sqlite
    # psycopg's wrapper goes off: it is JSON within JSON. For SQLite it is a text.
    return _unwrapped if isinstance(kind, JSON) and dialect == "postgresql" else None


def _int64(value: int) -> int:
    # SQLite would read a greater one as a float.
    if not -(2**63) <= value < 2**63:
        raise Invalid(OUT_OF_RANGE)
    return value


def _hexadecimal(value: bytes) -> str:
    return f"\\x{value.hex()}"


def _base64(value: bytes) -> str:
    return b64encode(value).decode()


# JSON has no word for what is beyond all bounds.


def _float_for_postgres(value: float) -> object:
    return value if math.isfinite(value) else str(value)


def _float_for_sqlite(value: float) -> object:
    if math.isnan(value):
        return None  # as SQLite has it
    return float(value) if math.isfinite(value) else f"{math.copysign(9, value):.0f}e999"


def _unwrapped(value: Any) -> object:  # noqa: ANN401  # a Jsonb, of a package that need not be there
    return value.obj
