"""PostgreSQL's own ways to fail or to be short: timeouts, deadlocks, a pooler between, a bounded number of lines."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import NullPool, Text, bindparam, create_engine, func, literal, make_url, select, text

from app.crud import transaction
from app.engine import migrations, waiting
from app.engine.caller import Caller
from app.engine.database import connect
from app.engine.statement import Statement
from app.engine.violations import explain
from app.errors import Overtaken, Unavailable
from app.main import create_app
from app.settings import Settings
from tests.clusters import cluster, frozen, needs_cluster, needs_pgbouncer, pooler
from tests.conftest import POSTGRES, sign_up
from tests.scratch import BookingUpdate, World, awaited, booking, bookings, empty_database, world_at

pytestmark = pytest.mark.skipif(not POSTGRES, reason="PostgreSQL is not under test.")


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with world_at(database_url) as world:
        yield world


@needs_pgbouncer
def test_through_pgbouncer_a_migration_may_say_the_same_many_times(tmp_path: Path):
    with empty_database(tmp_path, "pooled") as direct, pooler(direct) as url:
        migrations.upgrade(url)
        for _ in range(4):
            with migrations.connect(url) as connection:
                for _ in range(10):
                    connection.execute(text("SELECT 1"))
        assert migrations.is_at_head(url)


async def write_and_read(caller: Caller, number: int) -> int:
    made = await bookings.create(caller, booking(number, number + 1, f"Room {number}"))
    async with transaction(caller) as tx:
        await bookings.update(tx, made.id, BookingUpdate(ends=number + 2))
        await bookings.get(tx, made.id)
    return (await bookings.get(caller, made.id)).version


@needs_pgbouncer
@awaited
async def test_pgbouncer_in_transaction_mode_is_one_setting(world: World):
    with pooler(world.url) as through:
        async with connect(through, size=10, pgbouncer=True) as db:
            ann = Caller(db, world.ann.identity)
            for turn in range(5):
                versions = await asyncio.gather(*(write_and_read(ann, 100 * turn + n) for n in range(16)))
                assert versions == [2] * 16
            (made,) = await bookings.page(ann, limit=1)
            assert str(made.created_at.tzinfo) == "UTC"
        # Without it, what one has prepared is looked for on another's line.
        async with connect(through, size=10) as db:
            with pytest.raises(Unavailable):
                await bookings.page(Caller(db, world.ann.identity))


@needs_pgbouncer
def test_sessions_work_through_pgbouncer_too(database_url: str, settings: Settings, start: Any):
    with pooler(database_url) as through:
        app = create_app(settings.model_copy(update={"database_url": through, "pgbouncer": True}))
        client = start(app)
        ann = sign_up(client, "ann")
        for number in range(20):
            assert ann.post("/items", {"title": f"Item {number}"}).status_code == 201
            with client.app.state.session_engine.connect() as connection:
                assert connection.execute(text("SELECT count(*) FROM items")).scalar() == number + 1
        assert client.get("/ready").status_code == 200
        # It must let go before the pooler ends; the fixture will close it once more.
        client.__exit__(None, None, None)
        client.__enter__()


@awaited
async def test_of_two_transactions_in_a_deadlock_both_succeed_in_the_end(world: World):
    first, second = [await bookings.create(world.ann, booking(n)) for n in (1, 2)]
    met = asyncio.Barrier(2)
    attempts = []

    @waiting.retried
    async def change(one: int, other: int, ends: int) -> None:
        attempts.append(ends)
        async with transaction(world.ann) as tx:
            await bookings.update(tx, one, BookingUpdate(ends=ends))
            if len(attempts) <= 2:
                await met.wait()
            await bookings.update(tx, other, BookingUpdate(ends=ends))

    await asyncio.gather(change(first.id, second.id, 20), change(second.id, first.id, 30))
    rows = await bookings.page(world.ann)
    assert len(attempts) == 3
    assert [row.version for row in rows] == [3, 3]
    assert [row.ends for row in rows] == [attempts[-1]] * 2


@awaited
async def test_whoever_is_not_begun_anew_after_a_deadlock_is_told_to_come_back(world: World):
    first, second = [await bookings.create(world.ann, booking(n)) for n in (1, 2)]
    met = asyncio.Barrier(2)

    async def change(one: int, other: int, ends: int) -> None:
        async with transaction(world.ann) as tx:
            await bookings.update(tx, one, BookingUpdate(ends=ends))
            await met.wait()
            await bookings.update(tx, other, BookingUpdate(ends=ends))

    told = await asyncio.gather(
        change(first.id, second.id, 20), change(second.id, first.id, 30), return_exceptions=True
    )
    (refusal,) = [each for each in told if each]
    rows = await bookings.page(world.ann)
    assert (type(refusal), str(refusal)) == (Overtaken, waiting.BUSY)
    assert [row.version for row in rows] == [2, 2]
    assert len({row.ends for row in rows}) == 1


@contextmanager
def repeatable_reads(folder: Path) -> Iterator[World]:
    """A database where a change of what somebody else changed meanwhile is a serialization failure."""
    with empty_database(folder, "serial") as url:
        engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        name = engine.url.database
        with engine.connect() as connection:
            connection.execute(text(f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = 'repeatable read'"))
        migrations.upgrade(url)
        with world_at(url) as world:
            yield world


def test_a_change_that_lost_to_another_is_made_again(tmp_path: Path):
    with repeatable_reads(tmp_path) as world:

        async def race() -> None:
            made = await bookings.create(world.ann, booking(1, 2))
            async with await psycopg.AsyncConnection.connect(world.url) as other:
                await other.execute("UPDATE scratch_bookings SET room = 'Red', version = version + 1")
                change = asyncio.create_task(bookings.update(world.ann, made.id, BookingUpdate(ends=9)))
                await asyncio.sleep(0.2)
                assert not change.done()
                await other.commit()
            row = await change
            assert (row.room, row.ends, row.version) == ("Red", 9, 3)

        world.runner.run(race())


@awaited
async def test_whoever_loses_again_and_again_is_told_to_come_back(world: World):
    attempts = []

    @waiting.retried
    async def lose() -> None:
        attempts.append(1)
        raise explain(psycopg.errors.SerializationFailure()) or AssertionError

    with pytest.raises(Overtaken):
        await lose()
    assert len(attempts) == waiting.ATTEMPTS


@pytest.mark.parametrize(
    ("limit", "sentence"),
    [
        ("statement_timeout=200ms", "That took too long. Ask for less at once, or try again in a moment."),
        ("idle_in_transaction_session_timeout=200ms", "The database does not answer. Try again in a moment."),
    ],
)
@awaited
async def test_the_servers_limits_are_told_and_leave_a_pool_that_works(
    world: World, monkeypatch: pytest.MonkeyPatch, limit: str, sentence: str
):
    postgres = pytest.importorskip("app.engine.postgres")
    monkeypatch.setattr(postgres, "SERVER_SETTINGS", f"-c TimeZone=UTC -c {limit}")
    await world.db.close()
    sleep = Statement(select(func.pg_sleep(literal(3))))
    with pytest.raises(Unavailable) as refused:  # noqa: PT012  # where in it does not matter
        async with transaction(world.ann) as tx:
            if limit.startswith("idle"):
                await asyncio.sleep(0.6)
            else:
                await tx.db.run(sleep, {})
            await bookings.create(tx, booking(1))
    assert str(refused.value) == sentence
    await bookings.create(world.ann, booking(2))
    assert [row.starts for row in await bookings.page(world.ann)] == [2]


@awaited
async def test_a_transaction_that_is_given_more_time_may_do_something_else_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    postgres = pytest.importorskip("app.engine.postgres")
    monkeypatch.setattr(postgres, "SERVER_SETTINGS", "-c TimeZone=UTC -c idle_in_transaction_session_timeout=200ms")
    await world.db.close()
    async with world.ann.db.transaction(limit=60) as db:
        await asyncio.sleep(0.6)
        await bookings.create(replace(world.ann, db=db), booking(1))
    assert [row.starts for row in await bookings.page(world.ann)] == [1]


@awaited
async def test_a_server_that_stands_still_is_not_waited_for_longer_than_the_limit(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    postgres = pytest.importorskip("app.engine.postgres")
    monkeypatch.setattr(postgres, "STATEMENT_LIMIT", 0.3)
    with pytest.raises(Unavailable) as refused:
        await world.db.run(Statement(select(func.pg_sleep(literal(3)))), {})
    assert str(refused.value) == "That took too long. Ask for less at once, or try again in a moment."
    await bookings.create(world.ann, booking(1))


@needs_cluster
def test_what_went_wrong_is_told_though_the_rollback_finds_nobody(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("app.engine.postgres.STATEMENT_LIMIT", 0.3)

    async def pid_of(db: Any) -> int:
        ((pid,),) = await db.run(Statement(select(func.pg_backend_pid())), {})
        return pid

    async def give_up(world: World) -> None:
        with ExitStack() as stack:
            async with asyncio.timeout(2), transaction(world.ann) as tx:
                stack.enter_context(frozen(await pid_of(tx.db)))
                raise ZeroDivisionError

    async def begin(world: World) -> None:
        with frozen(await pid_of(world.db)):
            async with asyncio.timeout(2), transaction(world.ann):
                pass

    with cluster() as postgres:
        migrations.upgrade(postgres.url)
        with world_at(postgres.url, size=1) as world:
            # What went wrong is told, not that the rollback found nobody.
            with pytest.raises(ZeroDivisionError):
                world.runner.run(give_up(world))
            with pytest.raises(Unavailable, match="That took too long"):
                world.runner.run(begin(world))
            assert world.runner.run(bookings.page(world.ann)) == []


SLOW_COMMIT = """
    CREATE FUNCTION scratch_wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(1); RETURN NULL; END';
    CREATE CONSTRAINT TRIGGER scratch_wait AFTER INSERT ON scratch_bookings DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION scratch_wait();
"""


@awaited
async def test_what_is_being_committed_is_never_called_undone(
    world: World, database_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("app.engine.transaction.TRANSACTION_LIMIT", 0.3)
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute(SLOW_COMMIT)
        try:
            async with transaction(world.ann) as tx:
                await bookings.create(tx, booking(1))
        finally:
            owner.execute("DROP FUNCTION scratch_wait CASCADE")
    assert [row.starts for row in await bookings.page(world.ann)] == [1]


class Way:
    """A way to PostgreSQL: `block` it, and nothing gets through; `cut` it, and whoever is on it has lost connection."""

    def __init__(self, url: str) -> None:
        self.there, self.listener = make_url(url), socket.create_server(("127.0.0.1", 0))
        self.url = self.there.set(host="127.0.0.1", port=self.listener.getsockname()[1])
        self.is_open, self.ends = threading.Event(), list[socket.socket]()
        self.is_open.set()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                ends = self.listener.accept()[0], socket.create_connection((self.there.host, self.there.port or 5432))
                self.ends += ends
                for way in (ends, ends[::-1]):
                    threading.Thread(target=self.carry, args=way, daemon=True).start()

    def carry(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while self.is_open.wait() and (data := source.recv(2**16)):
                target.sendall(data)

    def block(self) -> None:
        self.is_open.clear()

    def cut(self) -> None:
        while self.ends:
            with self.ends.pop() as end, suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self.is_open.set()


@pytest.fixture
def way(database_url: str) -> Iterator[Way]:
    way = Way(database_url)
    yield way
    way.listener.shutdown(socket.SHUT_RDWR)
    way.listener.close()
    way.cut()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_connection_that_breaks_while_much_is_sent_harms_no_other(way: Way, loop: str):
    length = Statement(select(func.length(bindparam("text", type_=Text()))))

    async def send() -> None:
        async with connect(way.url.render_as_string(hide_password=False), size=1) as database:
            assert await database.run(length, {"text": "short"}) == [(5,)]
            way.block()
            sending = asyncio.create_task(database.run(length, {"text": "x" * 20_000_000}))
            await asyncio.sleep(0.3)  # now the socket's buffer is full
            way.cut()
            assert await sending == [(20_000_000,)]
            assert await database.run(length, {"text": "short"}) == [(5,)]

    complaints: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=pytest.importorskip(loop).new_event_loop) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: complaints.append(context))
        runner.run(send())
    assert complaints == []


def test_verbs_sessions_and_ready_share_one_budget_of_connections(database_url: str, settings: Settings, start: Any):
    count = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_start > :begun")
    most, watch = 0, create_engine(database_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with watch.connect() as watching, ThreadPoolExecutor(40) as pool:
        begun = watching.execute(text("SELECT now()")).scalar_one()  # what earlier tests left is not ours
        client = start(create_app(settings.model_copy(update={"database_connections": 8})))
        ann = sign_up(client, "ann")
        engine: Any = client.app.state.session_engine  # type: ignore[attr-defined]

        def ask_by_session(_: int) -> None:
            with suppress(Exception), engine.connect() as connection:
                connection.execute(text("SELECT pg_sleep(0.05)"))

        pool.map(ask_by_session, range(30))  # first, so that they are there when the others are
        asked = [pool.submit(ann.post, "/items", {"title": "Foo"}) for _ in range(100)]
        asked += [pool.submit(client.get, "/ready") for _ in range(20)]
        pool.map(ask_by_session, range(30))
        while not all(answer.done() for answer in asked):
            most = max(most, watching.execute(count, {"begun": begun}).scalar_one())
    assert {answer.result().status_code for answer in asked} == {200, 201}
    assert 5 < most <= 8


@awaited
async def test_a_verb_is_one_message_and_nothing_is_sent_when_a_connection_is_given_back(world: World):
    made = await bookings.create(world.ann, booking(1))
    await bookings.get(world.ann, made.id)  # prepared by now
    (connection,) = world.db._idle
    sent = []
    pg = connection._pg

    class Watched:
        def __getattr__(self, name: str) -> Any:
            if name.startswith("send_"):
                sent.append(name)
            return getattr(pg, name)

    connection._pg = Watched()
    for _ in range(5):
        await bookings.get(world.ann, made.id)
    connection._pg = pg
    assert sent == ["send_query_prepared"] * 5


@pytest.mark.parametrize(
    ("state", "refusal", "sentence"),
    [
        ("22003", "Invalid", "A number is too large or too small."),
        ("22001", "Invalid", "A value is too long, or none that the database can keep."),
        ("22P05", "Invalid", "A value is too long, or none that the database can keep."),
        ("23503", "Dangling", "It refers to something that does not exist, or something still refers to it."),
        ("25006", "Unavailable", "The database cannot write, or not be read. Whoever runs it must look at it."),
        ("40001", "Overtaken", "The database is busy. Try again in a moment."),
        ("40P01", "Overtaken", "The database is busy. Try again in a moment."),
        ("53100", "Unavailable", "The database cannot write, or not be read. Whoever runs it must look at it."),
        ("53300", "Unavailable", "The database cannot write, or not be read. Whoever runs it must look at it."),
        ("55P03", "Unavailable", "The database is busy. Try again in a moment."),
        ("57014", "Unavailable", "That took too long. Ask for less at once, or try again in a moment."),
        ("57P01", "Unavailable", "The database does not answer. Try again in a moment."),
        ("57P03", "Unavailable", "The database does not answer. Try again in a moment."),
        ("08006", "Unavailable", "The database does not answer. Try again in a moment."),
        ("XX001", "Unavailable", "The database cannot write, or not be read. Whoever runs it must look at it."),
        ("42703", "NoneType", "None"),
        ("23502", "NoneType", "None"),
    ],
)
def test_an_sqlstate_stands_for_one_refusal(state: str, refusal: str, sentence: str):
    told = explain(psycopg.errors.lookup(state)())
    assert (type(told).__name__, str(told)) == (refusal, sentence)
