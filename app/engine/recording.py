"""Every change of every entity is recorded by the database itself, in the same transaction, whatever made it.

Triggers see what no code can forget: a Session, an UPDATE of many rows, a deletion that takes children along.
PostgreSQL keeps them with its tables, so that what is done in psql is recorded as well. On SQLite each connection of
ours has its own: they ask it who is acting, and another program could not answer.

What is recorded is what the row became, or was when it was deleted: the columns that answers show, and so no secret.
"""

import sqlite3
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from app.engine.queries import plain, shown
from app.engine.records import changes
from app.engine.visibility import entities, whose
from app.models.base import Entity

# What the number of the next transaction is at least: on SQLite, the id of the next change.
NEXT = "(SELECT coalesce(max(id), 0) + 1 FROM changes)"
HORIZON = "pg_snapshot_xmin(pg_current_snapshot())::text::bigint + changes_offset()"
PARTS = 50  # of an image that one function of SQLite's puts together: it takes 127 arguments


class acting(FunctionElement[bool]):  # noqa: N801  # a function in SQL
    """Tells the database who acts, for what this statement's triggers record. It is true: a condition like any other.

    With it the statement needs no other before it, and nothing is left of it after the transaction.
    """

    type = sa.Boolean()
    inherit_cache = True

    def __init__(self) -> None:
        super().__init__(sa.bindparam("acting", type_=sa.String()))


@compiles(acting)
def _acting(element: acting, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401  # SQLAlchemy's
    who = compiler.process(element.clauses, **options)
    return f"acting({who})" if compiler.dialect.name == "sqlite" else f"set_config('cadre.acting', {who}, true) <> '-'"


class settled(FunctionElement[bool]):  # noqa: N801  # a function in SQL
    """Whether every transaction of a lower number than this one has ended, so that none can come to light any more.

    PostgreSQL numbers transactions when they begin to write, and they end in another order. On SQLite one writes at a
    time, and what can be read has ended.
    """

    type = sa.Boolean()
    inherit_cache = True


@compiles(settled)
def _settled(element: settled, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401  # SQLAlchemy's
    number = compiler.process(element.clauses, **options)
    if compiler.dialect.name == "sqlite":
        return f"{number} > 0"
    return f"{number} < {HORIZON}"


class horizon(FunctionElement[int]):  # noqa: N801  # a function in SQL
    """The number below which every transaction is settled."""

    type = sa.BigInteger()
    inherit_cache = True


@compiles(horizon)
def _horizon(element: horizon, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401  # SQLAlchemy's
    return NEXT if compiler.dialect.name == "sqlite" else HORIZON


# SQLite.


@dataclass
class Acting:
    """Who acts on a connection to SQLite, and which number its transaction has: that of its first change."""

    who: str = " "
    transaction: int | None = None

    def begin(self, who: str = " ") -> None:
        """To be called when a transaction begins."""
        self.who, self.transaction = who, None

    def tell(self, who: str) -> bool:
        self.who = who
        return True

    def part(self, place: int) -> str | None:
        return self.who.split(" ")[place] or None

    def number(self, first: int) -> int:
        self.transaction = self.transaction or first
        return self.transaction


def record(connection: sqlite3.Connection) -> Acting:
    """Record from now on what `connection` changes in the tables that are there."""
    who = Acting()
    connection.create_function("acting", 1, who.tell)
    connection.create_function("acting_part", 1, who.part)
    connection.create_function("transaction_number", 1, who.number)
    there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if changes.name in there:
        for name in entities().keys() & there:
            for trigger in _triggers(entities()[name]):
                connection.execute(trigger)
    return who


def _triggers(entity: type[Entity]) -> list[str]:
    name, seen_by = entity.__table__.name, whose(entity)
    made = "CASE WHEN NEW.version > 1 THEN 'restored' ELSE 'created' END"
    events = (("INSERT", "NEW", made), ("UPDATE", "NEW", "'changed'"), ("DELETE", "OLD", "'deleted'"))
    return [
        f"CREATE TEMP TRIGGER {name}_{event} AFTER {event} ON main.{name} BEGIN"  # noqa: S608  # names in our code
        " INSERT INTO changes (transaction_id, at, entity, row_id, whose, action, user_id, request_id, image) VALUES ("
        f" transaction_number({NEXT}),"
        f" strftime('%Y-%m-%d %H:%M:%f000', 'now'), '{name}', {row}.id, {f'{row}.{seen_by}' if seen_by else 'NULL'},"
        f" {action}, CAST(acting_part(0) AS INTEGER), acting_part(1), {_image(entity, row)}); END"
        for event, row, action in events
        if event in entity.__recorded__
    ]


def _image(entity: type[Entity], row: str) -> str:
    """The row as JSON, in SQL."""
    columns = [entity.__table__.c[name] for name in shown(entity)]
    first = (f"'{each.name}', {_json(each, row)}" for each in columns[:PARTS])
    image = f"json_object({', '.join(first)})"
    for start in range(PARTS, len(columns), PARTS):
        parts = (f"'$.{each.name}', {_json(each, row)}" for each in columns[start : start + PARTS])
        image = f"json_set({image}, {', '.join(parts)})"
    return image


def _json(column: sa.Column[Any], row: str) -> str:
    """A value as the API tells it, as far as SQL can."""
    value, kind = f'{row}."{column.name}"', plain(column)
    if isinstance(kind, sa.Boolean):
        return f"json(CASE {value} WHEN 1 THEN 'true' WHEN 0 THEN 'false' END)"
    if isinstance(kind, sa.Numeric) and kind.scale is None:  # a Float too. All of its digits, and not fifteen
        # JSON has no word for what is beyond all bounds.
        return f"json(CASE WHEN abs({value}) < 9e999 THEN printf('%!.17g', {value}) END)"
    if isinstance(kind, sa.Numeric):
        return f"CASE WHEN {value} IS NOT NULL THEN printf('%.{kind.scale}f', {value}) END"
    if isinstance(kind, sa.LargeBinary):
        return rf"CASE WHEN {value} IS NOT NULL THEN '\x' || lower(hex({value})) END"
    if isinstance(kind, sa.JSON):
        return f"json({value})"
    if isinstance(kind, sa.DateTime):
        return f"replace({value}, ' ', 'T') || 'Z'"
    return value


# PostgreSQL.

# Whatever the session that it runs in has set: a search path is empty in what pg_dump writes.
SETTINGS = "SET TimeZone = 'UTC' SET bytea_output = 'hex' SET extra_float_digits = 1 SET search_path = {}, pg_temp"
FUNCTION = """
DECLARE
    acting text := coalesce(current_setting('cadre.acting', true), '');
    seen jsonb := to_jsonb(CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END);
BEGIN
    INSERT INTO changes (transaction_id, at, entity, row_id, whose, action, user_id, request_id, image)
    SELECT
        pg_current_xact_id()::text::bigint + changes_offset(), clock_timestamp(), TG_TABLE_NAME,
        (seen ->> 'id')::bigint, (seen ->> TG_ARGV[0])::bigint,
        CASE
            WHEN TG_OP = 'DELETE' THEN 'deleted'
            WHEN TG_OP = 'UPDATE' THEN 'changed'
            WHEN (seen ->> 'version')::int > 1 THEN 'restored'
            ELSE 'created'
        END,
        nullif(split_part(acting, ' ', 1), '')::bigint, nullif(split_part(acting, ' ', 2), ''),
        (SELECT jsonb_object_agg(key, value) FROM jsonb_each(seen) WHERE key = ANY (TG_ARGV[1:]));
    RETURN NULL;
END
"""


FUNCTIONS = """
SELECT proname, prosrc FROM pg_proc JOIN pg_namespace ON pg_namespace.oid = pronamespace
WHERE proname IN ('changes_offset', 'record_change') AND nspname = current_schema()
"""
TRIGGERS = """
SELECT relname, tgargs FROM pg_trigger
JOIN pg_class ON pg_class.oid = tgrelid JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE tgname = 'record_change' AND tgenabled IN ('O', 'A') AND nspname = current_schema()
"""
# By how much the numbers of what is recorded are ahead of this server's transactions, which are numbered by the server:
# those of a database that moves to another one would begin anew, below what was seen already. This transaction may have
# a number beyond those that its snapshot knows.
AHEAD = """
SELECT max(transaction_id) + 1 - greatest(
    pg_snapshot_xmax(pg_current_snapshot())::text::bigint, pg_current_xact_id_if_assigned()::text::bigint + 1
) FROM changes
"""


def install(connection: sa.Connection) -> None:
    """On PostgreSQL: see that the changes in all tables that are there are recorded. For who may alter the tables."""
    if connection.dialect.name == "postgresql":
        for statement in _missing(connection):
            connection.exec_driver_sql(statement)


def is_installed(connection: sa.Connection) -> bool:
    """Whether `install` has nothing to do."""
    return connection.dialect.name != "postgresql" or not _missing(connection)


def _missing(connection: sa.Connection) -> list[str]:
    """The statements that `install` has to execute."""
    there = set(sa.inspect(connection).get_table_names())
    if changes.name not in there:
        # With its triggers. The offset stays: there may be changes once more.
        return ["DROP FUNCTION IF EXISTS record_change() CASCADE"]
    bodies: dict[str, str] = dict(connection.exec_driver_sql(FUNCTIONS).all())
    arguments: dict[str, bytes] = dict(connection.exec_driver_sql(TRIGGERS).all())
    statements = []
    offset = int(bodies.get("changes_offset", "SELECT 0").removeprefix("SELECT "))
    ahead = connection.exec_driver_sql(AHEAD).scalar() or 0
    if "changes_offset" not in bodies or ahead > offset:
        says = f"RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT {max(ahead, offset)}'"
        statements.append(f"CREATE OR REPLACE FUNCTION changes_offset() {says}")
    if bodies.get("record_change") != FUNCTION:
        schema = connection.exec_driver_sql("SELECT quote_ident(current_schema())").scalar()
        says = f"RETURNS trigger LANGUAGE plpgsql {SETTINGS.format(schema)} AS $${FUNCTION}$$"
        statements.append(f"CREATE OR REPLACE FUNCTION record_change() {says}")
    for name in sorted(name for name, entity in entities().items() if name in there and entity.__recorded__):
        wanted = [whose(entities()[name]) or "", *shown(entities()[name])]
        if arguments.get(name) != b"".join(b"%b\0" % argument.encode() for argument in wanted):
            says = f"FOR EACH ROW EXECUTE FUNCTION record_change({', '.join(map(repr, wanted))})"
            event = f'AFTER {" OR ".join(entities()[name].__recorded__)} ON "{name}"'
            statements.append(f"CREATE OR REPLACE TRIGGER record_change {event} {says}")
    return statements
