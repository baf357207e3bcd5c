"""What has changed since: each change once and in order, whoever writes at the moment, or a refusal that says so.

On PostgreSQL the feed waits for whoever writes in any database of the server, so these tests read until it has told.
"""

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from shutil import copy
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import NullPool, create_engine, text

from app.crud import items, transaction, users
from app.engine import migrations
from app.engine.caller import Caller
from app.engine.history import Change, History
from app.engine.pruning import prune
from app.engine.records import changes
from app.engine.statement import Statement
from app.errors import Gone, Invalid
from app.models import ItemCreate, ItemUpdate
from app.models.base import utcnow
from app.settings import ROOT
from tests import asgi
from tests.conftest import PASSWORD, POSTGRES, Person
from tests.scratch import NoticeCreate, World, awaited, empty_database, environment, notices, world_at
from tests.servers import SERVE, Server, settings_for

ON_POSTGRES = pytest.mark.skipif(not POSTGRES, reason="on SQLite one writes at a time")
FEED = "/items/changes"
past = History(items)


@pytest.fixture
def url(migrated: str, database_url: str, tmp_path: Path) -> str:
    """A file, if it is SQLite: in memory, other processes see nothing of it."""
    if POSTGRES:
        return database_url
    return f"sqlite:///{copy(migrated.removeprefix('sqlite:///'), tmp_path / 'file.db')}"


@pytest.fixture
def world(url: str) -> Iterator[World]:
    with world_at(url) as world:
        yield world


def following(answer: Any) -> str:
    """The address where to go on."""
    link = re.fullmatch(r'</api/v1(.+)>; rel="next"', answer.headers["Link"])
    assert link
    return link[1]


def told(who: Person, path: str, *, count: int = 0) -> tuple[list[tuple[str, str]], str]:
    """What the feed tells of titles, once it is so much; and where it goes on."""
    begun = time.monotonic()
    while len((answer := who.get(path)).json()) < count:
        assert time.monotonic() < begun + 20, answer.json()
        time.sleep(0.02)
    return [(each["action"], each["row"]["title"]) for each in answer.json()], following(answer)


async def all_since(caller: Caller, after: str, *, count: int) -> list[Change]:
    """What came after that, once it is so much."""
    async with asyncio.timeout(20):
        while True:
            found, _ = await past.since(caller, after)
            if len(found) >= count:
                return found
            await asyncio.sleep(0.02)


def ids(found: list[Change]) -> list[int]:
    return [each.row_id for each in found]


# How it is read.


def test_the_feed_tells_in_order_what_came_after_a_position(ann: Person):
    start = following(ann.get(f"{FEED}?after=now"))
    for title in ("one", "two"):
        ann.post("/items", {"title": title})
    ann.patch("/items/1", {"title": "changed"})
    ann.delete("/items/2")
    expected = [("created", "one"), ("created", "two"), ("changed", "changed"), ("deleted", "two")]
    assert told(ann, start, count=4)[0] == expected
    first, rest = told(ann, start.replace("limit=100", "limit=3"), count=3)
    assert first == expected[:3]
    assert told(ann, rest)[0] == expected[3:]
    # Nothing is left, and yet it says where to go on.
    left, end = told(ann, told(ann, rest)[1])
    assert left == []
    ann.post("/items", {"title": "three"})
    assert told(ann, end, count=1)[0] == [("created", "three")]
    assert told(ann, FEED)[0] == [*expected, ("created", "three")]


def test_each_change_says_where_to_go_on_after_it(ann: Person):
    for title in ("one", "two", "three"):
        ann.post("/items", {"title": title})
    told(ann, FEED, count=3)
    positions = [each["position"] for each in ann.get(FEED).json()]
    after = [[each["row"]["title"] for each in ann.get(f"{FEED}?after={at}").json()] for at in positions]
    assert after == [["two", "three"], ["three"], []]


@pytest.mark.parametrize(
    "position", ["", "x", "1", "1-", "-1-1", "1-1-1", "1-1 ", "9" * 30 + "-1", "\u0661-\u0661", "NOW", "1-1\n"]
)
def test_what_is_no_position_is_refused(ann: Person, position: str):
    answers = [ann.get(path, params={"after": position}) for path in (FEED, f"{FEED}/stream")]
    assert [answer.status_code for answer in answers] == [422, 422]


def test_a_position_that_nobody_can_have_been_told_is_gone(ann: Person):
    """As after a backup was put back: what comes now has numbers that the reader has seen already."""
    largest = 2**63 - 1
    answer = ann.get(f"{FEED}?after={largest}-{largest}")
    assert (answer.status_code, answer.headers["content-type"]) == (410, "application/problem+json")
    assert "begin with after=now" in answer.json()["detail"]
    assert ann.get(f"{FEED}?after={2**63}-1").status_code == 422


@awaited
async def test_who_sees_little_of_what_happens_goes_on_behind_it(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("app.engine.history.WINDOW", 2)
    monkeypatch.setattr("app.engine.history.WINDOWS", 2)
    _, position = await past.since(world.bob, "now")
    for number in range(6):
        await items.create(world.ann, ItemCreate(title=str(number)))
    mine = await items.create(world.bob, ItemCreate(title="mine"))
    await all_since(world.root, position, count=4)
    seen, positions = list[Change](), [position]
    async with asyncio.timeout(20):
        while not seen:
            found, position = await past.since(world.bob, position)
            seen += found
            positions += [position] if position != positions[-1] else []
    assert (ids(seen), len(positions)) == ([mine.id], 3)


@pytest.mark.skipif(bool(POSTGRES), reason="PostgreSQL has another plan for a table of a few rows")
@awaited
async def test_a_look_at_the_feed_costs_no_more_when_the_past_is_long(world: World):
    asked = items._statement("since", "user", ()).on(world.db.dialect).sql
    plan = world.db._reader.execute(f"EXPLAIN QUERY PLAN {asked}", [1] * asked.count("?"))
    found, *_ = [row[3] for row in plan if "changes" in row[3]]
    assert "ix_changes_transaction_id_id (transaction_id>? AND transaction_id<?)" in found


# Exactly once.


@ON_POSTGRES
@awaited
async def test_nothing_after_a_transaction_that_is_open_is_told_before_its_end(world: World):
    import psycopg

    _, start = await past.since(world.root, "now")
    with psycopg.connect(world.url) as slow:
        values = (world.ann.id, "slow")
        insert = "INSERT INTO items (owner_id, title, created_at, updated_at, version) VALUES (%s, %s, now(), now(), 1)"
        slow.execute(insert, values)
        quick = [(await items.create(world.ann, ItemCreate(title=str(number)))).id for number in range(3)]
        found, position = await past.since(world.root, start)
        assert found == []
        slow.execute(insert, values)
    found = await all_since(world.root, position, count=5)
    slow_ids = [each.row_id for each in found if each.row["title"] == "slow"]
    assert ids(found) == slow_ids + quick
    assert len({each.position.partition("-")[0] for each in found}) == 4


WRITER = """
import asyncio, random, sys
from app.crud import items, transaction
from app.engine.caller import Caller
from app.engine.database import connect
from app.engine.waiting import retried
from app.models import ItemCreate
from app.security import Identity

async def main(url, owner, name):
    async with connect(url) as database:
        caller = Caller(database, Identity(int(owner), False, 7))

        @retried
        async def write():
            async with transaction(caller) as tx:
                await items.create(tx, ItemCreate(title=name))
                await asyncio.sleep(random.random() * 0.005)
                await items.create(tx, ItemCreate(title=name))

        async def several(times):
            for _ in range(times):
                await write()

        await asyncio.gather(several(20), several(20))

asyncio.run(main(*sys.argv[1:]))
"""


def test_what_several_processes_write_at_once_is_told_once_each_while_they_write(world: World):
    command = [sys.executable, "-c", WRITER, world.url, str(world.ann.id)]
    writers = [subprocess.Popen([*command, name], cwd=ROOT, env=environment()) for name in ("one", "two")]
    seen, position, deadline = list[int](), "", time.monotonic() + 30
    while len(seen) < 160 or any(writer.poll() is None for writer in writers):
        assert time.monotonic() < deadline, (len(seen), [writer.poll() for writer in writers])
        found, position = world.runner.run(past.since(world.root, position, limit=7))
        seen += [each.id for each in found]
    assert [writer.returncode for writer in writers] == [0, 0]
    in_order = changes.select().where(changes.c.entity == "items").order_by(changes.c.transaction_id, changes.c.id)
    assert seen == [row[0] for row in world.runner.run(world.db.run(Statement(in_order, unbounded=True), {}))]
    assert len(seen) == 160


# Who comes too late.


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.engine.pruning.PAUSE", 0.0)


async def forget(world: World) -> int:
    return await prune(world.db, utcnow() + timedelta(seconds=5))


@pytest.mark.usefixtures("at_once")
@awaited
async def test_who_comes_too_late_is_told_so_and_who_does_not_is_not(world: World):
    _, early = await past.since(world.root, "now")
    item = await items.create(world.ann, ItemCreate(title="one"))
    await items.update(world.ann, item.id, ItemUpdate(title="two"))
    await items.delete(world.ann, item.id)
    *_, last = await all_since(world.root, early, count=3)
    await notices.create(world.ann, NoticeCreate(name="the newest of all"))
    assert await forget(world) == 3
    with pytest.raises(Gone):
        await past.since(world.root, early)
    with pytest.raises(Gone):
        await past.since(world.root, (last.position.replace(str(last.id), str(last.id - 1))))
    assert (await past.since(world.root, last.position))[0] == []  # all that went was told
    assert (await History(notices).since(world.root, early))[0][-1].row["name"] == "the newest of all"
    assert (await past.since(world.root))[0] == []  # from the beginning of what is whole


@pytest.mark.usefixtures("at_once")
@awaited
async def test_who_was_within_a_transaction_that_went_meanwhile_is_told_so(world: World):
    _, start = await past.since(world.root, "now")
    made = [await items.create(world.ann, ItemCreate(title=str(number))) for number in range(3)]
    async with transaction(world.ann) as tx:
        for each in made:
            await items.delete(tx, each.id)
    found = await all_since(world.root, start, count=6)
    await notices.create(world.ann, NoticeCreate(name="the newest of all"))
    await forget(world)
    with pytest.raises(Gone):
        await past.since(world.root, found[4].position)
    assert (await past.since(world.root, found[5].position))[0] == []


@pytest.mark.usefixtures("at_once")
@awaited
async def test_what_was_lost_stays_lost_when_something_older_goes_later(world: World):
    _, start = await past.since(world.root, "now")
    kept = await items.create(world.ann, ItemCreate(title="kept"))
    gone = await items.create(world.ann, ItemCreate(title="gone"))
    await items.delete(world.ann, gone.id)
    found = await all_since(world.root, start, count=3)
    await notices.create(world.ann, NoticeCreate(name="the newest of all"))
    assert await forget(world) == 2
    await items.update(world.ann, kept.id, ItemUpdate(title="changed"))
    await asyncio.gather(forget(world), forget(world))  # now the oldest goes, and is not the last that went
    with pytest.raises(Gone):
        await past.since(world.root, found[1].position)
    marks = Statement(changes.select().where(changes.c.entity == "items", changes.c.row_id == 0))
    assert 1 <= len(await world.db.run(marks, {})) <= 2
    assert [each.row["title"] for each in (await past.since(world.root, found[2].position))[0]] == ["changed"]


@awaited
async def test_what_is_no_position_is_invalid_for_whoever_asks(world: World):
    with pytest.raises(Invalid):
        await past.since(world.ann, "1-1; DROP TABLE changes")


# Server-sent events. Here a stream ends when all is told: see conftest.py.


def events(body: str) -> list[tuple[str, str]]:
    """The id of each event that has data, and what it says of a title."""
    found = []
    for event in body.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in event.splitlines() if ": " in line and not line.startswith(":"))
        if "data" in fields:
            title = re.search(r'"title":\s*"([^"]*)"', fields["data"])
            found.append((fields["id"], title[1] if title else ""))
    return found


def test_a_stream_goes_on_after_the_last_event_that_came(ann: Person, client: TestClient):
    for title in ("one", "two", "three"):
        ann.post("/items", {"title": title})
    told(ann, FEED, count=3)
    answer = ann.get(f"{FEED}/stream")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    (first, _), *_ = found = events(answer.text)
    assert [title for _, title in found] == ["one", "two", "three"]
    assert [at for at, _ in found] == [each["position"] for each in ann.get(FEED).json()]
    # What the header says is newer than what stands in the address that a browser opens again.
    headers = {**(ann.headers or {}), "Last-Event-ID": first}
    again = client.get(f"/api/v1{FEED}/stream?after=now", headers=headers)
    assert [title for _, title in events(again.text)] == ["two", "three"]


def test_a_stream_that_has_nothing_to_tell_says_where_it_is(ann: Person):
    answer = ann.get(f"{FEED}/stream?after=now")
    found = re.search(r"^id: (\d+-\d+)$", answer.text, re.MULTILINE)
    assert found
    assert (events(answer.text), "retry: 1000" in answer.text) == ([], True)
    ann.post("/items", {"title": "one"})
    assert told(ann, f"{FEED}?after={found[1]}", count=1)[0] == [("created", "one")]


def test_a_stream_is_refused_before_it_begins(ann: Person, root: Person, client: TestClient):
    root.post(f"/admin/users/{ann.id}/deactivate")
    assert client.get(f"/api/v1{FEED}/stream").status_code == 401
    assert ann.get(f"{FEED}/stream").status_code == 401
    largest = 2**63 - 1
    late = client.get(f"/api/v1{FEED}/stream", headers={**(root.headers or {}), "Last-Event-ID": f"{largest}-1"})
    assert (late.status_code, late.headers["content-type"]) == (410, "application/problem+json")
    wrong = client.get(f"/api/v1{FEED}/stream", headers={**(root.headers or {}), "Last-Event-ID": "yesterday"})
    assert wrong.status_code == 422


def test_a_stream_is_asked_for_by_head_without_waiting(ann: Person, client: TestClient, monkeypatch: Any):
    monkeypatch.setattr("app.extras.changes.LASTS", 300.0)
    fields = [(b"authorization", (ann.headers or {})["Authorization"].encode())]
    answer = asgi.ask(client, "HEAD", f"/api/v1{FEED}/stream", fields)
    assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")


def test_streams_do_not_take_all_the_places_of_requests(ann: Person, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("app.extras.changes.places", asyncio.Semaphore(1))
    assert [ann.get(f"{FEED}/stream").status_code for _ in range(2)] == [200, 200]  # one after the other
    monkeypatch.setattr("app.extras.changes.places", asyncio.Semaphore(0))
    refused = ann.get(f"{FEED}/stream")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "60")
    assert ann.get(FEED).status_code == 200


# The real thing.


class Listener:
    """Somebody who reads a stream, line by line."""

    def __init__(self, http: httpx.Client) -> None:
        self._stream = http.stream("GET", f"{FEED}/stream?after=now", timeout=10)

    def __enter__(self) -> "Listener":
        self.lines = self._stream.__enter__().iter_lines()
        self.read("retry:")
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.__exit__(None, None, None)

    def read(self, beginning: str) -> str:
        return next(line for line in self.lines if line.startswith(beginning))

    def ends(self) -> bool:
        """Waits for it; whether nothing was told before. Raises RemoteProtocolError if it was cut off."""
        return not any(line.startswith("data:") for line in self.lines)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[Server]]:
    """Two on one database. Ann is logged in at the first, and root at the second."""
    with ExitStack() as stack:
        url = stack.enter_context(empty_database(tmp_path, "feed"))
        migrations.upgrade(url)
        started = [Server(tmp_path, settings_for(url), SERVE) for _ in range(2)]
        for server, name in zip(started, ("ann", "root"), strict=True):
            stack.callback(server.close)
            body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
            assert server.is_up().http.post("/users", json=body).status_code == 201
        engine = create_engine(url, poolclass=NullPool)
        with engine.begin() as connection:
            connection.execute(text("UPDATE users SET is_superuser = true WHERE username = 'root'"))
        for server, name in zip(started, ("ann", "root"), strict=True):
            assert server.log_in(name).status_code == 200
        yield started


def test_a_stream_tells_what_another_process_writes_and_ends_with_its_readers_right_or_its_server(
    servers: list[Server],
):
    (ann, root), one = (server.http for server in servers), servers[0]
    with Listener(ann) as listener:
        made = root.post("/users/1/items", json={"title": "from elsewhere"})
        assert made.status_code == 201
        assert '"from elsewhere"' in listener.read("data:")
        assert root.post("/admin/users/1/deactivate").status_code == 200
        assert listener.ends()
    ann.headers["Authorization"] = root.headers["Authorization"]
    with Listener(ann) as listener:
        begun = time.monotonic()
        one.process.terminate()
        assert listener.ends()
        assert one.process.wait(10) == 0
        assert time.monotonic() - begun < 3
    assert "Traceback" not in one.said


@awaited
async def test_what_the_feed_tells_of_users_holds_no_secret(world: World):
    await users.update(world.application, world.ann.id, hashed_password="hidden", security_stamp=99)
    found, _ = await History(users).since(world.root)
    assert {name for each in found for name in each.row} & {"hashed_password", "security_stamp"} == set()
