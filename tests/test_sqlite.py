"""SQLite on the event loop, which never waits: not for a long statement, not for a lock, not for the disk."""

# the block of a transaction belongs to what raises

import asyncio
import gc
import multiprocessing
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from threading import Barrier

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import BigInteger, bindparam, literal
from sqlmodel import func, select, update

from app import accounts
from app.crud import transaction
from app.deps import SessionDep
from app.engine import sessions, sqlite, sqlite_connection, waiting
from app.engine.caller import Caller
from app.engine.database import connect
from app.engine.http import dispatch
from app.engine.statement import Row, Statement
from app.errors import Unavailable
from app.main import create_app
from app.settings import Settings
from tests.conftest import POSTGRES, sign_up
from tests.scratch import Booking, Notice, NoticeCreate, World, awaited, booking, bookings, notices, tables, world_at

pytestmark = pytest.mark.skipif(bool(POSTGRES), reason="about SQLite")

SHORT = 0.25  # seconds: what the loop may stand still on a busy machine. What it must not wait for takes longer
FOR_EVER = 3 * 10**7  # ten seconds or so: a test that fails must end
TOO_LONG = "That took too long. Ask for less at once, or try again in a moment."
BUSY = "The database is busy. Try again in a moment."
FAILING = "The database cannot write, or not be read. Whoever runs it must look at it."

_one = select(literal(1).label("n")).cte("numbers", recursive=True)
_numbers = _one.union_all(select(_one.c.n + 1).where(_one.c.n < bindparam("far", type_=BigInteger)))
COUNTED = select(func.count()).select_from(_numbers)  # it takes the longer the larger `far` is
_booking = Booking.__table__.c
READ, UNBOUNDED = Statement(COUNTED), Statement(COUNTED, unbounded=True)
WRITE = Statement(
    update(Booking)
    .values(ends=_booking.ends + COUNTED.scalar_subquery(), updated_at=_booking.updated_at)
    .returning(_booking.ends)
)
ALL = Statement(select(_booking.starts, _booking.ends).order_by(_booking.starts))
KINDS = {
    "read": (READ, False),
    "write": (WRITE, False),
    "unbounded": (UNBOUNDED, False),
    "read in a transaction": (READ, True),
    "write in a transaction": (WRITE, True),
    "unbounded in a transaction": (UNBOUNDED, True),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def url(migrated: str, tmp_path: Path) -> str:
    return f"sqlite:///{shutil.copy(migrated.removeprefix('sqlite:///'), tmp_path / 'file.db')}"


@pytest.fixture
def world(url: str) -> Iterator[World]:
    with world_at(url) as world:
        yield world


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> float:
    """Short, for tests of what comes after it."""
    monkeypatch.setattr(waiting, "PATIENCE", 0.3)
    return 0.3


def look_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the clock. To be called before the database is opened."""
    monkeypatch.setattr(sqlite_connection, "STEPS", 1)
    monkeypatch.setattr(sqlite_connection, "STEPS_IN_THREAD", 1)


@pytest.fixture(scope="module")
def far() -> int:
    """How far SQLite counts in about a second."""
    compiled, far, took = READ.on(sqlite.DIALECT), 100_000, 0.0
    connection = sqlite3.connect(":memory:")
    while took < 4 * SHORT:
        far *= 2
        begun = time.monotonic()
        connection.execute(compiled.sql, compiled.arguments({"far": far})).fetchall()
        took = time.monotonic() - begun
    connection.close()
    return far


async def ask(world: World, kind: str, far: int) -> list[Row]:
    """Count that far. In a transaction, a booking comes first."""
    statement, is_within = KINDS[kind]
    if not is_within:
        return await world.db.run(statement, {"far": far})
    async with transaction(world.ann) as tx:
        await bookings.delete(tx, (await bookings.create(tx, booking(77, 99))).id)
        return await tx.db.run(statement, {"far": far})


async def everything(world: World) -> list[Row]:
    return await world.db.run(ALL, {})


@asynccontextmanager
async def watched(world: World) -> AsyncIterator[list[float]]:
    """The seconds that each of many short waits took meanwhile, with a verb that reads."""
    waits: list[float] = []

    async def wait() -> None:
        while True:
            begun = time.monotonic()
            await asyncio.sleep(0.005)
            await bookings.page(world.ann)
            waits.append(time.monotonic() - begun)

    waiter = asyncio.create_task(wait())
    await asyncio.sleep(0.01)
    try:
        yield waits
    finally:
        await asyncio.sleep(0.02)
        waiter.cancel()


@every_kind
@awaited
async def test_a_long_statement_is_answered_while_the_loop_goes_on(
    world: World, kind: str, far: int, monkeypatch: pytest.MonkeyPatch
):
    if kind.startswith("unbounded"):
        monkeypatch.setattr(sqlite_connection, "LOOP_LIMIT", 60)  # it would not be interrupted there
    await bookings.create(world.ann, booking(1, 10))
    begun = time.monotonic()
    async with watched(world) as waits:
        rows = await ask(world, kind, far)
    took = time.monotonic() - begun
    is_write = kind.startswith("write")
    assert rows == [(10 + far if is_write else far,)]
    assert await everything(world) == [(1, 10 + far if is_write else 10)]
    assert took > 2 * SHORT
    assert max(waits) < SHORT


@awaited
async def test_a_long_write_is_tried_on_the_loop_only_once(world: World, far: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sqlite_connection, "LOOP_LIMIT", 0.4)
    await bookings.create(world.ann, booking(1, 10))
    async with watched(world) as waits:
        await ask(world, "write", far)
    assert 0.4 < max(waits) < 0.7


@every_kind
@awaited
async def test_a_statement_over_its_limit_is_refused_and_nothing_of_it_is_kept(
    world: World, kind: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sqlite_connection, "STATEMENT_LIMIT", 0.3)
    await bookings.create(world.ann, booking(1, 10))
    begun = time.monotonic()
    async with watched(world) as waits:
        with pytest.raises(Unavailable) as refused:
            await ask(world, kind, FOR_EVER)
    took = time.monotonic() - begun
    assert (refused.value.detail, refused.value.headers) == (TOO_LONG, {"Retry-After": "1"})
    assert 0.3 < took < 1
    assert max(waits) < SHORT
    assert await everything(world) == [(1, 10)]
    assert await ask(world, kind, 5) == [(15 if kind.startswith("write") else 5,)]


@pytest.mark.parametrize("work", ["verb", "transaction"])
def test_a_write_that_is_interrupted_at_any_step_is_kept_once_or_refused(
    url: str, work: str, monkeypatch: pytest.MonkeyPatch
):
    clock = Clock()
    monkeypatch.setattr(sqlite_connection, "time", clock)
    look_at_every_step(monkeypatch)

    async def book(world: World, starts: int) -> None:
        if work == "verb":
            await bookings.create(world.ann, booking(starts, 10**6))
            return
        async with transaction(world.ann) as tx:
            await bookings.create(tx, booking(starts, 10**6))

    async def book_at_every_step(world: World) -> tuple[list[int], list[int]]:
        kept, refused = [], []
        for step in count(1):
            clock.be_late_at(step)
            try:
                await book(world, step)
            except Unavailable:
                refused.append(step)
            else:
                kept.append(step)
            if not clock.is_late:
                return kept, refused
        raise AssertionError

    with world_at(url) as world:
        kept, refused = world.runner.run(book_at_every_step(world))
        assert [starts for starts, _ in world.runner.run(everything(world))] == kept
    # A verb is begun anew in the thread. Within a transaction nothing can be.
    assert bool(refused) == (work == "transaction")
    assert len(kept) + len(refused) > 40


class Clock:
    """Stands in for the module `time`: from a certain look at it on it is an hour later."""

    def __init__(self) -> None:
        self._looks, self._late = 0, 10**9

    def be_late_at(self, look: int) -> None:
        self._looks, self._late = 0, look

    @property
    def is_late(self) -> bool:
        return self._looks >= self._late

    def monotonic(self) -> float:
        self._looks += 1
        return time.monotonic() + 3600 * self.is_late


def test_a_transaction_that_was_idle_for_long_is_undone_all_the_same(url: str, monkeypatch: pytest.MonkeyPatch):
    look_at_every_step(monkeypatch)

    async def fail(world: World) -> None:
        async with transaction(world.ann) as tx:
            await bookings.create(tx, booking(1))
            await bookings.page(tx)
            await asyncio.sleep(2 * sqlite_connection.LOOP_LIMIT)  # the time of that last statement is over
            raise ZeroDivisionError

    with world_at(url) as world:
        with pytest.raises(ZeroDivisionError):
            world.runner.run(fail(world))
        world.runner.run(bookings.create(world.ann, booking(2)))
        assert world.runner.run(everything(world)) == [(2, 10)]


def test_counting_what_there_is_can_be_too_much_for_now(
    url: str, start: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
):
    look_at_every_step(monkeypatch)
    root = sign_up(start(database_url=url), "root", is_superuser=True)
    assert root.get("/admin/counts").json()["users"] == 1
    monkeypatch.setattr(sqlite_connection, "STATEMENT_LIMIT", 1e-9)
    answer = root.get("/admin/counts")
    assert (answer.status_code, answer.json()["detail"], answer.headers["retry-after"]) == (503, TOO_LONG, "1")
    assert root.get("/users/me").status_code == 200


@awaited
async def test_what_counts_all_rows_waits_for_its_turn_but_not_for_ever(world: World, patience: float):
    counting = asyncio.create_task(world.db.run(UNBOUNDED, {"far": FOR_EVER}))
    await asyncio.sleep(0.05)
    begun = time.monotonic()
    async with watched(world) as waits:
        refused = await asyncio.gather(
            accounts.count(world.root), world.db.run(UNBOUNDED, {"far": 1}), return_exceptions=True
        )
    took = time.monotonic() - begun
    counting.cancel()
    await asyncio.wait([counting])
    assert [str(answer) for answer in refused] == [BUSY] * 2
    assert patience < took < 1
    assert max(waits) < SHORT
    assert (await accounts.count(world.root)).users == 3


@awaited
async def test_two_that_count_all_rows_are_both_answered(world: World, far: int):
    far //= 4
    async with watched(world) as waits:
        both = await asyncio.gather(*(world.db.run(UNBOUNDED, {"far": far + n}) for n in range(2)))
    assert both == [[(far,)], [(far + 1,)]]
    assert max(waits) < SHORT


@awaited
async def test_a_statement_in_the_thread_is_not_starved_by_a_busy_loop(world: World, far: int):
    far //= 4

    async def be_busy() -> None:
        while True:
            sum(range(100_000))
            await asyncio.sleep(0)

    busy = asyncio.create_task(be_busy())
    rows = await world.db.run(UNBOUNDED, {"far": far})  # starved, it would be refused
    busy.cancel()
    assert rows == [(far,)]


@awaited
async def test_while_a_write_takes_long_others_read_and_who_writes_is_told_to_come_back(world: World, patience: float):
    row = await bookings.create(world.ann, booking(1))
    writing = asyncio.create_task(world.db.run(WRITE, {"far": FOR_EVER}))
    await asyncio.sleep(0.2)
    begun = time.monotonic()
    async with watched(world) as waits:
        with pytest.raises(Unavailable) as refused:
            await bookings.create(world.ann, booking(2))
        with pytest.raises(Unavailable):
            async with transaction(world.ann) as tx:
                await bookings.delete(tx, row.id)
    took = time.monotonic() - begun
    assert not writing.done()
    writing.cancel()
    await asyncio.wait([writing])
    await bookings.create(world.ann, booking(3))
    assert refused.value.detail == BUSY
    assert 2 * patience < took < 2
    assert max(waits) < SHORT
    assert await everything(world) == [(1, 10), (3, 10)]


@every_kind
@awaited
async def test_what_nobody_waits_for_any_more_is_interrupted(world: World, kind: str, caplog: pytest.LogCaptureFixture):
    await bookings.create(world.ann, booking(1))
    asking = asyncio.create_task(ask(world, kind, FOR_EVER))
    await asyncio.sleep(0.2)
    begun = time.monotonic()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert time.monotonic() - begun < 0.5
    assert await everything(world) == [(1, 10)]
    assert await ask(world, kind, 5) == [(15 if kind.startswith("write") else 5,)]
    del asking
    gc.collect()
    assert caplog.messages == []  # such as "exception was never retrieved"


def test_a_connection_is_not_free_before_its_statement_has_ended(url: str, monkeypatch: pytest.MonkeyPatch):
    prepare = sqlite_connection.prepare

    def prepare_and_add_nap(connection: sqlite3.Connection) -> None:
        prepare(connection)
        connection.create_function("nap", 1, time.sleep)  # nothing interrupts it

    monkeypatch.setattr(sqlite_connection, "prepare", prepare_and_add_nap)
    nap = Statement(update(Booking).values(ends=func.coalesce(func.nap(3 * SHORT), 99), updated_at=_booking.updated_at))

    async def doze(world: World) -> None:
        async with transaction(world.ann) as tx:
            await tx.db.run(nap, {})

    async def cancel_twice(world: World) -> None:
        await bookings.create(world.ann, booking(1))
        begun = time.monotonic()
        async with watched(world) as waits:
            dozing = asyncio.create_task(doze(world))
            await asyncio.sleep(0.05)
            creating = asyncio.create_task(bookings.create(world.bob, booking(2)))
            for _ in range(2):
                dozing.cancel()
                await asyncio.sleep(0.05)
            with pytest.raises(asyncio.CancelledError):
                await dozing
            took = time.monotonic() - begun
            await creating
        assert took > 3 * SHORT
        assert max(waits) < SHORT
        assert await everything(world) == [(1, 10), (2, 10)]

    with world_at(url) as world:
        world.runner.run(cancel_twice(world))


async def create_many(world: World, many: int, first: int = 0) -> None:
    """So many bookings, each by itself, by four tasks at once."""

    async def create(task: int) -> None:
        for starts in range(first + task, first + many, 4):
            await bookings.create(world.ann, booking(starts, 10**6))
            await asyncio.sleep(0)

    await asyncio.gather(*(create(task) for task in range(4)))


def log_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///") + "-wal")


@awaited
async def test_the_write_ahead_log_stays_small_and_nobody_waits_for_it(world: World, full: bool):
    many = 20_000 if full else 6000  # without checkpoints that would be 300 and 90 MB
    async with watched(world) as waits:
        await create_many(world, many)
    assert log_of(world.url).stat().st_size < 24 * 2**20
    assert max(waits) < SHORT
    assert await everything(world) == [(starts, 10**6) for starts in range(many)]


@awaited
async def test_whoever_reads_what_is_old_only_puts_a_checkpoint_off(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sqlite, "CHECKPOINT", 100)
    old = sqlite3.connect(world.url.removeprefix("sqlite:///"), isolation_level=None)
    old.execute("BEGIN")
    rows = "SELECT count(*) FROM scratch_bookings"
    assert old.execute(rows).fetchone() == (0,)
    async with watched(world) as waits:
        await create_many(world, 1000)
    assert old.execute(rows).fetchone() == (0,)
    old.close()
    await create_many(world, 200, first=1000)
    size = log_of(world.url).stat().st_size
    await create_many(world, 1000, first=1200)
    assert log_of(world.url).stat().st_size == size
    assert max(waits) < SHORT
    assert len(await everything(world)) == 2200


@pytest.mark.parametrize("turns", range(8))
def test_closing_while_a_checkpoint_is_under_way_is_clean(
    url: str, turns: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(sqlite, "CHECKPOINT", 1)

    async def create_and_close() -> int:
        async with connect(url) as db:
            await notices.create(Caller(db), NoticeCreate(name="a"))
            for _ in range(turns):
                await asyncio.sleep(0)
        return len(asyncio.all_tasks())

    with tables(url):
        tasks = asyncio.run(create_and_close())
    gc.collect()
    assert (tasks, caplog.messages) == (1, [])  # the test's own task


@awaited
async def test_the_last_one_out_writes_all_of_the_log_into_the_file(world: World):
    assert log_of(world.url).exists()
    await world.db.close()
    assert not log_of(world.url).exists()


@pytest.mark.promise("F22")
def test_four_processes_that_write_to_one_file_are_never_told_that_it_is_locked(url: str, full: bool):
    names, many = "abcd", 1000 if full else 250
    spawn = multiprocessing.get_context("spawn")
    together = spawn.Barrier(len(names))
    with world_at(url) as world:
        processes = [spawn.Process(target=write_alone, args=(url, name, many, together)) for name in names]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0] * len(names)
        written = {name for (name,) in world.runner.run(world.db.run(Statement(select(Notice.__table__.c.name)), {}))}
        assert written == {f"{name}{number}" for name in names for number in range(many)}


def write_alone(url: str, name: str, many: int, together: Barrier) -> None:
    """In a process of its own: verbs, and in between a transaction."""

    async def write() -> None:
        async with connect(url) as db:
            application = Caller(db)
            together.wait(30)
            for number in range(many):
                data = NoticeCreate(name=f"{name}{number}")
                if number % 5:
                    await notices.create(application, data)
                    continue
                async with transaction(application) as tx:
                    await notices.page(tx, limit=1)  # whoever reads first must not be too late to write then
                    await notices.create(tx, data)

    asyncio.run(write())


@pytest.fixture
def counting(
    url: str, settings: Settings, start: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> TestClient:
    """The real app, with a route of a team that counts by a Session."""
    monkeypatch.setattr(sessions, "STATEMENT_LIMIT", 0.3)
    app = create_app(settings.model_copy(update={"database_url": url}))

    @app.api_route("/count", methods=["GET", "POST"])
    def count_by_session(session: SessionDep, far: int) -> int:
        return session.execute(COUNTED, {"far": far}).scalar_one()

    dispatch.install(app)
    return start(app)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_session_is_interrupted_when_its_statement_takes_too_long(counting: TestClient, method: str):
    begun = time.monotonic()
    answer = counting.request(method, "/count", params={"far": FOR_EVER})
    took = time.monotonic() - begun
    assert (answer.status_code, answer.json()["detail"], answer.headers["retry-after"]) == (503, TOO_LONG, "1")
    assert 0.3 < took < 1
    assert counting.request(method, "/count", params={"far": 5}).json() == 5


def test_a_session_may_begin_long_after_the_last_one(counting: TestClient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sessions, "STEPS_IN_THREAD", 1)
    assert counting.get("/count", params={"far": 5}).json() == 5
    time.sleep(0.4)  # the time of its connection's last statement is over
    assert counting.get("/count", params={"far": 5}).json() == 5
