"""What a database refuses, in a sentence: a taken name is 409, a broken rule 422, a busy database 503.

By SQLite's result codes (sqlite.org/rescode.html) and by SQLSTATE (PostgreSQL, appendix A), never by the words.
"""

import re
import sqlite3

from sqlmodel import SQLModel

from app.engine.waiting import BUSY
from app.errors import Clash, Invalid, Overtaken, Refusal, Unavailable

FAILING = "The database cannot write, or not be read. Whoever runs it must look at it."
GONE = "The database does not answer. Try again in a moment."
OUT_OF_RANGE = "A number is too large or too small."
TOO_LONG = "That took too long. Ask for less at once, or try again in a moment."
UNFIT = "A value is too long, or none that the database can keep."
TAKEN_BY_OTHERS = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)
# The disk is full, read-only or failing, the file damaged or out of reach: nobody's fault who asked.
OUT_OF_ORDER = (
    *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN),
    *(sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PERM),
)


class Dangling(Clash):
    """A foreign key: no database says of which kind the trouble is, but whoever wrote or deleted knows."""


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another connection holds the lock, so that trying again helps."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in TAKEN_BY_OTHERS


def explain(error: Exception) -> Refusal | None:
    """The refusal that a driver's error stands for, by its code; None if it is a defect of ours, and so a 500."""
    if isinstance(error, sqlite3.Error):
        return _explain_sqlite(error)
    return _explain_postgres(error)


def _explain_sqlite(error: sqlite3.Error) -> Refusal | None:
    code, message = getattr(error, "sqlite_errorcode", 0), str(error)
    if code in (sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY):
        # "UNIQUE constraint failed: users.username, users.email"
        return taken(re.findall(r"\.(\w+)", message))
    if code == sqlite3.SQLITE_CONSTRAINT_CHECK:
        return broken_rule(message.rpartition(": ")[2])
    # ON DELETE RESTRICT is a trigger to SQLite; what a trigger of a team's own says is not for us to explain.
    if code == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY or (
        code == sqlite3.SQLITE_CONSTRAINT_TRIGGER and message == "FOREIGN KEY constraint failed"
    ):
        return dangling()
    if code == sqlite3.SQLITE_TOOBIG:
        return Invalid(UNFIT)
    if code == sqlite3.SQLITE_INTERRUPT:
        return Unavailable(TOO_LONG)
    if code & 0xFF in TAKEN_BY_OTHERS:
        return Unavailable(BUSY)
    return Unavailable(FAILING, retry_after=30) if code & 0xFF in OUT_OF_ORDER else None


def _explain_postgres(error: Exception) -> Refusal | None:
    state: str = getattr(error, "sqlstate", None) or ""
    name: str = getattr(getattr(error, "diag", None), "constraint_name", None) or ""
    match state, state[:2]:
        case "23505", _:
            return taken(_columns_of(name))
        case "23514", _:
            return broken_rule(name)
        case ("23503" | "23001", _):  # 23001: ON DELETE RESTRICT, from PostgreSQL 18 on
            return dangling()
        case "22003", _:
            return Invalid(OUT_OF_RANGE)
        case ("22001" | "22007" | "22008" | "22021" | "22P02" | "22P03" | "22P05", _) | ("54000", _):
            return Invalid(UNFIT)
        case (("40001" | "40P01"), _):  # a serialization failure, a deadlock
            return Overtaken(BUSY)
        case "57014", _:  # statement_timeout
            return Unavailable(TOO_LONG)
        case _, "40" | "55":  # 55P03: lock_timeout
            return Unavailable(BUSY)
        case "25006", _:  # read-only, as a standby is
            return Unavailable(FAILING, retry_after=30)
        case _, "53" | "58" | "XX":  # out of disk, memory or connections; the system fails; damaged
            return Unavailable(FAILING, retry_after=30)
        case ("25P03", _) | (_, "08" | "57"):  # idle for too long; connection lost; shutting down or starting up
            return Unavailable(GONE)
        case "", _ if is_broken(error):
            return Unavailable(GONE)
    return None


def is_broken(error: Exception) -> bool:
    """Whether the connection to PostgreSQL broke before the server could answer."""
    return not getattr(error, "sqlstate", None) and type(error).__name__ in ("OperationalError", "InterfaceError")


def taken(columns: list[str]) -> Clash:
    names = [column.replace("_", " ") for column in columns]
    if not names:
        return Clash("That exists already.")
    if len(names) > 1:
        return Clash(f"That {' and '.join(names)} are taken together.")
    clash = Clash(f"That {names[0]} is taken.")
    clash.field = columns[0]
    return clash


def broken_rule(name: str) -> Invalid:
    for constraint in (c for table in SQLModel.metadata.tables.values() for c in table.constraints):
        if constraint.name == name and "sentence" in constraint.info:
            return Invalid(constraint.info["sentence"])
    return Invalid("That breaks a rule of the database.")


def dangling() -> Clash:
    return Dangling("It refers to something that does not exist, or something still refers to it.")


def _columns_of(name: str) -> list[str]:
    """The columns of a unique constraint or index, from its name."""
    for table in SQLModel.metadata.tables.values():
        for unique in (*table.constraints, *table.indexes):
            if getattr(unique, "name", None) == name:
                return [column.name for column in getattr(unique, "columns", ())]
    return []
