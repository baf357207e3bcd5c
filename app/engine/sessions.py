"""A SQLModel Session beside the verbs, for a team's own queries. Versions move, and rules over rows hold, as there."""

import math
import sqlite3
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.pool import ConnectionPoolEntry
from sqlmodel import Session, create_engine

from app.engine.conflicts import Conflicts
from app.engine.recording import record
from app.engine.sqlite import write_json
from app.engine.sqlite_connection import STEPS_IN_THREAD, prepare
from app.errors import Clash

# deps.py lets no more requests in than this, so the pool is never waited for.
SESSIONS = 5
STATEMENT_LIMIT = 30.0  # seconds, on SQLite
SERVER_TIMEOUTS = "-c statement_timeout=30s -c lock_timeout=5s -c idle_in_transaction_session_timeout=30s"


def create_session_engine(url: str, *, pgbouncer: bool = False) -> Engine:
    """An engine for Sessions at `url`. Opens nothing yet."""
    options: dict[str, Any] = {"pool_size": SESSIONS, "max_overflow": 0, "pool_timeout": 5}
    options["hide_parameters"] = True  # an error in the log must not hold what was written
    if not url.startswith("sqlite"):
        pooled = {"prepare_threshold": None} if pgbouncer else {"options": SERVER_TIMEOUTS}
        engine = create_engine(url, **options, pool_pre_ping=True, connect_args={**pooled, "connect_timeout": 5})
        event.listen(engine, "begin", _begin_postgres)
        return engine
    options |= {"json_serializer": write_json, "connect_args": {"timeout": 5, "check_same_thread": False}}
    engine = create_engine(url, **options)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    event.listen(engine, "before_cursor_execute", _set_deadline)
    return engine


def open_session(engine: Engine, *, writes: bool, acting: Callable[[], str] = lambda: " ") -> Session:
    """A Session on `engine`. One that `writes` takes SQLite's write lock when it begins, so it cannot fail half-way.

    `acting` is asked then who acts, for the history: see `acting_as`.
    """
    return _Session(engine.execution_options(acting=acting if writes else None))


class _Session(Session):
    """Keeps the rules over rows, for what it saves by itself; an `update()` that is executed passes them by."""


@event.listens_for(_Session, "before_flush")
def _hold_off_others(session: Session, *_: object) -> None:
    if session.get_bind().dialect.name == "postgresql":
        # In one order, or two that write to two such tables could wait for each other.
        for entity in sorted({type(row) for row in _ruled(session)}, key=lambda entity: entity.__table__.name):
            session.execute(Conflicts(entity).lock)


@event.listens_for(_Session, "after_flush")
def _check_rules(session: Session, *_: object) -> None:
    for row in _ruled(session):
        for asked, sentence in Conflicts(type(row)).rules:
            if session.execute(asked, {"row_id": row.id}).first():
                raise Clash(sentence)


def _ruled(session: Session) -> list[Any]:
    return [row for row in (*session.new, *session.dirty) if getattr(row, "__conflicts__", ())]


def _prepare_sqlite(connection: sqlite3.Connection, entry: ConnectionPoolEntry) -> None:
    # The driver would begin transactions at the first write only, and so deferred; we begin them ourselves.
    connection.isolation_level = None
    prepare(connection)
    entry.info["acting"] = record(connection)
    connection.set_progress_handler(lambda: time.monotonic() > entry.info.get("deadline", math.inf), STEPS_IN_THREAD)


def _begin_sqlite(connection: Connection) -> None:
    who = connection.get_execution_options().get("acting")
    connection.info["acting"].begin(who() if who else " ")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if who else "BEGIN")


def _begin_postgres(connection: Connection) -> None:
    if who := connection.get_execution_options().get("acting"):
        connection.exec_driver_sql("SELECT set_config('cadre.acting', %s, true)", (who(),))


def _set_deadline(connection: Connection, *_: object) -> None:
    connection.info["deadline"] = time.monotonic() + STATEMENT_LIMIT
