"""A SQLModel expression, compiled once for each database: its SQL, how values go in, how rows come out."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from functools import partial
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel
from sqlalchemy import Column, Dialect, Float, Numeric
from sqlalchemy.sql import ClauseElement, Delete, Insert, Update
from sqlmodel import SQLModel
from sqlmodel.sql.sqltypes import UTCDateTime

Model = TypeVar("Model", bound=SQLModel)
Row = tuple[Any, ...]
Values = Mapping[str, Any]


class Statement:
    """An expression, ready for the bare driver. Make it once, as a constant; running it compiles nothing.

    `unbounded`: it takes the longer the more rows there are, as a count does, so SQLite runs it in a thread.
    """

    __slots__ = ("_compiled", "_expression", "unbounded", "writes")

    def __init__(self, expression: ClauseElement, *, unbounded: bool = False) -> None:
        self._expression = expression
        self._compiled: dict[Dialect, Compiled] = {}
        self.unbounded = unbounded
        self.writes = isinstance(expression, Insert | Update | Delete)

    def on(self, dialect: Dialect) -> "Compiled":
        compiled = self._compiled.get(dialect)
        if compiled is None:
            compiled = self._compiled[dialect] = Compiled(self._expression, dialect)
        return compiled


class Compiled:
    """SQL text and an argument binder, made by SQLAlchemy's own compiler and type processors."""

    __slots__ = ("_binds", "sql")

    def __init__(self, expression: ClauseElement, dialect: Dialect) -> None:
        compiled: Any = expression.compile(dialect=dialect, compile_kwargs={"render_postcompile": True})
        self.sql: str = compiled.string
        self._binds = []
        for name in compiled.positiontup or ():
            bind = compiled.binds[name]
            process = bind.type.dialect_impl(dialect).bind_processor(dialect) or _as_is
            self._binds.append((bind.key, process, None if bind.required else process(bind.effective_value)))

    def arguments(self, values: Values) -> list[Any]:
        """`values` by name as arguments by position, each as its column's type sends it."""
        return [process(values[name]) if name in values else constant for name, process, constant in self._binds]


class Runs(Protocol):
    """Whatever can run a statement: a database, each statement its own transaction, or an open transaction."""

    @property
    def dialect(self) -> Dialect: ...

    async def run(self, statement: Statement, values: Values) -> list[Row]:
        """All its rows. What the database refuses is raised as a Refusal."""
        ...

    def transaction(self, *, limit: float | None = None) -> AbstractAsyncContextManager["Begun"]:
        """All or nothing, within `limit` seconds, otherwise 10. Within a transaction, the same one, with its limit."""
        ...


class Begun(Runs, Protocol):
    """An open transaction."""

    def savepoint(self) -> AbstractAsyncContextManager[None]:
        """A part of it. A Refusal within, which is raised again, undoes this part and nothing else.

        Unless it is Unavailable: then, as after any other failure, nothing of the whole is kept.
        """
        ...


class Database(Runs, Protocol):
    async def close(self) -> None: ...


def hydrator(
    model: type[Model], columns: list[Column[Any]], dialect: Dialect
) -> Callable[[Sequence[Row]], list[Model]]:
    """From rows to models, without validation: the database only holds what was validated on its way in."""
    names = tuple(column.name for column in columns)
    processors = [
        (place, process) for place, column in enumerate(columns) if (process := _processor(column, dialect)) is not None
    ]
    new, fields_set = object.__new__, set(names)
    # pydantic keeps these three in slots: their setters are three times as quick as setattr.
    slots: Any = BaseModel
    put_fields_set = slots.__pydantic_fields_set__.__set__
    put_extra, put_private = slots.__pydantic_extra__.__set__, slots.__pydantic_private__.__set__

    def hydrate(rows: Sequence[Row]) -> list[Model]:
        if processors and rows:
            # Column by column: a loop over a hundred values costs less than a hundred short loops.
            processed: list[Sequence[Any]] = list(zip(*rows, strict=True))
            for place, process in processors:
                processed[place] = process(processed[place])
            rows = list(zip(*processed, strict=True))
        models = []
        for row in rows:
            instance = new(model)
            instance.__dict__.update(zip(names, row, strict=True))
            put_fields_set(instance, fields_set)
            put_extra(instance, None)
            put_private(instance, None)
            models.append(instance)
        return models

    return hydrate


def _as_is(value: object) -> object:
    return value


def _processor(column: Column[Any], dialect: Dialect) -> Callable[[Sequence[Any]], list[Any]] | None:
    """For all the values of a column; None if they are right as the driver gives them."""
    if isinstance(column.type, UTCDateTime):
        # As SQLModel has it, without the three calls it takes. On PostgreSQL each connection's time zone is UTC.
        return _instants if dialect.name == "sqlite" else None
    process: Callable[[Any], Any] | None
    process = column.type.dialect_impl(dialect).result_processor(dialect, _wire_type(column))
    if process is None and isinstance(column.type, Float) and dialect.name == "sqlite":
        # SQLite keeps a whole number of a REAL column as an integer, and RETURNING says so.
        process = _float
    return partial(_each, process) if process else None


def _each(process: Callable[[Any], Any], values: Sequence[Any]) -> list[Any]:
    return [process(value) for value in values]


def _instants(texts: Sequence[str | None]) -> list[datetime | None]:
    read = datetime.fromisoformat
    return [None if text is None else read(text + "+00:00") for text in texts]


def _float(value: float | None) -> float | None:
    return None if value is None else float(value)


def _wire_type(column: Column[Any]) -> int | None:
    """PostgreSQL's processors for numbers ask which wire type is coming; the others ignore it."""
    return 701 if isinstance(column.type, Float) else 1700 if isinstance(column.type, Numeric) else None
