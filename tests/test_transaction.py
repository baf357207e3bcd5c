"""transaction(): all of it or nothing, for its own task alone, and nobody waits for it longer than they must."""

# ruff: noqa: PT012  # the block of a transaction belongs to what raises

import asyncio
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from app.crud import transaction, users
from app.engine import transaction as shared_transaction
from app.engine import waiting
from app.engine.caller import Caller
from app.engine.database import connect
from app.errors import Clash, Invalid, Missing, Unavailable
from tests.conftest import POSTGRES
from tests.scratch import BookingUpdate, NoticeCreate, World, awaited, booking, bookings, notices, world_at

ON_SQLITE = pytest.mark.skipif(bool(POSTGRES), reason="about SQLite")
ON_POSTGRES = pytest.mark.skipif(not POSTGRES, reason="about PostgreSQL")


@pytest.fixture
def url(migrated: str, database_url: str, tmp_path: Path) -> str:
    """A file, if it is SQLite: in memory, readers and the writer wait for each other."""
    if POSTGRES:
        return database_url
    return f"sqlite:///{shutil.copy(migrated.removeprefix('sqlite:///'), tmp_path / 'file.db')}"


@pytest.fixture
def world(url: str) -> Iterator[World]:
    # Two connections are all there are.
    with world_at(url, size=2) as world:
        yield world


@pytest.fixture
def set_limit(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, object], None]:
    """Change a limit of both engines."""

    def change(name: str, value: object) -> None:
        modules = [shared_transaction, waiting]
        if POSTGRES:
            from app.engine import postgres

            modules.append(postgres)
        for module in (module for module in modules if hasattr(module, name)):
            monkeypatch.setattr(module, name, value)

    return change


@contextmanager
def stranger(url: str) -> Iterator[Any]:
    """A connection of another program, in a transaction in which nobody else can write bookings."""
    if POSTGRES:
        import psycopg

        connection: Any = psycopg.connect(url)
        connection.execute("LOCK TABLE scratch_bookings IN EXCLUSIVE MODE")
    else:
        connection = sqlite3.connect(make_url(url).database or "", isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    finally:
        connection.close()


def let_go_after(seconds: float, connection: Any) -> None:
    asyncio.get_running_loop().call_later(seconds, connection.execute, "ROLLBACK")


async def starts(world: World) -> list[int]:
    return sorted(row.starts for row in await bookings.page(world.application))


@awaited
async def test_all_of_a_transaction_is_kept(world: World):
    async with transaction(world.ann) as tx:
        first = await bookings.create(tx, booking(1))
        await bookings.update(tx, first.id, BookingUpdate(starts=2))
        await bookings.create(tx, booking(3))
    assert await starts(world) == [2, 3]


@awaited
async def test_the_application_goes_on_in_a_callers_transaction_and_is_undone_with_it(world: World):
    with pytest.raises(Missing):
        async with transaction(world.ann) as tx:
            row = await bookings.create(tx.as_application(), booking(), owner_id=world.bob.id)
            assert await bookings.page(tx.as_application()) == [row]
            await bookings.get(tx, row.id)  # Ann is Ann still
    assert await bookings.page(world.application) == []


@awaited
async def test_nothing_of_the_first_remains_when_the_second_is_refused(world: World):
    await bookings.create(world.bob, booking(2))
    with pytest.raises(Clash) as refused:
        async with transaction(world.ann) as tx:
            await bookings.create(tx, booking(1))
            await bookings.create(tx, booking(2))
    assert refused.value.detail == "That room and starts are taken together."
    assert await starts(world) == [2]


@awaited
async def test_nothing_is_kept_when_the_block_raises(world: World):
    row = await bookings.create(world.ann, booking(1))
    with pytest.raises(ZeroDivisionError):
        async with transaction(world.ann) as tx:
            await bookings.delete(tx, row.id)
            await bookings.create(tx, booking(2))
            raise ZeroDivisionError
    assert await bookings.page(world.ann) == [row]


@awaited
async def test_what_the_database_refused_is_the_last_word_even_if_it_is_caught(world: World):
    with pytest.raises(Clash):
        async with transaction(world.ann) as tx:
            await bookings.create(tx, booking(1))
            with pytest.raises(Clash):
                await bookings.create(tx, booking(1))
            with pytest.raises(Clash):
                await bookings.create(tx, booking(2))
    assert await starts(world) == []


@awaited
async def test_what_is_missing_can_be_caught_and_the_rest_is_kept(world: World):
    async with transaction(world.ann) as tx:
        await bookings.create(tx, booking(1))
        with pytest.raises(Missing):
            await bookings.get(tx, 77)
        await bookings.create(tx, booking(2))
    assert await starts(world) == [1, 2]


@awaited
async def test_a_part_that_is_refused_is_undone_and_the_rest_is_kept(world: World):
    await bookings.create(world.bob, booking(2))
    async with world.ann.db.transaction() as db:
        tx = replace(world.ann, db=db)
        await bookings.create(tx, booking(1))
        for refused in (booking(2), booking(3, 3)):
            with pytest.raises((Clash, Invalid)):
                async with db.savepoint():
                    await bookings.create(tx, booking(4))
                    async with db.savepoint():
                        await bookings.create(tx, booking(5))
                    await bookings.create(tx, refused)
        async with db.savepoint():
            with pytest.raises(Missing):
                async with db.savepoint():
                    await bookings.create(tx, booking(6))
                    raise Missing
            await bookings.create(tx, booking(7))
    assert await starts(world) == [1, 2, 7]


@awaited
async def test_a_part_in_which_a_refusal_was_caught_is_undone_as_well(world: World):
    await bookings.create(world.bob, booking(2))
    async with world.ann.db.transaction() as db:
        with pytest.raises(Clash):
            async with db.savepoint():
                with pytest.raises(Clash):
                    await bookings.create(replace(world.ann, db=db), booking(2))
    assert await starts(world) == [2]


@pytest.mark.parametrize("error", [Unavailable, ZeroDivisionError])
@awaited
async def test_a_failure_in_a_part_that_is_no_refusal_is_that_of_the_whole(world: World, error: type[Exception]):
    with pytest.raises(error):
        async with world.ann.db.transaction() as db:
            await bookings.create(replace(world.ann, db=db), booking(1))
            with pytest.raises(error):
                async with db.savepoint():
                    raise error
            with pytest.raises(error):
                async with db.savepoint():
                    pass
    assert await starts(world) == []


@awaited
async def test_a_part_that_is_cancelled_is_so_with_the_whole_and_harms_nobody(world: World):
    async def write() -> None:
        async with world.ann.db.transaction() as db, db.savepoint():
            await bookings.create(replace(world.ann, db=db), booking(1))
            written.set()
            await asyncio.Event().wait()

    written = asyncio.Event()
    task = asyncio.create_task(write())
    await written.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await bookings.create(world.ann, booking(2))
    assert await starts(world) == [2]


@awaited
async def test_a_transaction_inside_another_is_the_same_one(world: World):
    with pytest.raises(ZeroDivisionError):
        async with transaction(world.ann) as tx:
            async with transaction(tx) as inner:
                await bookings.create(inner, booking(1))
            assert [row.starts for row in await bookings.page(tx)] == [1]
            raise ZeroDivisionError
    assert await starts(world) == []


@awaited
async def test_what_is_not_committed_is_seen_inside_only(world: World):
    async with transaction(world.ann) as tx:
        row = await bookings.create(tx, booking(1))
        inside, outside = await bookings.page(tx), await asyncio.wait_for(bookings.page(world.ann), 1)
        with pytest.raises(Missing):
            await bookings.get(world.root, row.id)
    assert (inside, outside, await bookings.page(world.ann)) == ([row], [], [row])


@ON_SQLITE
def test_in_memory_a_reader_waits_for_the_end_of_a_transaction(database_url: str):
    with world_at(database_url) as world:

        async def read_meanwhile() -> list[int]:
            async with transaction(world.ann) as tx:
                await bookings.create(tx, booking(1))
                reading = asyncio.create_task(starts(world))
                await asyncio.sleep(0.05)
            return await reading

        assert world.runner.run(read_meanwhile()) == [1]


@pytest.mark.parametrize("locked", [False, True], ids=["free", "under another program's lock"])
@pytest.mark.parametrize("verb_first", [False, True], ids=["transaction first", "verb first"])
@awaited
async def test_a_verb_of_another_task_is_no_part_of_an_open_transaction(world: World, verb_first: bool, locked: bool):
    async def fail() -> None:
        async with transaction(world.ann) as tx:
            await bookings.create(tx, booking(1))
            await asyncio.sleep(0.05)
            await bookings.create(tx, booking(2))
            await asyncio.sleep(0.05)
            raise ZeroDivisionError

    work: list[Any] = [fail(), bookings.create(world.bob, booking(3)), fail(), bookings.create(world.bob, booking(4))]
    with stranger(world.url) as lock:
        let_go_after(0.3 if locked else 0, lock)
        tasks = []
        for attempt in work[1:] + work[:1] if verb_first else work:
            tasks.append(asyncio.create_task(attempt))
            await asyncio.sleep(0.02)
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["BookingRead"] * 2 + ["ZeroDivisionError"] * 2
    assert await starts(world) == [3, 4]


@awaited
async def test_parallel_transactions_are_each_kept_whole_or_not_at_all(world: World):
    async def book(n: int) -> None:
        async with transaction(world.ann) as tx:
            await bookings.create(tx, booking(10 * n, 999))
            await asyncio.sleep(0.002)
            await bookings.create(tx, booking(10 * n + 1, 999))
            if n % 2:
                raise ZeroDivisionError

    await asyncio.gather(*(book(n) for n in range(20)), return_exceptions=True)
    assert await starts(world) == sorted(10 * n + more for n in range(0, 20, 2) for more in (0, 1))


@awaited
async def test_a_cancelled_transaction_leaves_nothing_and_harms_nobody(world: World):
    async def hang() -> None:
        async with transaction(world.ann) as tx:
            await bookings.create(tx, booking(1))
            await asyncio.sleep(60)

    for _ in range(5):
        task = asyncio.create_task(hang())
        await asyncio.sleep(0.03)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await bookings.create(world.ann, booking(2))
    assert await starts(world) == [2]


@awaited
async def test_a_verb_that_is_cancelled_while_it_waits_harms_nobody(world: World):
    async def book_within_a_transaction() -> None:
        async with transaction(world.ann) as tx:
            await notices.create(tx, NoticeCreate(name="a"))
            await bookings.create(tx, booking(1))

    with stranger(world.url) as lock:
        for attempt in (
            book_within_a_transaction(),
            bookings.create(world.ann, booking(1)),
            book_within_a_transaction(),
        ):
            task = asyncio.create_task(attempt)
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        lock.execute("ROLLBACK")
    await bookings.create(world.ann, booking(2))
    assert (await starts(world))[-1] == 2
    assert await notices.page(world.ann) == []


@awaited
async def test_a_transaction_over_its_time_is_refused_and_nothing_is_kept(world: World, set_limit: Any):
    set_limit("TRANSACTION_LIMIT", 0.2)
    with pytest.raises(Unavailable) as refused:
        async with transaction(world.ann) as tx:
            await bookings.create(tx, booking(1))
            await asyncio.sleep(5)
    assert refused.value.detail == "That took too long, and nothing of it was kept."
    await bookings.create(world.ann, booking(2))
    assert await starts(world) == [2]


@awaited
async def test_a_timeout_of_ones_own_stays_a_timeout(world: World):
    with pytest.raises(TimeoutError):
        async with transaction(world.ann) as tx:
            await bookings.create(tx, booking(1))
            async with asyncio.timeout(0.01):
                await asyncio.sleep(5)
    assert await starts(world) == []


@pytest.mark.promise("F20")
@awaited
async def test_the_loop_goes_on_and_readers_read_while_another_program_holds_the_lock(world: World):
    await bookings.create(world.ann, booking(1))
    ticks, read = [], []

    async def tick() -> None:
        while True:
            ticks.append(time.monotonic())
            read.append(await starts(world))
            await asyncio.sleep(0.01)

    with stranger(world.url) as lock:
        ticker = asyncio.create_task(tick())
        let_go_after(0.6, lock)
        begun = time.monotonic()
        async with transaction(world.ann) as tx:
            await bookings.create(tx, booking(2))
        waited = time.monotonic() - begun
        ticker.cancel()
    assert 0.55 < waited < 1.5
    assert max(later - earlier for earlier, later in pairwise(ticks)) < 0.25
    assert read[:20] == [[1]] * 20


@pytest.mark.promise("F21")
@awaited
async def test_whoever_waits_too_long_for_another_programs_lock_is_told_to_come_back(world: World, set_limit: Any):
    set_limit("PATIENCE", 0.3)
    set_limit("SERVER_SETTINGS", "-c TimeZone=UTC -c lock_timeout=300ms")
    if POSTGRES:
        await world.db.close()  # only the connections to come are so impatient
    begun = time.monotonic()
    with stranger(world.url) as lock:
        with pytest.raises(Unavailable) as refused:
            await bookings.create(world.ann, booking(1))
        with pytest.raises(Unavailable):
            async with transaction(world.ann) as tx:
                await bookings.create(tx, booking(1))
        waited = time.monotonic() - begun
        lock.execute("ROLLBACK")
    await bookings.create(world.ann, booking(2))
    assert 0.5 < waited < 2
    assert refused.value.detail == "The database is busy. Try again in a moment."
    assert await starts(world) == [2]


@awaited
async def test_whoever_finds_no_place_is_told_to_come_back_and_then_there_is_one(world: World, set_limit: Any):
    done = asyncio.Event()
    set_limit("PATIENCE", 0.2)

    async def hold(starts: int) -> None:
        async with transaction(world.ann) as tx:
            await bookings.create(tx, booking(starts))
            await done.wait()

    # SQLite has one writer, PostgreSQL as many as there are connections.
    holders = [asyncio.create_task(hold(n)) for n in range(2 if POSTGRES else 1)]
    await asyncio.sleep(0.05)
    refused = await asyncio.gather(
        *(bookings.create(world.bob, booking(50 + n)) for n in range(5)), return_exceptions=True
    )
    done.set()
    await asyncio.gather(*holders)
    await asyncio.gather(*(bookings.create(world.bob, booking(100 + n, 999)) for n in range(20)))
    assert [str(refusal) for refusal in refused] == ["The database is busy. Try again in a moment."] * 5
    assert await starts(world) == [*range(len(holders)), *range(100, 120)]


@ON_SQLITE
def test_many_who_open_a_new_file_at_once_all_succeed(migrated: str, tmp_path: Path):
    everyone = threading.Barrier(8)

    async def use(url: str) -> int:
        everyone.wait(10)
        async with connect(url) as db:
            return len(await users.page(Caller(db)))

    with ThreadPoolExecutor(8) as pool:
        for n in range(30):
            url = f"sqlite:///{shutil.copy(migrated.removeprefix('sqlite:///'), tmp_path / f'{n}.db')}"
            assert list(pool.map(asyncio.run, [use(url) for _ in range(8)])) == [0] * 8


def on_the_side(sql: str) -> None:
    """What an administrator does at the same time, on a connection of their own."""
    import psycopg

    with psycopg.connect(POSTGRES, autocommit=True) as connection:
        connection.execute(sql)


def end_all_connections() -> None:
    on_the_side(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


@ON_POSTGRES
@awaited
async def test_connections_that_ended_while_idle_are_replaced_and_nobody_notices(world: World):
    await asyncio.gather(*(starts(world) for _ in range(10)))
    end_all_connections()
    await asyncio.sleep(0.1)
    results = await asyncio.gather(*(bookings.create(world.ann, booking(n, 99)) for n in range(20)))
    assert len(results) == 20
    assert await starts(world) == list(range(20))


@ON_POSTGRES
@awaited
async def test_a_connection_that_ends_within_a_transaction_refuses_it_and_nothing_is_kept(world: World):
    for _ in range(3):
        with pytest.raises(Unavailable):
            async with transaction(world.ann) as tx:
                await bookings.create(tx, booking(1))
                end_all_connections()
                await bookings.create(tx, booking(2))
    await asyncio.sleep(0.05)
    await bookings.create(world.ann, booking(3))
    assert await starts(world) == [3]


@ON_POSTGRES
@awaited
async def test_a_migration_under_a_running_server_is_not_noticed(world: World):
    await bookings.create(world.ann, booking(1))
    await starts(world)
    # What was prepared for the old type is refused from now on.
    on_the_side("ALTER TABLE scratch_bookings ALTER room TYPE text")
    assert await starts(world) == [1]
    await bookings.create(world.ann, booking(2))
    assert await starts(world) == [1, 2]
