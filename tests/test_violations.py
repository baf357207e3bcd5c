"""What SQLite refuses, in a sentence: brought about for real wherever that can be done."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.engine.sqlite import SQLite
from app.engine.violations import Dangling, explain
from app.errors import Clash, Invalid, Refusal, Unavailable

Provoke = Callable[[Path], None]
BUSY = "The database is busy. Try again in a moment."
DANGLING = "It refers to something that does not exist, or something still refers to it."
RULE = "That breaks a rule of the database."
TOO_LONG = "That took too long. Ask for less at once, or try again in a moment."
UNFIT = "A value is too long, or none that the database can keep."
FAILING = "The database cannot write, or not be read. Whoever runs it must look at it."


def opened(path: str | Path, **options: Any) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=0, isolation_level=None, **options)


@contextmanager
def plain(folder: Path) -> Iterator[sqlite3.Connection]:
    with closing(opened(folder / "plain.db")) as connection:
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(
            "CREATE TABLE books (id INTEGER PRIMARY KEY, owner_id INTEGER REFERENCES books, title TEXT NOT NULL UNIQUE,"
            " pages INTEGER CHECK (pages > 0)) STRICT"
        )
        connection.execute("INSERT INTO books VALUES (1, 1, 'one', 1)")
        yield connection


def locked(folder: Path) -> None:
    with plain(folder) as connection, closing(opened(folder / "plain.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM books")


def in_use(folder: Path) -> None:
    with plain(folder) as connection:
        _half_read = connection.execute("SELECT * FROM books")
        connection.execute("DROP TABLE books")


def full_disk(folder: Path) -> None:
    with plain(folder) as connection:
        connection.execute("PRAGMA max_page_count=1")
        connection.execute("UPDATE books SET title = zeroblob(1000000) || 'x'")


def read_only(folder: Path) -> None:
    with plain(folder), closing(opened(f"file:{folder / 'plain.db'}?mode=ro", uri=True)) as connection:
        connection.execute("DELETE FROM books")


def nowhere(folder: Path) -> None:
    SQLite(str(folder / "no such folder" / "file.db"))


def no_database(folder: Path) -> None:
    (folder / "garbage.db").write_bytes(b"garbage " * 1000)
    SQLite(str(folder / "garbage.db"))


def damaged(folder: Path) -> None:
    with plain(folder) as connection:
        connection.executemany("INSERT INTO books (title) VALUES (?)", [(f"{n:0999}",) for n in range(100)])
    path = folder / "plain.db"
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    with closing(opened(path)) as connection:
        connection.execute("SELECT sum(id) FROM books").fetchall()


def interrupted(folder: Path) -> None:
    with plain(folder) as connection:
        connection.set_progress_handler(lambda: True, 1)
        connection.execute("SELECT * FROM books").fetchall()


def saying(statement: str) -> Provoke:
    def say(folder: Path) -> None:
        with plain(folder) as connection:
            connection.execute(statement)

    return say


def failing(code: int) -> Provoke:
    """What cannot be brought about here: SQLite's code alone."""

    def fail(_folder: Path) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = code
        raise error

    return fail


CASES: dict[str, tuple[Provoke, str, type[Refusal], str]] = {
    "locked": (locked, "BUSY", Unavailable, BUSY),
    "in use": (in_use, "LOCKED", Unavailable, BUSY),
    "lost a race for the lock": (failing(sqlite3.SQLITE_PROTOCOL), "PROTOCOL", Unavailable, BUSY),
    "interrupted": (interrupted, "INTERRUPT", Unavailable, TOO_LONG),
    "full disk": (full_disk, "FULL", Unavailable, FAILING),
    "read-only": (read_only, "READONLY", Unavailable, FAILING),
    "nowhere": (nowhere, "CANTOPEN", Unavailable, FAILING),
    "no database": (no_database, "NOTADB", Unavailable, FAILING),
    "damaged": (damaged, "CORRUPT", Unavailable, FAILING),
    "disk fails": (failing(sqlite3.SQLITE_IOERR_FSYNC), "IOERR_FSYNC", Unavailable, FAILING),
    "not permitted": (failing(sqlite3.SQLITE_PERM), "PERM", Unavailable, FAILING),
    "too big": (saying("UPDATE books SET title = zeroblob(2000000000)"), "TOOBIG", Invalid, UNFIT),
    "taken": (saying("INSERT INTO books (title) VALUES ('one')"), "CONSTRAINT_UNIQUE", Clash, "That title is taken."),
    "taken id": (saying("INSERT INTO books VALUES (1, 1, '', 1)"), "CONSTRAINT_PRIMARYKEY", Clash, "That id is taken."),
    "broken rule": (saying("UPDATE books SET pages = 0"), "CONSTRAINT_CHECK", Invalid, RULE),
    "refers to nothing": (saying("UPDATE books SET owner_id = 7"), "CONSTRAINT_FOREIGNKEY", Dangling, DANGLING),
}


@pytest.mark.parametrize("case", CASES)
def test_what_the_database_refuses_is_said_in_a_sentence(tmp_path: Path, case: str):
    provoke, code, kind, detail = CASES[case]
    with pytest.raises((sqlite3.Error, Unavailable)) as caught:
        provoke(tmp_path)
    error = caught.value.__cause__ or caught.value
    refusal = explain(error)
    assert error.sqlite_errorcode == getattr(sqlite3, f"SQLITE_{code}")
    assert (type(refusal), refusal.detail) == (kind, detail)
    # Who runs the database must come first.
    assert refusal.headers == ({"Retry-After": "30" if detail == FAILING else "1"} if kind is Unavailable else {})


@pytest.mark.parametrize("statement", ["SELECT * FROM nothing", "UPDATE books SET title = NULL"])
def test_what_only_a_defect_of_ours_can_cause_is_no_refusal(tmp_path: Path, statement: str):
    with pytest.raises(sqlite3.Error) as caught:
        saying(statement)(tmp_path)
    assert explain(caught.value) is None
