"""What a database refuses, in a sentence: a taken name is 409, a broken rule 422, a busy database 503."""

import re
import sqlite3

from sqlmodel import SQLModel

from app.errors import Clash, Invalid, Refusal, Unavailable

FAILING = "The database cannot write, or not be read. Whoever runs it must look at it."
OUT_OF_RANGE = "A number is too large or too small."
BUSY = "The database is busy. Try again in a moment."
TAKEN_BY_OTHERS = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
# The disk is full, read-only or failing, or the file cannot be opened: nobody's fault who asked.
OUT_OF_ORDER = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)


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
    if code == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
        return dangling()
    if code & 0xFF in TAKEN_BY_OTHERS:
        return Unavailable(BUSY)
    return Unavailable(FAILING, retry_after=30) if code & 0xFF in OUT_OF_ORDER else None


def _explain_postgres(error: Exception) -> Refusal | None:
    state: str = getattr(error, "sqlstate", None) or ""
    name: str = getattr(getattr(error, "diag", None), "constraint_name", None) or ""
    if state == "23505":
        return taken(_columns_of(name))
    if state == "23514":
        return broken_rule(name)
    if state == "23503":
        return dangling()
    if state == "22003":
        return Invalid(OUT_OF_RANGE)
    if state == "25006" or state[:2] == "53":  # read-only; out of disk, memory or connections
        return Unavailable(FAILING, retry_after=30)
    # 08 connection, 40 serialization and deadlock, 55 locks, 57 shutdown and timeouts.
    # No state at all: the connection broke before the server could answer.
    is_broken = not state and type(error).__name__ in ("OperationalError", "InterfaceError")
    return Unavailable(BUSY) if is_broken or state[:2] in ("08", "40", "55", "57") else None


def taken(columns: list[str]) -> Clash:
    names = [column.replace("_", " ") for column in columns]
    if not names:
        return Clash("That exists already.")
    return Clash(f"That {names[0]} is taken." if len(names) == 1 else f"That {' and '.join(names)} are taken together.")


def broken_rule(name: str) -> Invalid:
    for constraint in (c for table in SQLModel.metadata.tables.values() for c in table.constraints):
        if constraint.name == name and "sentence" in constraint.info:
            return Invalid(constraint.info["sentence"])
    return Invalid("That breaks a rule of the database.")


def dangling() -> Clash:
    return Clash("It refers to something that does not exist, or something still refers to it.")


def _columns_of(name: str) -> list[str]:
    """The columns of a unique constraint or index, from its name."""
    for table in SQLModel.metadata.tables.values():
        for unique in (*table.constraints, *table.indexes):
            if getattr(unique, "name", None) == name:
                return [column.name for column in getattr(unique, "columns", ())]
    return []
