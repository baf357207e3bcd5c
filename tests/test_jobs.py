"""What is queued is done once: in the transaction that ends it, or handed over; whichever process does it, or dies."""

import asyncio
import logging
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import JsonValue

from app import job_commands
from app.crud import items, transaction
from app.engine import jobs, migrations, working
from app.engine.caller import Caller
from app.engine.database import connect
from app.engine.jobs import GiveUp, Lost, Queued, Retry, Work, enqueue, job, registered
from app.engine.sessions import create_session_engine
from app.engine.statement import Row, Statement, Values
from app.engine.working import Worker, work_off
from app.errors import CannotStart, Clash, Missing, Unavailable
from app.models import ItemCreate
from app.models.base import utcnow
from app.settings import ROOT, Settings
from tests.conftest import POSTGRES
from tests.scratch import World, awaited, empty_database, environment, world_at
from tests.servers import settings_for, sql

SECRET = "hailhydra"
LATER = timedelta(hours=2)


@pytest.fixture(autouse=True)
def kinds() -> Iterator[None]:
    """Only those that a test registers, for as long as it lasts."""
    before = dict(registered)
    registered.clear()
    yield
    registered.clear()
    registered.update(before)


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with world_at(database_url) as world:
        yield world


def register_note(world: World, **options: int) -> None:
    """A job that leaves an item with the title that it is given."""

    @job("note", **options)
    async def note(work: Work) -> None:
        await items.create(work.caller, ItemCreate(title=work.payload["title"]), owner_id=world.ann.id)
        if error := work.payload.get("then"):
            raise {"retry": Retry("Not yet."), "give up": GiveUp("Never."), "break": ValueError(SECRET)}[error]


def register_call(*outcomes: BaseException | None, **options: int) -> list[int]:
    """A job that calls somebody: in which attempts it did. Each attempt ends as `outcomes` say."""
    called, left = list[int](), list(outcomes)

    @job("call", outside=True, **options)
    async def call(work: Work) -> None:
        await work.hand_over()
        called.append(work.attempt)
        if left and (outcome := left.pop(0)):
            raise outcome

    return called


async def titles(world: World) -> list[str]:
    return [item.title for item in await items.page(world.application, sort="id")]


async def queued(world: World) -> list[Queued]:
    return (await jobs.list_jobs(world.db))[0]


async def only_one(world: World) -> Queued:
    (one,) = await queued(world)
    return one


# Queued.


@awaited
async def test_a_job_is_there_when_and_only_when_what_caused_it_is(world: World):
    register_note(world)
    with suppress(Missing):
        async with transaction(world.ann) as tx:
            await enqueue(tx, "note", {"title": "undone"})
            await items.get(tx, 77)
    async with transaction(world.ann) as tx:
        await items.create(tx, ItemCreate(title="cause"))
        await enqueue(tx, "note", {"title": "effect"})
    assert (await work_off(world.application), await titles(world)) == (1, ["cause", "effect"])


@awaited
async def test_a_job_is_given_what_was_queued_digit_by_digit(world: World):
    payload = {"text": "Grüße", "numbers": [1, -2.5, 2**60], "deep": {"nothing": None, "yes": True}}
    given = []

    @job("look")
    async def look(work: Work) -> None:
        given.append((work.id, work.payload, work.attempt, work.caller.role))

    number = await enqueue(world.application, "look", payload)
    await work_off(world.application)
    assert given == [(number, payload, 1, "application")]


@awaited
async def test_a_job_waits_for_its_time(world: World):
    register_note(world)
    await enqueue(world.application, "note", {"title": "one"}, after=timedelta(minutes=5))
    assert await work_off(world.application) == 0
    assert await work_off(world.application, now=utcnow() + timedelta(minutes=4)) == 0
    assert await work_off(world.application, now=utcnow() + timedelta(minutes=6)) == 1


@awaited
async def test_what_nobody_could_ever_do_cannot_be_queued(world: World):
    register_note(world)
    with pytest.raises(LookupError, match="There is no job of the kind nota: register its handler with @job"):
        await enqueue(world.application, "nota", {})
    with pytest.raises(ValueError, match="There is a job of the kind note already"):
        register_note(world)


@awaited
async def test_a_worker_leaves_the_kinds_it_does_not_know_to_others(world: World):
    register_note(world)
    await enqueue(world.application, "note", {"title": "of a newer version"})
    newer = registered.pop("note")
    called = register_call()
    await enqueue(world.application, "call", {})
    assert (await work_off(world.application), called) == (1, [1])
    registered["note"] = newer
    assert (await only_one(world)).attempts == 0
    assert (await work_off(world.application), await titles(world)) == (1, ["of a newer version"])


# Done, once.


@awaited
async def test_what_a_job_writes_is_there_with_its_end_or_not_at_all(world: World):
    register_note(world)
    await enqueue(world.application, "note", {"title": "kept"})
    await enqueue(world.application, "note", {"title": "undone", "then": "retry"})
    assert (await work_off(world.application), await titles(world)) == (2, ["kept"])
    waiting = await only_one(world)
    assert (waiting.id, waiting.attempts, waiting.error, waiting.lease) == (2, 1, "Not yet.", None)


@awaited
async def test_who_was_away_for_too_long_has_lost_the_job(world: World):
    """Neither its end nor anything that it wrote is kept: another worker has the job by now, or has done it."""
    register_note(world)
    called = register_call()
    await enqueue(world.application, "note", {"title": "one"})
    await enqueue(world.application, "call", {})
    slow, quick = Worker(world.application), Worker(world.application, lambda: utcnow() + LATER)
    lost = [await slow.take(), await slow.take()]
    taken = [await quick.take(), await quick.take()]
    for work in (*lost, *taken):
        assert work is not None
        await quick.do(work)
    assert (await titles(world), called, await queued(world)) == (["one"], [2], [])
    with pytest.raises(Lost):
        await taken[1].hand_over()  # type: ignore[union-attr]


@awaited
async def test_of_many_workers_one_has_a_job_at_a_time(world: World):
    register_note(world)
    await enqueue(world.application, "note", {"title": "one"})
    taken = await asyncio.gather(*(Worker(world.application).take() for _ in range(8)))
    assert sum(work is not None for work in taken) == 1


@pytest.mark.skipif(not POSTGRES, reason="on SQLite one writes at a time")
@awaited
async def test_nobody_takes_a_job_while_the_transaction_is_open_that_ends_it(world: World):
    begun, may_end = asyncio.Event(), asyncio.Event()

    @job("slow")
    async def slow(work: Work) -> None:
        begun.set()
        await may_end.wait()

    await enqueue(world.application, "slow", {})
    worker = Worker(world.application)
    under_way = asyncio.create_task(worker.do(await worker.take()))  # type: ignore[arg-type]
    await begun.wait()
    assert await work_off(world.application, now=utcnow() + LATER) == 0
    may_end.set()
    await under_way
    assert await queued(world) == []


@pytest.mark.parametrize("outcome", [ValueError(SECRET), Clash("Taken."), None], ids=["defect", "refusal", "crash"])
@pytest.mark.parametrize("outside", [True, False], ids=["outside", "within"])
def test_only_what_was_handed_over_is_never_done_again(world: World, outside: bool, outcome: Exception | None):
    """By itself. A person may look whether it was done, and then try it again."""
    called = []

    async def call(work: Work) -> None:
        if outside:
            await work.hand_over()
        called.append(work.attempt)
        if outcome:
            raise outcome
        if len(called) == 1:
            raise asyncio.CancelledError  # nothing else of this worker runs

    async def attempts() -> None:
        job("call", outside=outside)(call)
        number = await enqueue(world.application, "call", {"text": SECRET})
        worker = Worker(world.application)
        work = await worker.take()
        with suppress(asyncio.CancelledError):
            await worker.do(work)  # type: ignore[arg-type]
        done = await work_off(world.application, now=utcnow() + timedelta(seconds=100))
        if not outside:
            assert (done, called[:2]) == (len(called) - 1, [1, 2])
            return
        dead = await only_one(world)
        assert (called, dead.due_at, dead.attempts) == ([1], None, 1)
        assert dead.handed_over_at is not None
        crash = "Its process ended in the middle of it: perhaps it was done."
        assert dead.error == (crash if not outcome else "Taken." if isinstance(outcome, Clash) else "ValueError")
        await jobs.retry(world.db, number)
        assert (await work_off(world.application), called) == (1, [1, 1])

    world.runner.run(attempts())


@awaited
async def test_a_job_that_writes_only_here_hands_nothing_over(world: World):
    @job("note")
    async def note(work: Work) -> None:
        await work.hand_over()

    await enqueue(world.application, "note", {})
    await work_off(world.application)
    assert (await only_one(world)).error == "TypeError"


# Failed.


@awaited
async def test_what_fails_comes_again_later_and_later_and_is_dead_in_the_end(
    world: World, caplog: pytest.LogCaptureFixture
):
    register_note(world, attempts=4)
    number = await enqueue(world.application, "note", {"title": "one", "text": SECRET, "then": "break"})
    for attempt, most in enumerate((5, 20, 80), 1):
        now = (await only_one(world)).due_at
        assert await work_off(world.application, now=now) == 1
        waiting = await only_one(world)
        assert now is not None
        assert waiting.due_at is not None
        assert (waiting.attempts, waiting.error) == (attempt, "ValueError")
        assert most / 2 <= (waiting.due_at - now).total_seconds() <= most
    assert await work_off(world.application, now=utcnow() + LATER) == 1
    dead = await only_one(world)
    assert (dead.due_at, dead.attempts, dead.error, dead.handed_over_at) == (None, 4, "ValueError", None)
    assert (await work_off(world.application, now=utcnow() + 100 * LATER), await titles(world)) == (0, [])
    levels = Counter(record.levelname for record in caplog.records if record.name == "app")
    assert levels == {"WARNING": 3, "ERROR": 1}
    assert f"Job {number} (note) is dead: ValueError" in caplog.text
    assert "in note" in caplog.text  # where the defect is
    assert SECRET not in caplog.text


@awaited
async def test_a_handler_may_know_better_when_to_try_again_or_that_there_is_no_sense_in_it(world: World):
    called = register_call(Retry("Closed.", after=timedelta(minutes=30)), Retry("Busy."), GiveUp("No such number."))
    await enqueue(world.application, "call", {})
    assert await work_off(world.application) == 1
    waiting = await only_one(world)
    assert (waiting.error, waiting.handed_over_at, waiting.attempts) == ("Closed.", None, 1)
    assert await work_off(world.application, now=utcnow() + timedelta(minutes=29)) == 0
    assert await work_off(world.application, now=utcnow() + timedelta(minutes=31)) == 1
    assert await work_off(world.application, now=utcnow() + LATER) == 1
    dead = await only_one(world)
    assert (dead.error, dead.due_at, dead.handed_over_at, called) == ("No such number.", None, None, [1, 2, 3])


@awaited
async def test_a_job_that_takes_its_process_along_each_time_is_dead_in_the_end(world: World):
    register_note(world, attempts=2)
    await enqueue(world.application, "note", {"title": "one"})
    for days in (1, 2):  # taken, and nothing was heard of it
        await Worker(world.application, lambda days=days: utcnow() + timedelta(days=days)).take()
    assert await work_off(world.application, now=utcnow() + timedelta(days=3)) == 1
    dead = await only_one(world)
    assert (dead.attempts, dead.error, dead.due_at) == (2, "Its process ended in the middle of it, each time.", None)
    assert await titles(world) == []


@pytest.mark.parametrize("outside", [True, False], ids=["outside", "within"])
def test_a_handler_has_its_time_and_no_more(world: World, outside: bool):
    async def attempt() -> None:
        @job("endless", limit=0.05, outside=outside)
        async def endless(work: Work) -> None:
            await asyncio.sleep(20)

        await enqueue(world.application, "endless", {})
        assert await work_off(world.application) == 1
        waiting = await only_one(world)
        told = "TimeoutError" if outside else "That took too long, and nothing of it was kept."
        assert (waiting.error, waiting.attempts, waiting.due_at is None) == (told, 1, False)

    world.runner.run(attempt())


class Weak:
    """A database that is away for the first so many times that it is asked for `statement`."""

    def __init__(self, db: Any, statement: Statement, times: int) -> None:
        self._db, self._statement, self.times, self.dialect = db, statement, times, db.dialect

    async def run(self, statement: Statement, values: Values) -> list[Row]:
        if statement is self._statement and self.times:
            self.times -= 1
            raise Unavailable
        rows: list[Row] = await self._db.run(statement, values)
        return rows


@pytest.mark.parametrize("times", [3, 9], ids=["for a moment", "for long"])
def test_what_became_of_a_job_is_said_again_if_the_database_is_away_and_the_job_is_not_done_again(
    world: World, times: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(working, "PAUSES", (0.001,) * 4)
    called = register_call()

    async def work() -> None:
        await enqueue(world.application, "call", {})
        assert await work_off(Caller(Weak(world.db, jobs.DONE, times))) == 1
        for _ in range(2):
            await work_off(world.application, now=utcnow() + LATER)
        assert called == [1]
        if times < 4:
            assert (await queued(world), caplog.records) == ([], [])
        else:
            assert (await only_one(world)).due_at is None
            assert "Nobody could be told what became of job 1 (call)" in caplog.text

    world.runner.run(work())


# In the server.


def until(condition: Callable[[], bool]) -> float:
    """Seconds until it is so."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + 20
        time.sleep(0.005)
    return time.monotonic() - began


def enqueue_in(client: TestClient, kind: str, *, open_for: float = 0) -> None:
    """Queued where the app runs, in a transaction that is open for so many seconds longer."""

    async def work() -> None:
        async with transaction(Caller(client.app.state.database)) as tx:  # type: ignore[attr-defined]
            await enqueue(tx, kind, {})
            await asyncio.sleep(open_for)

    client.portal.call(work)  # type: ignore[union-attr]


def test_the_server_does_at_once_what_is_queued_in_it(
    start: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(working, "SOON", 0.1)
    called = register_call()
    client = start()
    time.sleep(0.75)  # it has looked after 0, 0.1, 0.3 and 0.7 seconds, and would look again after 1.5
    enqueue_in(client, "call", open_for=0.1)
    assert until(lambda: called == [1]) < 0.5


@pytest.mark.parametrize("setting", [{"jobs_in_server": False}, {"read_only": True}], ids=["jobs", "read-only"])
def test_a_server_does_no_jobs_if_it_shall_not(start: Callable[..., TestClient], setting: dict[str, bool]):
    called = register_call()
    enqueue_in(start(**setting), "call")
    time.sleep(0.2)
    assert called == []


def test_a_job_that_waits_for_somebody_holds_up_no_other(start: Callable[..., TestClient]):
    called, may_end = register_call(), asyncio.Event()

    @job("slow", outside=True)
    async def slow(work: Work) -> None:
        await may_end.wait()

    client = start()
    for _ in range(working.LANES - 1):
        enqueue_in(client, "slow")
    enqueue_in(client, "call")
    until(lambda: called == [1])
    client.portal.call(may_end.set)  # type: ignore[union-attr]


@awaited
async def test_who_stops_ends_what_is_quick_gives_back_the_rest_and_says_what_was_perhaps_done(world: World):
    ended = []

    async def attempt(work: Work) -> None:
        if work.job.kind == "handed over":
            await work.hand_over()
        await asyncio.sleep(0.1 if work.job.kind == "quick" else 20)
        ended.append(work.job.kind)

    for kind in ("quick", "slow", "handed over"):
        job(kind, outside=True)(attempt)
        await enqueue(world.application, kind, {})
    async with working.working(world.application, grace=0.5):
        await asyncio.sleep(0.05)
        began = time.monotonic()
    assert (ended, time.monotonic() - began < 2) == (["quick"], True)
    slow, handed_over = await queued(world)
    assert (slow.kind, slow.attempts, slow.lease) == ("slow", 0, None)
    assert (slow.due_at or utcnow()) < utcnow()
    assert (handed_over.due_at, handed_over.attempts) == (None, 1)
    assert [job.error for job in (slow, handed_over)] == ["Stopped in the middle of it."] * 2


@awaited
async def test_a_worker_outlives_whatever_is_wrong_with_the_database_and_says_it_once(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(working, "LATER", 0.05)
    caplog.set_level(logging.INFO)
    called = asyncio.Event()

    @job("call")
    async def call(work: Work) -> None:
        called.set()

    engine = create_session_engine(world.url)
    sql(engine, "ALTER TABLE jobs RENAME TO away")
    async with working.working(world.application):
        await asyncio.sleep(0.3)
        sql(engine, "ALTER TABLE away RENAME TO jobs")
        await enqueue(world.application, "call", {})
        await called.wait()
    engine.dispose()
    said = [record.getMessage().partition(":")[0] for record in caplog.records if record.name == "app"]
    assert said == ["Jobs wait", "Jobs are worked on again"]


# Processes.

PROCESS = """
import asyncio, os, sys
from app.cli import main
from app.crud import items
from app.engine import working
from app.engine.jobs import job
from app.models import ItemCreate

working.LATER = 0.02  # so that both are there when there is something to do

@job("note")
async def note(work):
    item = ItemCreate(title=str(work.payload["n"]), description=str(os.getpid()))
    await items.create(work.caller, item, owner_id=1)
    if work.payload["n"] < 0:
        print("noted", flush=True)
        await asyncio.sleep(8)

@job("call", outside=True)
async def call(work):
    await work.hand_over()
    print("called", flush=True)
    await asyncio.sleep(work.payload["takes"])
    print("ended", flush=True)

sys.argv[1:] = ["worker"]
main()
"""


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[World]:
    """A database that several processes can work on."""
    with empty_database(tmp_path, "jobs") as url:
        migrations.upgrade(url)
        with world_at(url) as world:
            yield world


@pytest.fixture
def process(apart: World) -> Iterator[Callable[[], "subprocess.Popen[str]"]]:
    """Start a worker in a process of its own."""
    running = []

    def start() -> "subprocess.Popen[str]":
        command, given = [sys.executable, "-c", PROCESS], environment(**settings_for(apart.url))
        running.append(subprocess.Popen(command, cwd=ROOT, env=given, stdout=subprocess.PIPE, text=True))
        return running[-1]

    yield start
    for each in running:
        each.kill()
        each.communicate()


def hear(worker: "subprocess.Popen[str]", word: str) -> None:
    """Read what it says until it says that."""
    assert worker.stdout is not None
    assert any(word in line for line in worker.stdout)


def queue(world: World, kind: str, *payloads: dict[str, JsonValue]) -> None:
    async def work() -> None:
        async with transaction(world.application) as tx:
            for payload in payloads:
                await enqueue(tx, kind, payload)

    world.runner.run(work())


def test_of_two_processes_each_job_is_done_once_and_at_the_end_what_is_under_way_too(
    apart: World, process: Callable[[], "subprocess.Popen[str]"]
):
    register_note(apart)
    register_call()
    workers = [process(), process()]
    for worker in workers:
        hear(worker, "Doing jobs")
    engine, done, by = create_session_engine(apart.url), 0, set[str]()
    while done < 200 or len(by) < 2:  # until both have done some
        assert done < 2000
        queue(apart, "note", *({"n": n} for n in range(done, done + 100)))
        done += 100
        until(lambda: apart.runner.run(queued(apart)) == [])
        by = {pid for (pid,) in sql(engine, "SELECT DISTINCT description FROM items")}
    assert sorted(int(title) for (title,) in sql(engine, "SELECT title FROM items")) == list(range(done))
    assert by == {str(worker.pid) for worker in workers}
    engine.dispose()
    queue(apart, "call", {"takes": 0.5})
    until(lambda: any(job.handed_over_at for job in apart.runner.run(queued(apart))))
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
    said = "".join(worker.communicate(timeout=20)[0] for worker in workers)
    assert [worker.returncode for worker in workers] == [0, 0]
    assert [said.count(word) for word in ("called", "ended", '"Stopped"')] == [1, 1, 2]
    assert apart.runner.run(queued(apart)) == []


def test_after_a_kill_what_a_job_wrote_is_there_once_and_what_was_handed_over_is_not_done_again(
    apart: World, process: Callable[[], "subprocess.Popen[str]"]
):
    register_note(apart)
    called = register_call()
    worker = process()
    queue(apart, "call", {"takes": 20})
    hear(worker, "called")
    queue(apart, "note", {"n": -1, "title": "by another"})
    hear(worker, "noted")
    worker.kill()
    worker.wait(10)
    if POSTGRES:  # notices in a moment that nobody is there any more
        time.sleep(0.2)
    assert apart.runner.run(work_off(apart.application)) == 0  # nobody knows yet
    assert apart.runner.run(work_off(apart.application, now=utcnow() + LATER)) == 2
    assert apart.runner.run(titles(apart)) == ["by another"]
    dead = apart.runner.run(only_one(apart))
    assert (dead.kind, dead.due_at, called) == ("call", None, [])
    assert dead.error == "Its process ended in the middle of it: perhaps it was done."


@pytest.mark.skipif(bool(POSTGRES), reason="about SQLite's one writer")
def test_others_write_while_a_job_reaches_outside_and_a_look_at_an_empty_queue_waits_for_no_writer(apart: World):
    async def work() -> None:
        async with connect(apart.url) as another:

            @job("call", outside=True)
            async def call(work: Work) -> None:
                await work.hand_over()
                await items.create(Caller(another), ItemCreate(title="one"), owner_id=apart.ann.id)

            await enqueue(apart.application, "call", {})
            assert (await work_off(apart.application), await titles(apart)) == (1, ["one"])
            async with transaction(Caller(another)):
                assert await work_off(apart.application) == 0  # it would be Unavailable

    apart.runner.run(work())


# Commands.


def test_the_command_shows_what_is_queued_and_tries_again_or_forgets_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(job_commands, "get_settings", lambda: settings)

    def shown(**asked: int) -> list[str]:
        capsys.readouterr()
        job_commands.show_jobs(**asked)
        return [re.sub(r"\d+ s ago", "now", " ".join(line.split())) for line in capsys.readouterr().out.splitlines()]

    with world_at(settings.database_url) as world:
        assert shown() == ["No jobs are queued."]
        register_note(world)
        called = register_call(GiveUp("No such number."), ValueError(SECRET))
        queue(world, "call", {"text": SECRET}, {"text": SECRET})
        assert world.runner.run(work_off(world.application)) == 2
        queue(world, "note", {"title": "one"}, {"title": "two"})
        assert world.runner.run(Worker(world.application).take()) is not None
        assert shown() == [
            "4 note due attempts: 0 queued now",
            "3 note under way attempts: 1 queued now",
            "1 call dead attempts: 1 queued now No such number.",
            "2 call dead, perhaps done attempts: 1 queued now ValueError",
        ]
        assert (shown(drop=1), shown(retry=2)) == (["Job 1 is forgotten."], ["Job 2 is due now."])
        for asked in ({"drop": 3}, {"retry": 3}, {"retry": 77}):
            with pytest.raises(CannotStart, match="or it is under way"):
                shown(**asked)
        assert world.runner.run(work_off(world.application)) == 2
        assert called == [1, 1, 1]
        assert [job.id for job in world.runner.run(queued(world))] == [3]


@pytest.mark.once
@pytest.mark.parametrize(
    ("job", "line"),
    [
        ({"due_at": -1}, "7 note due attempts: 0 queued 2 d ago"),
        ({"due_at": 90, "attempts": 2, "error": "Busy."}, "7 note due in 1 min attempts: 2 queued 2 d ago Busy."),
        ({"due_at": 90, "attempts": 1, "lease": 5}, "7 note under way attempts: 1 queued 2 d ago"),
    ],
    ids=["due", "later", "under way"],
)
def test_a_line_tells_what_a_job_waits_for(job: dict[str, Any], line: str):
    now = utcnow()
    given = {"due_at": None, "attempts": 0, "lease": None, "handed_over_at": None, "error": None, **job}
    given["due_at"] = now + timedelta(seconds=given["due_at"])
    shown = job_commands.told(Queued(id=7, kind="note", created_at=now - timedelta(hours=50), **given), now)
    assert " ".join(shown.split()) == line


@pytest.mark.once
def test_a_worker_that_would_have_nothing_to_do_says_so(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(job_commands, "get_settings", lambda: settings.model_copy(update={"read_only": True}))
    with pytest.raises(CannotStart, match="READ_ONLY is set"):
        job_commands.worker()
    monkeypatch.setattr(job_commands, "get_settings", lambda: settings)
    with pytest.raises(CannotStart, match="There are no jobs to do"):
        job_commands.worker()
