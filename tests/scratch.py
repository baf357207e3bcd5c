"""Entities that only tests use, and a world to use verbs in without HTTP: ann, bob, root, and the application."""

import asyncio
import functools
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from sqlalchemy import NullPool, Table, UniqueConstraint, create_engine, make_url, text
from sqlmodel import Field, SQLModel

from app.crud import sessions, standing, users
from app.engine import recording
from app.engine.caller import Caller
from app.engine.database import connect
from app.engine.verbs import Verbs
from app.models import UserCreate
from app.models.base import Access, BigId, Closed, Entity, Line, Partial, Row, rule, utcnow
from app.models.session import SessionBase
from app.security import Identity
from app.settings import ROOT
from tests.conftest import POSTGRES

STAMP = 7


class BookingBase(SQLModel):
    room: Line = Field(max_length=20)
    starts: int
    ends: int


class BookingCreate(Closed, BookingBase):
    pass


class BookingUpdate(Partial, BookingBase):
    pass


class BookingRead(BookingBase, Row):
    owner_id: int = Field(foreign_key="users.id", ondelete="CASCADE", index=True, sa_type=BigId)


class Booking(Entity, BookingRead, table=True):
    __tablename__ = "scratch_bookings"
    __table_args__ = (
        rule("ends_after_it_starts", "ends > starts", "A booking must end after it starts."),
        UniqueConstraint("room", "starts"),
        {"sqlite_autoincrement": True},
    )


class NoticeBase(SQLModel):
    name: str = Field(max_length=100, unique=True)


class NoticeCreate(Closed, NoticeBase):
    pass


class NoticeUpdate(Partial, NoticeBase):
    pass


class NoticeRead(NoticeBase, Row):
    booking_id: int | None = Field(
        default=None, foreign_key="scratch_bookings.id", ondelete="RESTRICT", index=True, sa_type=BigId
    )


class Notice(Entity, NoticeRead, table=True):
    """Everyone's. It may refer to a booking, which then cannot go."""

    __tablename__ = "scratch_notices"
    __table_args__ = ({"sqlite_autoincrement": True},)
    __access__ = Access.SHARED


class Ledger(Entity, NoticeBase, Row, table=True):
    """For superusers only."""

    __tablename__ = "scratch_ledgers"
    __table_args__ = ({"sqlite_autoincrement": True},)
    __access__ = Access.RESTRICTED


class LedgerRead(NoticeBase, Row):
    pass


TABLES = [entity.__table__ for entity in (Booking, Notice, Ledger)]
bookings = Verbs(Booking, BookingRead, standing)
notices = Verbs(Notice, NoticeRead, standing)
ledgers = Verbs(Ledger, LedgerRead, standing)


def booking(starts: int = 9, ends: int = 10, room: str = "Blue") -> BookingCreate:
    return BookingCreate(room=room, starts=starts, ends=ends)


@dataclass
class World:
    """A database with the scratch tables, its event loop, and who calls."""

    url: str
    db: Any
    runner: asyncio.Runner
    application: Caller
    ann: Caller
    bob: Caller
    root: Caller


def awaited(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """An async test, run in its world: `async def test_x(world): ...`."""

    @functools.wraps(test)
    def run(**given: Any) -> None:
        given["world"].runner.run(test(**given))

    return run


@contextmanager
def world_at(url: str, *, size: int = 10) -> Iterator[World]:
    with tables(url), asyncio.Runner() as runner:
        opened = connect(url, size=size)
        db = runner.run(opened.__aenter__())
        application = Caller(db)
        people = {name: runner.run(sign_up(application, name)) for name in ("ann", "bob", "root")}
        try:
            yield World(url, db, runner, application, **people)
        finally:
            runner.run(opened.__aexit__(None, None, None))


async def sign_up(application: Caller, username: str) -> Caller:
    data = UserCreate(username=username, email=f"{username}@example.com", password=SecretStr("never typed anywhere"))
    is_superuser = username == "root"
    user = await users.create(application, data, hashed_password="no hash", is_superuser=is_superuser)
    session = await begin_session(application, user.id)
    return Caller(application.db, Identity(user.id, is_superuser, session, STAMP))


async def begin_session(application: Caller, user_id: int) -> int:
    """As logging in does."""
    hashes = {"hashed_family": secrets.token_hex(32), "hashed_refresh": secrets.token_hex(32)}
    until = utcnow() + timedelta(days=1)
    row = await sessions.create(application, SessionBase(expires_at=until), owner_id=user_id, stamp=STAMP, **hashes)
    return row.id


@contextmanager
def tables(url: str, wanted: Sequence[Table] = TABLES) -> Iterator[None]:
    """The scratch tables, there for as long as it lasts: on PostgreSQL the database outlives the test."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        SQLModel.metadata.create_all(connection, wanted)
        recording.install(connection)
    try:
        yield
    finally:
        if POSTGRES:
            SQLModel.metadata.drop_all(engine, wanted)


@contextmanager
def empty_database(folder: Path, name: str) -> Iterator[str]:
    """The URL of a database without any table: a file in `folder`, or one of its own on the PostgreSQL under test."""
    if not POSTGRES:
        yield f"sqlite:///{folder / name}.db"
        return
    there = make_url(POSTGRES)
    database = f"{(there.database or '').removesuffix('_test')}_{name}_test"
    engine = create_engine(there, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)'))
        connection.execute(text(f'CREATE DATABASE "{database}"'))
        try:
            yield there.set(database=database).render_as_string(hide_password=False)
        finally:
            connection.execute(text(f'DROP DATABASE "{database}" WITH (FORCE)'))


def environment(**changed: str) -> dict[str, str]:
    """For a subprocess: ours, with what the app reads from it changed."""
    return {**os.environ, "PYTHONWARNINGS": "ignore", **changed}


def python(*arguments: str, **changed: str) -> "subprocess.CompletedProcess[str]":
    """Run this Python at the project's root, and wait for its end."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment(**changed),
        capture_output=True,
        text=True,
        timeout=20,  # ten times what the slowest takes
        check=False,
    )
