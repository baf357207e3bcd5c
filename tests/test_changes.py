"""What has changed since: in order, once, to whom it may be told, asked now and then or as it happens."""

import asyncio
import json
import queue
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import NullPool, create_engine, func, select, text

from app.crud import items
from app.engine import history, migrations, pruning, recording
from app.engine.recording import settled
from app.engine.records import changes
from app.models.base import utcnow
from app.settings import Settings
from tests import asgi
from tests.conftest import PASSWORD, POSTGRES, Person, sign_up
from tests.kinds import all_tables, app_with_all
from tests.servers import RUN, Server, servers_on_one_database

ON_POSTGRES = pytest.mark.skipif(not POSTGRES, reason="about PostgreSQL")
Told = list[tuple[str, str]]


def ask(person: Person, address: str) -> Any:
    """What is answered once every transaction that has ended may be told: those of other databases hold it up too."""
    if POSTGRES:
        for _ in range(1000):
            with person.client.app.state.session_engine.begin() as connection:  # type: ignore[attr-defined]
                if connection.execute(select(func.count()).where(~settled(changes.c.transaction_id))).scalar() == 0:
                    break
            time.sleep(0.01)
    return person.get(address)


def told(answer: Any) -> Told:
    """What happened to which item."""
    assert answer.status_code == 200, answer.text
    return [(change["action"], change["row"]["title"]) for change in answer.json()]


def onward(answer: Any) -> str:
    """Where `Link` says to go on."""
    assert answer.status_code == 200, answer.text
    assert answer.links["next"]["url"].startswith("/api/v1/")
    return str(answer.links["next"]["url"]).removeprefix("/api/v1")


def position(answer: Any) -> str:
    return onward(answer).partition("after=")[2].partition("&")[0]


def read_all(person: Person, address: str) -> tuple[Told, str]:
    """What is told from there on until nothing more comes, and where it goes on."""
    found: Told = []
    while page := told(answer := ask(person, address)):
        found += page
        address = onward(answer)
    return found, onward(answer)


def create(person: Person, *titles: str) -> list[int]:
    return [person.post("/items", {"title": title}).json()["id"] for title in titles]


def forget(client: TestClient) -> int:
    """What is older than this moment, as the sweeper does it."""
    assert client.portal is not None
    return client.portal.call(pruning.prune, client.app.state.database, utcnow())  # type: ignore[attr-defined]


# In order, from a position on.


def test_changes_come_oldest_first_and_say_what_the_row_became(ann: Person):
    first, second = create(ann, "one", "two")
    ann.patch(f"/items/{first}", {"title": "uno"})
    ann.delete(f"/items/{second}")

    answer = ask(ann, "/items/changes")

    assert told(answer) == [("created", "one"), ("created", "two"), ("changed", "uno"), ("deleted", "two")]
    assert [change["row_id"] for change in answer.json()] == [first, second, first, second]
    assert answer.json()[2]["row"] == ann.get(f"/items/{first}").json()
    assert {(change["entity"], change["user_id"]) for change in answer.json()} == {("items", ann.id)}


def test_after_a_position_comes_what_came_to_pass_after_it(ann: Person):
    create(ann, "one", "two", "three")
    found = ask(ann, "/items/changes").json()

    told_after = [told(ask(ann, f"/items/changes?after={change['position']}")) for change in found]

    assert told_after == [[("created", "two"), ("created", "three")], [("created", "three")], []]


def test_after_now_comes_only_what_is_still_to_come(ann: Person):
    create(ann, "one")

    answer = ask(ann, "/items/changes?after=now")
    create(ann, "two")

    assert told(answer) == []
    assert told(ask(ann, onward(answer))) == [("created", "two")]


def test_a_limit_is_kept_and_link_goes_on_behind_it(ann: Person):
    create(ann, "one", "two", "three", "four", "five")

    first = ask(ann, "/items/changes?limit=2")
    second = ask(ann, onward(first))
    third = ask(ann, onward(second))

    assert told(first) == [("created", "one"), ("created", "two")]
    assert told(second) == [("created", "three"), ("created", "four")]
    assert told(third) == [("created", "five")]
    assert onward(first).endswith("&limit=2")


def test_what_one_transaction_changed_may_be_read_in_parts(ann: Person):
    ann.post("/items/bulk", [{"title": "one"}, {"title": "two"}, {"title": "three"}])

    first = ask(ann, "/items/changes?limit=2")

    assert told(first) == [("created", "one"), ("created", "two")]
    assert told(ask(ann, onward(first))) == [("created", "three")]


def test_link_says_where_to_go_on_when_all_is_told(ann: Person):
    create(ann, "one")
    end = onward(ask(ann, "/items/changes"))

    again = onward(ask(ann, end))
    create(ann, "two")

    assert again == end
    assert told(ask(ann, end)) == [("created", "two")]


def test_link_goes_on_behind_what_is_others(ann: Person, bob: Person):
    create(ann, "one")
    before = position(ask(ann, "/items/changes"))
    create(bob, "his", "too")

    answer = ask(ann, f"/items/changes?after={before}")

    assert told(answer) == []
    assert position(answer) == ask(bob, "/items/changes").json()[-1]["position"]


def test_however_many_changes_of_others_are_between_none_of_ones_own_is_missed(
    ann: Person, bob: Person, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(history, "WINDOW", 2)
    monkeypatch.setattr(history, "WINDOWS", 2)
    start = onward(ask(ann, "/items/changes?after=now"))
    create(bob, *"abcdefghi")
    create(ann, "one")
    create(bob, "j")

    answers = [ask(ann, start)]
    for _ in range(3):
        answers.append(ask(ann, onward(answers[-1])))

    # Four are looked at for each answer.
    assert [told(answer) for answer in answers] == [[], [], [("created", "one")], []]
    create(ann, "two")
    assert told(ask(ann, onward(answers[-1]))) == [("created", "two")]


@pytest.mark.parametrize(
    "asked",
    [
        *("after=", "after=1", "after=1-", "after=-1-2", "after=1-2-3", "after=then", "after=1-2%0A", "after=NOW"),
        *("after=9223372036854775808-0", "after=0-9999999999999999999", "after=12345678901234567890-1"),
        *("after=%D9%A3-%D9%A3", "after=1-2%00", "limit=0", "limit=101", "limit=-1", "limit=many"),
    ],
)
def test_what_is_no_position_or_no_limit_is_refused(ann: Person, asked: str):
    answers = [ask(ann, f"/items/changes?{asked}")]
    if asked.startswith("after"):
        answers.append(ask(ann, f"/items/changes/stream?{asked}"))

    assert {(answer.status_code, answer.headers["content-type"]) for answer in answers} == {
        (422, "application/problem+json")
    }


# To whom it may be told.


@pytest.mark.skipif(bool(POSTGRES), reason="PostgreSQL has another plan for a few rows than for many")
def test_a_look_costs_no_more_when_the_past_is_long(client: TestClient):
    reader = client.app.state.database._reader  # type: ignore[attr-defined]
    asked = items._statement("since", "user", ()).on(client.app.state.database.dialect).sql  # type: ignore[attr-defined]
    plan = reader.sqlite.execute(f"EXPLAIN QUERY PLAN {asked}", [1] * asked.count("?")).fetchall()
    assert any("ix_changes_transaction_id_id (transaction_id>? AND transaction_id<?)" in row[3] for row in plan), plan


def test_only_what_its_reader_may_see_is_told(ann: Person, bob: Person, root: Person):
    create(ann, "anns")
    create(bob, "bobs")

    assert told(ask(ann, "/items/changes")) == [("created", "anns")]
    assert told(ask(bob, "/items/changes")) == [("created", "bobs")]
    assert told(ask(root, "/items/changes")) == [("created", "anns"), ("created", "bobs")]


def test_a_row_that_changes_its_owner_is_told_by_whose_it_was_then(
    client: TestClient, ann: Person, bob: Person, root: Person
):
    (item,) = create(ann, "anns")
    change_in_sql(client, f"UPDATE items SET owner_id = {bob.id}, title = 'bobs' WHERE id = {item}")
    bob.delete(f"/items/{item}")

    assert told(ask(ann, "/items/changes")) == [("created", "anns")]
    assert told(ask(bob, "/items/changes")) == [("changed", "bobs"), ("deleted", "bobs")]
    assert told(ask(root, "/items/changes")) == [("created", "anns"), ("changed", "bobs"), ("deleted", "bobs")]


def change_in_sql(client: TestClient, statement: str) -> None:
    with client.app.state.session_engine.begin() as connection:  # type: ignore[attr-defined]
        connection.execute(text(statement))


@pytest.fixture
def everything(start: Callable[..., TestClient], settings: Settings, database_url: str) -> Iterator[TestClient]:
    """The app with entities of every kind."""
    with all_tables(database_url):
        yield start(app_with_all(settings))


def test_what_is_everyones_is_told_to_everyone(everything: TestClient):
    ann, bob = sign_up(everything, "ann"), sign_up(everything, "bob")
    company = ann.post("/scratch_companies", {"name": "Acme"}).json()
    bob.delete(f"/scratch_companies/{company['id']}")

    for reader in (ann, bob):
        found = ask(reader, "/scratch_companies/changes").json()
        assert [(change["action"], change["user_id"]) for change in found] == [("created", ann.id), ("deleted", bob.id)]


def test_what_is_for_superusers_is_told_to_them_alone(everything: TestClient):
    ann, root = sign_up(everything, "ann"), sign_up(everything, "root", is_superuser=True)
    root.post("/scratch_verdicts", {"words": "Go on", "low": 1, "high": 2})

    assert [change["row"]["words"] for change in ask(root, "/scratch_verdicts/changes").json()] == ["Go on"]
    assert [ask(ann, f"/scratch_verdicts/changes{path}").status_code for path in ("", "/stream")] == [403, 403]


def test_what_is_a_teams_is_told_to_its_members(everything: TestClient):
    ann, bob, root = (
        sign_up(everything, "ann"),
        sign_up(everything, "bob"),
        sign_up(everything, "root", is_superuser=True),
    )
    team = ann.post("/scratch_teams", {"name": "Blue"}).json()["id"]
    start = onward(ask(bob, "/scratch_teams/changes"))
    ann.patch(f"/scratch_teams/{team}", {"name": "Red"})
    before = ask(bob, start).json()
    root.post("/scratch_memberships", {"team_id": team, "user_id": bob.id})

    assert before == []
    for reader in (ann, bob, root):
        found = ask(reader, "/scratch_teams/changes").json()
        assert [(change["action"], change["row"]["name"]) for change in found] == [
            ("created", "Blue"),
            ("changed", "Red"),
        ]


def test_a_feed_tells_of_its_own_entity_only(everything: TestClient):
    ann = sign_up(everything, "ann")
    create(ann, "one")
    ann.post("/scratch_companies", {"name": "Acme"})

    assert told(ask(ann, "/items/changes")) == [("created", "one")]


# What is forgotten.


def test_who_comes_too_late_is_told_so(ann: Person, client: TestClient):
    start = onward(ask(ann, "/items/changes?after=now"))
    first, second = create(ann, "one", "two")
    read = onward(ask(ann, f"{start}&limit=1"))
    ann.patch(f"/items/{first}", {"title": "uno"})
    ann.delete(f"/items/{second}")

    assert forget(client) == 2  # both creations

    answers = [ask(ann, address) for address in (start, read, read.replace("changes", "changes/stream"))]
    assert [answer.status_code for answer in answers] == [410, 410, 410]
    assert {answer.json()["detail"] for answer in answers} == {
        "What changed since then is not all kept: read the list anew, and begin with after=now."
    }


def test_who_does_not_come_too_late_goes_on(ann: Person, client: TestClient):
    first, second = create(ann, "one", "two")
    ann.patch(f"/items/{first}", {"title": "uno"})
    read = onward(ask(ann, "/items/changes"))
    ann.delete(f"/items/{second}")

    assert forget(client) == 2

    assert told(ask(ann, read)) == [("deleted", "two")]


def test_who_has_read_a_part_of_a_transaction_of_which_more_is_lost_comes_too_late(ann: Person, client: TestClient):
    rows = ann.post("/items/bulk", [{"title": "one"}, {"title": "two"}]).json()
    half = onward(ask(ann, "/items/changes?limit=1"))
    whole = onward(ask(ann, "/items/changes?limit=2"))
    ann.post("/items/bulk/delete", [row["id"] for row in rows])
    create(ann, "three")

    forget(client)

    assert (ask(ann, half).status_code, ask(ann, whole).status_code) == (410, 410)


def test_nobody_comes_too_late_for_what_they_have_read(ann: Person, client: TestClient):
    rows = ann.post("/items/bulk", [{"title": "one"}, {"title": "two"}]).json()
    whole = onward(ask(ann, "/items/changes?limit=2"))
    for row in rows:
        ann.patch(f"/items/{row['id']}", {"title": "more"})

    assert forget(client) == 2  # the creations, and of them it has read both

    assert told(ask(ann, whole)) == [("changed", "more"), ("changed", "more")]


def test_a_transaction_that_was_read_in_part_and_lost_its_end_is_gone(ann: Person, client: TestClient):
    rows = ann.post("/items/bulk", [{"title": "one"}, {"title": "two"}]).json()
    half = onward(ask(ann, "/items/changes?limit=1"))
    ann.patch(f"/items/{rows[1]['id']}", {"title": "more"})

    assert forget(client) == 1  # the second creation, which it has not read

    assert ask(ann, half).status_code == 410


def test_who_begins_anew_reads_what_is_wholly_kept_and_goes_on(ann: Person, client: TestClient):
    first, second, _ = create(ann, "one", "two", "three")
    ann.delete(f"/items/{second}")
    ann.patch(f"/items/{first}", {"title": "uno"})
    forget(client)

    answer = ask(ann, "/items/changes?limit=1")
    create(ann, "four")

    # The deletion was forgotten, and what came before it is not whole any more.
    assert told(answer) == [("changed", "uno")]
    assert told(ask(ann, onward(answer))) == [("created", "four")]


@pytest.mark.parametrize("further", [10**6, 10**12])
def test_who_has_read_what_a_restored_database_never_had_is_told_so(ann: Person, further: int):
    create(ann, "one")
    transaction, change = map(int, position(ask(ann, "/items/changes?after=now")).split("-"))

    answers = [ann.get(f"/items/changes{path}?after={transaction + further}-{change}") for path in ("", "/stream")]

    assert [answer.status_code for answer in answers] == [410, 410]


def test_what_is_forgotten_of_one_entity_is_no_gap_in_another(everything: TestClient):
    ann = sign_up(everything, "ann")
    start = onward(ask(ann, "/scratch_companies/changes"))
    (item,) = create(ann, "one")
    ann.patch(f"/items/{item}", {"title": "uno"})
    ann.post("/scratch_companies", {"name": "Acme"})

    assert forget(everything) == 1

    assert [change["row"]["name"] for change in ask(ann, start).json()] == ["Acme"]


def test_a_later_step_of_forgetting_does_not_take_back_what_an_earlier_one_said(
    ann: Person, client: TestClient, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pruning, "STEP", 1)
    monkeypatch.setattr(pruning, "PAUSE", 0.0)
    items = create(ann, "one", "two", "three")
    change_in_sql(client, "UPDATE changes SET transaction_id = 6 - id")  # as transactions may end in any order
    read = [change["position"] for change in ask(ann, "/items/changes").json()]
    for item in items:
        ann.patch(f"/items/{item}", {"title": "more"})

    assert forget(client) == 3

    assert [ask(ann, f"/items/changes?after={position}").status_code for position in read] == [410, 410, 200]


# Complete, whoever writes at the same time.


@contextmanager
def under_way(url: str, statement: str, *, ends: str = "COMMIT") -> Iterator[None]:
    """A transaction of another program, which ends after what is done meanwhile."""
    with create_engine(url, poolclass=NullPool).connect() as connection:
        connection.execute(text(statement))
        yield
        connection.execute(text(ends))


@ON_POSTGRES
def test_nothing_is_told_that_a_transaction_under_way_may_still_come_before(ann: Person, database_url: str):
    first, second = create(ann, "one", "two")
    start = onward(ask(ann, "/items/changes"))
    ann.patch(f"/items/{second}", {"title": "before"})

    with under_way(database_url, f"UPDATE items SET title = 'held' WHERE id = {first}"):
        ann.patch(f"/items/{second}", {"title": "after"})
        meanwhile, now = ann.get(start), ann.get("/items/changes?after=now")
        again = ann.get(onward(meanwhile))

    assert told(meanwhile) in ([("changed", "before")], [])  # none at all if another database's transaction was longer
    assert told(again) in ([], [("changed", "before")])
    came = told(meanwhile) + told(again) + told(later := ask(ann, onward(again)))
    assert came == [("changed", "before"), ("changed", "held"), ("changed", "after")]
    assert told(ask(ann, onward(later))) == []
    assert told(ask(ann, onward(now))) in (came, came[1:])


@ON_POSTGRES
def test_what_was_rolled_back_is_not_waited_for(ann: Person, database_url: str):
    (first,) = create(ann, "one")
    start = onward(ask(ann, "/items/changes"))

    with under_way(database_url, f"UPDATE items SET title = 'x' WHERE id = {first}", ends="ROLLBACK"):
        create(ann, "two")

    assert told(ask(ann, start)) == [("created", "two")]


def test_who_follows_while_many_write_is_told_each_change_once(ann: Person):
    titles = [f"{writer}-{number}" for writer in range(4) for number in range(16)]

    def write(writer: int) -> None:
        mine = [{"title": title} for title in titles if title.startswith(f"{writer}-")]
        for first in range(0, len(mine), 4):
            for item in mine[first : first + 2]:
                assert ann.post("/items", item).status_code == 201
            assert ann.post("/items/bulk", mine[first + 2 : first + 4]).status_code == 201

    found, address = list[str](), "/items/changes?limit=7"
    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(write, writer) for writer in range(4)]
        while not all(writer.done() for writer in writers):
            answer = ann.get(address)
            found, address = found + [title for _, title in told(answer)], onward(answer)
    for writer in writers:
        writer.result()
    found += [title for _, title in read_all(ann, address)[0]]

    assert sorted(found) == sorted(titles)


@ON_POSTGRES
def test_on_another_server_whose_transactions_have_lower_numbers_the_feed_goes_on(ann: Person, database_url: str):
    create(ann, "one")
    (seen,) = ask(ann, "/items/changes").json()
    # As if it had been restored here, from a server that had counted further.
    ahead = 1_000_000_000
    change_in_sql(ann.client, f"UPDATE changes SET transaction_id = transaction_id + {ahead}")
    transaction, change = map(int, seen["position"].split("-"))
    try:
        moved = migrations.is_at_head(database_url)
        migrations.upgrade(database_url)
        create(ann, "two")

        assert (moved, migrations.is_at_head(database_url)) == (False, True)
        assert told(ask(ann, "/items/changes")) == [("created", "one"), ("created", "two")]
        assert told(ask(ann, f"/items/changes?after={transaction + ahead}-{change}")) == [("created", "two")]
        now = onward(ask(ann, "/items/changes?after=now"))
        create(ann, "three")
        assert told(ask(ann, now)) == [("created", "three")]
    finally:
        engine = create_engine(database_url, poolclass=NullPool)
        with engine.begin() as connection:
            connection.execute(text("TRUNCATE changes; DROP FUNCTION changes_offset"))
            recording.install(connection)


# As it happens.


class Stream:
    """An open stream, as its reader sees it."""

    def __init__(self, person: Person, query: str = "", **headers: str) -> None:
        fields = {**(person.headers or {}), **{name.replace("_", "-"): value for name, value in headers.items()}}
        encoded = [(name.lower().encode(), value.encode()) for name, value in fields.items()]
        self.scope = asgi.scope("GET", f"/api/v1/items/changes/stream{query}", encoded)
        self._came: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._gone = asyncio.Event()
        self._portal: Any = person.client.portal
        requests = [{"type": "http.request"}]

        async def receive() -> Any:
            if not requests:
                await self._gone.wait()
            return requests.pop() if requests else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            self._came.put(message)

        self._answered = self._portal.start_task_soon(person.client.app, self.scope, receive, send)
        assert self._came.get(timeout=10)["status"] == 200
        first = self.next()
        assert first is not None
        self.first = first

    def next(self) -> dict[str, str] | None:
        """The next event's fields; None at the end."""
        message = self._came.get(timeout=10)
        lines = message["body"].decode().splitlines()
        return dict(line.split(": ", 1) for line in lines if line) if lines else None

    def title(self) -> str:
        event = self.next()
        assert event is not None
        return str(json.loads(event["data"])["row"]["title"])

    def leave(self) -> None:
        self._portal.call(self._gone.set)
        self._answered.result(timeout=10)


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Stream]]:
    """Open a stream that lasts: `stream(ann, "?after=now")`."""
    monkeypatch.setattr("app.extras.changes.LASTS", 60.0)
    monkeypatch.setattr("app.extras.changes.PAUSE", 0.01)
    opened: list[Stream] = []

    def open_stream(*arguments: Any, **headers: str) -> Stream:
        opened.append(Stream(*arguments, **headers))
        return opened[-1]

    yield open_stream
    for each in opened:
        each.leave()


def test_a_stream_tells_what_has_changed_and_then_what_changes(ann: Person, stream: Callable[..., Stream]):
    create(ann, "one")
    ask(ann, "/items/changes")

    open_one = stream(ann)
    events = [open_one.next()]
    create(ann, "two")
    events.append(open_one.next())

    assert open_one.first == {"": "Changes follow.", "retry": "1000"}
    assert [json.loads(event["data"]) for event in events if event] == ask(ann, "/items/changes").json()


def test_each_event_has_its_position_as_its_id_and_a_stream_goes_on_from_there(
    ann: Person, stream: Callable[..., Stream]
):
    create(ann, "one", "two", "three")
    positions = [change["position"] for change in ask(ann, "/items/changes").json()]

    first = stream(ann)
    events = [first.next() for _ in positions]
    later = stream(ann, "?after=now", Last_Event_ID=positions[1])  # an EventSource comes again to the same address

    assert [event["id"] for event in events if event] == positions
    assert later.title() == "three"


def test_a_stream_from_now_on_tells_only_what_is_still_to_come_and_goes_on_from_its_beginning(
    ann: Person, stream: Callable[..., Stream]
):
    create(ann, "one")
    ask(ann, "/items/changes")

    open_one = stream(ann, "?after=now")
    create(ann, "two")

    assert open_one.title() == "two"
    # Whose stream broke off before anything was told has missed nothing.
    assert stream(ann, "?after=now", Last_Event_ID=open_one.first["id"]).title() == "two"


def test_a_stream_sees_what_another_connection_writes_and_nothing_of_others(
    ann: Person, bob: Person, stream: Callable[..., Stream]
):
    (item,) = create(ann, "one")
    ask(ann, "/items/changes")

    open_one = stream(ann, "?after=now")
    create(bob, "his")
    change_in_sql(ann.client, f"UPDATE items SET title = 'uno' WHERE id = {item}")

    assert open_one.title() == "uno"


def test_a_stream_ends_when_its_reader_is_shut_out(ann: Person, root: Person, stream: Callable[..., Stream]):
    open_one = stream(ann, "?after=now")

    assert root.post(f"/admin/users/{ann.id}/deactivate").status_code == 200

    assert open_one.next() is None


def test_a_stream_ends_when_the_server_stops(ann: Person, stream: Callable[..., Stream]):
    open_one = stream(ann, "?after=now")

    open_one.scope["state"]["stopping"] = True

    assert open_one.next() is None


def test_a_stream_ends_after_its_time_when_all_that_was_there_is_told(ann: Person):
    ann.post("/items/bulk", [{"title": str(number)} for number in range(100)])
    ask(ann, "/items/changes")

    answer = ann.get("/items/changes/stream")

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.count("data: ") == 100


def test_a_stream_tells_more_than_fits_into_one_look(ann: Person, stream: Callable[..., Stream]):
    ann.post("/items/bulk", [{"title": str(number)} for number in range(250)])
    ask(ann, "/items/changes")

    open_one = stream(ann)

    assert [open_one.title() for _ in range(250)] == [str(number) for number in range(250)]


def test_a_stream_is_refused_before_it_begins(client: TestClient, ann: Person):
    nobody = client.get("/api/v1/items/changes/stream")
    bad = client.get("/api/v1/items/changes/stream", headers={**(ann.headers or {}), "Last-Event-ID": "then"})

    assert (nobody.status_code, nobody.headers["www-authenticate"][:6]) == (401, "Bearer")
    assert (bad.status_code, bad.headers["content-type"]) == (422, "application/problem+json")


def test_streams_leave_room_for_other_requests(start: Callable[..., TestClient], stream: Callable[..., Stream]):
    client = start(concurrent_requests=8)
    ann, bob = sign_up(client, "ann"), sign_up(client, "bob")
    first, *_ = [stream(ann) for _ in range(4)]

    refused = bob.get("/items/changes/stream")

    assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
    assert told(bob.get("/items/changes")) == []
    first.leave()
    assert stream(bob).first["retry"] == "1000"


def test_one_user_leaves_streams_for_others(
    ann: Person, bob: Person, stream: Callable[..., Stream], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("app.extras.changes.OF_ONE_USER", 2)
    for _ in range(2):
        stream(ann)

    assert ann.get("/items/changes/stream").status_code == 503
    assert stream(bob).first["retry"] == "1000"


def test_head_of_a_stream_does_not_wait(ann: Person, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("app.extras.changes.LASTS", 4.0)
    address, start = "/api/v1/items/changes/stream", time.monotonic()

    answer = ann.client.head(address, headers=ann.headers)

    assert time.monotonic() - start < 2
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert ann.client.head(address).status_code == 401


# With real servers.

PROMPT = "from app.extras import changes; changes.PAUSE = 0.1; from app.cli import main; main()"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Two processes with one database, and ann logged in at both."""
    folder = tmp_path_factory.mktemp("changes")
    command = ("-c", PROMPT, *RUN[2:])
    with servers_on_one_database(folder, "changes", command, command) as (_url, started):
        body = {"username": "ann", "email": "ann@example.com", "password": PASSWORD}
        assert started[0].http.post("/users", json=body).status_code == 201
        for server in started:
            assert server.log_in("ann").status_code == 200
        yield started


def test_a_stream_of_one_process_tells_what_was_changed_through_the_other(servers: list[Server]):
    with servers[0].http.stream("GET", "/items/changes/stream?after=now") as stream:
        lines = stream.iter_lines()
        assert next(lines) == ": Changes follow."
        servers[1].http.post("/items", json={"title": "over there"})

        event = next(line for line in lines if line.startswith("data: "))

    assert json.loads(event.removeprefix("data: "))["row"]["title"] == "over there"


def test_of_what_two_processes_write_a_reader_is_told_each_change_once(servers: list[Server]):
    start = servers[0].http.get("/items/changes?after=now").links["next"]["url"]

    def write(number: int) -> list[str]:
        titles = [f"{number}-{item}" for item in range(15)]
        with servers[number % 2].client() as http:
            http.headers.update(servers[number % 2].http.headers)
            for title in titles:
                assert http.post("/items", json={"title": title}).status_code == 201
        return titles

    found, address, deadline = list[str](), start, time.monotonic() + 30
    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(write, number) for number in range(4)]
        while len(found) < 60 and time.monotonic() < deadline:
            answer = servers[len(found) % 2].http.get(address.removeprefix("/api/v1"))
            found, address = found + [change["row"]["title"] for change in answer.json()], answer.links["next"]["url"]

    assert sorted(found) == sorted(title for writer in writers for title in writer.result())
    assert servers[0].http.get(address.removeprefix("/api/v1")).json() == []


def test_streams_end_when_their_server_stops_and_do_not_hold_it_up(servers: list[Server]):
    server = servers[0]
    with server.client() as http, socket.create_connection(("127.0.0.1", server.port)) as pipelined:
        token = server.http.headers["Authorization"]
        request = f"GET /api/v1/items/changes/stream?after=now HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n\r\n"
        pipelined.sendall(2 * request.encode())  # the second begins when the first ends
        pipelined.recv(65536)
        with http.stream("GET", "/items/changes/stream?after=now", headers={"Authorization": token}) as stream:
            lines = stream.iter_lines()
            assert next(lines) == ": Changes follow."
            start = time.monotonic()

            server.process.send_signal(signal.SIGTERM)

            assert [line for line in lines if line.startswith("data: ")] == []  # to its proper end
            assert server.process.wait(10) == 0
            assert time.monotonic() - start < 2.5
