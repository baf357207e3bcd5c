"""Nothing is forgotten: every change of every entity is told, by whoever made it, and a deleted row comes back."""

# ruff: noqa: PT012  # the block of a transaction belongs to what raises

import asyncio
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import NullPool, create_engine, event, text
from sqlmodel import update

from app import accounts
from app.crud import items, transaction, users
from app.deps import Caller as CallerDep
from app.deps import SessionDep
from app.engine import migrations, recording
from app.engine.bulk import Bulk
from app.engine.caller import Caller
from app.engine.history import Difference, History
from app.engine.http import dispatch
from app.engine.pruning import prune
from app.engine.records import changes
from app.engine.restoring import restore
from app.engine.sessions import create_session_engine, open_session
from app.engine.statement import Statement
from app.errors import Clash, Missing
from app.main import create_app
from app.models import Item, ItemCreate, ItemUpdate, MachineTokenCreate
from app.models.base import utcnow
from app.settings import Settings
from tests import bodies, office, samples
from tests.conftest import POSTGRES, Person, sign_up
from tests.office import (
    CompanyCreate,
    MeetingCreate,
    MembershipCreate,
    PairingCreate,
    ProjectCreate,
    TeamCreate,
    companies,
    meetings,
    memberships,
    pairings,
    projects,
    teams,
)
from tests.scratch import World, awaited, empty_database, python, tables, world_at
from tests.test_relations import counted

past = History(items)


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with tables(database_url, [*office.TABLES, samples.Sample.__table__]), world_at(database_url) as world:
        yield world


async def recorded(caller: Caller, entity: str = "items") -> list[Any]:
    """All that is recorded of an entity, the oldest first."""
    told = Statement(changes.select().where(changes.c.entity == entity).order_by(changes.c.id), unbounded=True)
    names = [column.name for column in changes.c]
    rows = [dict(zip(names, row, strict=True)) for row in await caller.db.run(told, {})]
    for row in rows:
        row["image"] = json.loads(row["image"]) if isinstance(row["image"], str) else row["image"]
    return rows


def acts(rows: list[Any]) -> list[tuple[int, str, int | None]]:
    return [(row["row_id"], row["action"], row["user_id"]) for row in rows]


# Every door.


@awaited
async def test_what_a_verb_does_is_recorded_with_who_did_it(world: World):
    item = await items.create(world.ann, ItemCreate(title="one"))
    await items.update(world.root, item.id, ItemUpdate(title="two"))
    await items.delete(world.ann, item.id)
    rows = await recorded(world.ann)
    ann, root = world.ann.id, world.root.id
    assert acts(rows) == [(item.id, "created", ann), (item.id, "changed", root), (item.id, "deleted", ann)]
    assert [(row["image"]["title"], row["image"]["version"]) for row in rows] == [("one", 1), ("two", 2), ("two", 2)]
    assert [row["whose"] for row in rows] == [ann] * 3


@awaited
async def test_a_verb_needs_no_statement_more_for_it(world: World):
    caller, ran = counted(world.ann)
    item = await items.create(caller, ItemCreate(title="one"))
    await items.update(caller, item.id, ItemUpdate(title="two"))
    await items.delete(caller, item.id)
    assert (len(ran), len(await recorded(world.ann))) == (3, 3)


@awaited
async def test_what_a_bulk_does_is_recorded_row_by_row(world: World):
    many = Bulk(items)
    made = await many.create(world.ann, [ItemCreate(title=str(number)) for number in range(3)])
    await many.update(world.ann, [(row.id, ItemUpdate(title="x"), None) for row in made])
    await many.delete(world.ann, [(row.id, None) for row in made])
    rows = await recorded(world.ann)
    assert [row["action"] for row in rows] == ["created"] * 3 + ["changed"] * 3 + ["deleted"] * 3
    assert {row["user_id"] for row in rows} == {world.ann.id}


@awaited
async def test_what_a_transaction_does_has_one_number_and_what_it_undoes_is_not_recorded(world: World):
    async with transaction(world.ann) as tx:
        await items.create(tx, ItemCreate(title="one"))
        await items.create(tx, ItemCreate(title="two"))
        with pytest.raises(Missing):
            async with tx.db.savepoint():  # type: ignore[attr-defined]  # a transaction's
                await items.create(tx, ItemCreate(title="undone"))
                raise Missing
    with pytest.raises(Clash):
        async with transaction(world.ann) as tx:
            await items.create(tx, ItemCreate(title="never"))
            raise Clash
    await items.create(world.ann, ItemCreate(title="three"))
    rows = await recorded(world.ann)
    assert [row["image"]["title"] for row in rows] == ["one", "two", "three"]
    assert rows[0]["transaction_id"] == rows[1]["transaction_id"] < rows[2]["transaction_id"]


@awaited
async def test_what_the_application_does_after_a_check_is_told_of_whom_it_acts_for(world: World):
    await items.create(world.ann.as_application(), ItemCreate(title="one"), owner_id=world.bob.id)
    await items.create(world.application, ItemCreate(title="two"), owner_id=world.bob.id)
    assert [row["user_id"] for row in await recorded(world.ann)] == [world.ann.id, None]


@awaited
async def test_what_the_database_takes_along_or_sets_free_is_recorded(world: World):
    label = await companies.create(world.ann, CompanyCreate(name="Acme"))
    whole = await projects.create(world.ann, ProjectCreate(title="whole"))
    part = await projects.create(world.ann, ProjectCreate(title="part", part_of_id=whole.id))
    labeled = await pairings.create(world.ann, PairingCreate(project_id=whole.id, company_id=label.id))
    await projects.delete(world.ann, whole.id)
    of_projects = [row for row in await recorded(world.ann, "scratch_projects") if row["action"] != "created"]
    taken, *_ = reversed(await recorded(world.ann, "scratch_pairings"))
    assert acts([taken]) == [(labeled.id, "deleted", world.ann.id)]
    assert sorted(acts(of_projects)) == [(whole.id, "deleted", world.ann.id), (part.id, "changed", world.ann.id)]
    assert [row["image"]["part_of_id"] for row in of_projects] == [None, None]
    assert {row["transaction_id"] for row in of_projects} == {taken["transaction_id"]}


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    """The app, with a route of a team that writes by a Session, in three ways."""
    app = create_app(settings)

    @app.post("/by-session")
    def by_session(session: SessionDep, caller: CallerDep):
        item = Item(title="added", owner_id=caller.id)
        session.add(item)
        session.flush()
        item.title = "changed"
        session.flush()
        session.exec(update(Item).values(title="all"))
        session.delete(item)
        session.commit()

    dispatch.install(app)
    return app


def test_what_a_session_does_is_recorded_as_well_also_what_it_does_to_many(app: FastAPI, start: Any):
    client = start(app)
    ann, root = sign_up(client, "ann"), sign_up(client, "root", is_superuser=True)
    answer = client.post("/by-session", headers=ann.headers)
    assert answer.status_code == 200
    told = root.get("/admin/history?entity=items").json()
    assert [(each["action"], each["row"]["title"]) for each in told] == [
        *(("deleted", "all"), ("changed", "all"), ("changed", "changed"), ("created", "added"))
    ]
    assert {(each["user_id"], each["request_id"]) for each in told} == {(ann.id, answer.headers["X-Request-Id"])}


def test_a_session_needs_one_statement_more_at_most(database_url: str):
    engine, sent = create_session_engine(database_url), list[str]()
    event.listen(engine, "before_cursor_execute", lambda _c, _cursor, sql, *_: sent.append(sql))
    with open_session(engine, writes=True) as session:
        session.exec(update(Item).values(title="x"))
        session.commit()
    engine.dispose()
    told = [sql for sql in sent if not sql.startswith(("UPDATE", "BEGIN", "COMMIT"))]
    assert told == (["SELECT set_config('cadre.acting', %s, true)"] if POSTGRES else [])


def test_what_the_command_line_does_is_recorded(tmp_path: Any):
    with empty_database(tmp_path, "commands") as url:
        migrations.upgrade(url)
        done = python("-m", "app", "superuser", "zoe", "zoe@example.com", DATABASE_URL=url, ENVIRONMENT="development")
        assert done.returncode == 0, done.stderr
        engine = create_engine(url, poolclass=NullPool)
        with engine.connect() as connection:
            rows = connection.execute(text("SELECT entity, action, user_id FROM changes")).all()
    assert [tuple(row) for row in rows] == [("users", "created", None)]


@pytest.mark.skipif(not POSTGRES, reason="of SQLite's triggers each belongs to a connection of ours")
@awaited
async def test_what_is_done_in_psql_is_recorded_as_nobodys(world: World):
    item = await items.create(world.ann, ItemCreate(title="one"))
    engine = create_engine(world.url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("UPDATE items SET title = 'by hand'"))
    rows = await recorded(world.ann)
    assert (acts(rows)[1], rows[1]["image"]["title"]) == ((item.id, "changed", None), "by hand")


# What is never in it.


def test_no_secret_is_recorded(client: TestClient, ann: Person):
    changed = ann.patch(
        "/users/me/password",
        {"current_password": "four plain words together", "new_password": "another set of plain words"},
    )
    assert changed.status_code == 204
    state = client.app.state  # type: ignore[attr-defined]
    assert client.portal
    application = Caller(state.database)
    client.portal.call(accounts.create_machine_token_for, application, "ann", MachineTokenCreate(name="robot"))
    rows = client.portal.call(recorded, application, "users") + client.portal.call(
        recorded, application, "machine_tokens"
    )
    assert [(row["entity"], row["action"]) for row in rows] == [
        *(("users", "created"), ("users", "changed"), ("machine_tokens", "created"))
    ]
    assert [sorted(row["image"]) for row in rows] == [
        *(
            2
            * [
                [
                    "created_at",
                    "credentials_changed_at",
                    "email",
                    "full_name",
                    "id",
                    "is_active",
                    "is_superuser",
                    "is_verified",
                    "updated_at",
                    "username",
                    "version",
                ]
            ]
        ),
        [
            *("created_at", "expires_at", "id", "last_used_at", "name", "owner_id", "prefix", "scope", "updated_at"),
            "version",
        ],
    ]


# How it is read.


def test_the_past_of_a_row_tells_who_when_in_which_request_and_what_differs(ann: Person, root: Person):
    made = ann.post("/items", {"title": "one", "description": "old"})
    changed = root.patch("/items/1", {"title": "two"})
    told = ann.get("/items/1/history").json()
    assert [(each["action"], each["user_id"], each["request_id"]) for each in told] == [
        ("changed", root.id, changed.headers["X-Request-Id"]),
        ("created", ann.id, made.headers["X-Request-Id"]),
    ]
    assert [each["changed"] for each in told] == [{"title": {"before": "one", "after": "two"}}, {}]
    assert [each["row"] for each in told] == [changed.json(), made.json()]


def test_the_past_is_read_in_parts_and_no_difference_is_lost_between_them(ann: Person):
    ann.post("/items", {"title": "0"})
    for number in range(1, 5):
        ann.patch("/items/1", {"title": str(number)})
    first = ann.get("/items/1/history?limit=2").json()
    rest = ann.get(f"/items/1/history?before={first[-1]['id']}").json()
    differences = [each["changed"].get("title", {}).get("before") for each in first + rest]
    assert differences == ["3", "2", "1", "0", None]


def test_somebody_elses_past_does_not_exist_whether_the_row_is_there_or_not(ann: Person, bob: Person):
    for number in (1, 2):
        ann.post("/items", {"title": "secret"})
        ann.patch(f"/items/{number}", {"title": "still"})
    ann.delete("/items/2")
    for number in (1, 2, 3):
        for answer in (bob.get(f"/items/{number}/history"), bob.post(f"/items/{number}/restore")):
            assert (answer.status_code, answer.json()["detail"]) == (404, "Not found.")
    assert [each["action"] for each in ann.get("/items/2/history").json()] == ["deleted", "changed", "created"]


@awaited
async def test_each_change_belongs_to_whose_the_row_was_then(world: World):
    item = await items.create(world.ann, ItemCreate(title="ann's"))
    await items.update(world.root, item.id, ItemUpdate(title="bob's"), owner_id=world.bob.id)
    of = {who: await past.of_row(who, item.id) for who in (world.ann, world.bob, world.root)}
    assert [[each.row["title"] for each in told] for told in of.values()] == [["ann's"], ["bob's"], ["bob's", "ann's"]]


def test_all_that_anybody_did_is_for_superusers_and_can_be_narrowed(ann: Person, root: Person):
    ann.post("/items", {"title": "one"})
    request = root.patch("/items/1", {"title": "two"}).headers["X-Request-Id"]
    assert ann.get("/admin/history").status_code == 403
    for asked, told in {
        "entity=items": ["changed", "created"],
        f"user_id={ann.id}": ["created"],
        f"request_id={request}": ["changed"],
        "entity=items&row_id=1&limit=1": ["changed"],
        "entity=items&row_id=2": [],
    }.items():
        assert (asked, [each["action"] for each in root.get(f"/admin/history?{asked}").json()]) == (asked, told)


def test_what_administrators_do_is_told(ann: Person, root: Person):
    for verb in ("promote", "demote", "deactivate", "activate"):
        assert root.post(f"/admin/users/{ann.id}/{verb}").status_code == 200
    told = root.get(f"/admin/history?entity=users&row_id={ann.id}&user_id={root.id}").json()
    assert [(each["row"]["is_superuser"], each["row"]["is_active"]) for each in reversed(told)] == [
        *((True, True), (False, True), (False, False), (False, True))
    ]


# The way back.


def test_a_deleted_row_comes_back_as_it_was(ann: Person):
    made = ann.post("/items", {"title": "one"}).json()
    assert ann.post("/items/1/restore").json()["detail"] == "It is not deleted."
    ann.delete("/items/1")
    restored = ann.post("/items/1/restore")
    later = restored.json()["updated_at"]
    assert (restored.status_code, restored.json()) == (200, {**made, "version": 2, "updated_at": later})
    assert ann.get("/items/1").json() == restored.json()
    assert ann.get("/items/1/history").json()[0]["action"] == "restored"
    assert ann.post("/items", {"title": "next"}).json()["id"] == 2


@awaited
async def test_a_row_of_every_type_comes_back_equal(world: World):
    for number in range(2):
        data = samples.SampleCreate(**bodies.valid(samples.SampleCreate, number, lambda *_: None, whole=number == 0))
        made = await samples.samples.create(world.ann, data)
        await samples.samples.delete(world.ann, made.id)
        back = await restore(samples.samples, world.ann, made.id)
        assert back.model_dump(exclude={"version", "updated_at"}) == made.model_dump(exclude={"version", "updated_at"})
        told = (await History(samples.samples).of_row(world.ann, made.id))[0].row
        assert told == back.model_dump(mode="json")


@awaited
async def test_what_a_deletion_took_along_comes_back_with_it_and_nothing_else(world: World):
    team = await teams.create(world.root, TeamCreate(name="Alpha"))
    member = await memberships.create(world.root, MembershipCreate(team_id=team.id, user_id=world.ann.id))
    fields = {**bodies.valid(MeetingCreate, 1, lambda *_: None), "team_id": team.id}
    kept = await meetings.create(world.ann, MeetingCreate(**fields))
    gone = {**bodies.valid(MeetingCreate, 7, lambda *_: None), "team_id": team.id}
    before = await meetings.create(world.ann, MeetingCreate(**gone))
    await meetings.delete(world.ann, before.id)
    await teams.delete(world.root, team.id)
    assert await restore(teams, world.root, team.id)
    assert (await memberships.get(world.root, member.id)).user_id == world.ann.id
    assert [row.id for row in await meetings.page(world.ann)] == [kept.id]


@awaited
async def test_what_stands_in_the_way_of_a_row_is_said_and_nothing_comes_back(world: World):
    company = await companies.create(world.ann, CompanyCreate(name="Acme"))
    await companies.delete(world.ann, company.id)
    other = await companies.create(world.ann, CompanyCreate(name="Acme"))
    with pytest.raises(Clash, match="That name is taken"):
        await restore(companies, world.ann, company.id)
    item = await items.create(world.ann, ItemCreate(title="one"))
    await users.delete(world.application, world.ann.id)
    with pytest.raises(Clash, match=f"Something that items {item.id} refers to is gone. Restore that first"):
        await restore(items, world.root, item.id)
    with pytest.raises(Clash, match="The hashed password is not in the history, so it cannot come back"):
        await restore(users, world.root, world.ann.id)
    with pytest.raises(Missing):
        await restore(items, world.root, 99)
    assert [row.id for row in await companies.page(world.root)] == [other.id]


@awaited
async def test_of_many_who_restore_a_row_at_once_one_does(world: World):
    item = await items.create(world.ann, ItemCreate(title="one"))
    await items.delete(world.ann, item.id)
    tried = await asyncio.gather(*(restore(items, world.ann, item.id) for _ in range(5)), return_exceptions=True)
    assert sorted(type(each).__name__ for each in tried) == ["Clash"] * 4 + ["ItemRead"]
    assert [row["action"] for row in await recorded(world.ann)] == ["created", "deleted", "restored"]


@awaited
async def test_a_row_that_comes_back_keeps_the_rules_over_rows(world: World):
    team = await teams.create(world.root, TeamCreate(name="Alpha"))
    await memberships.create(world.root, MembershipCreate(team_id=team.id, user_id=world.ann.id))
    data = MeetingCreate(**{**bodies.valid(MeetingCreate, 1, lambda *_: None), "team_id": team.id})
    first = await meetings.create(world.ann, data)
    await meetings.delete(world.ann, first.id)
    second = await meetings.create(world.ann, data)
    with pytest.raises(Clash, match="That room is taken at that time"):
        await restore(meetings, world.ann, first.id)
    assert [row.id for row in await meetings.page(world.ann)] == [second.id]


# How long it is kept.


@awaited
async def test_what_is_old_is_forgotten_but_for_the_newest_of_each_row_that_is_there(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("app.engine.pruning.STEP", 2)
    monkeypatch.setattr("app.engine.pruning.PAUSE", 0.0)
    item = await items.create(world.ann, ItemCreate(title="0"))
    for number in range(1, 4):
        await items.update(world.ann, item.id, ItemUpdate(title=str(number)))
    deleted = await items.create(world.ann, ItemCreate(title="gone"))
    await items.delete(world.ann, deleted.id)
    await items.create(world.ann, ItemCreate(title="later"))
    assert await prune(world.db, utcnow() - timedelta(days=1)) == 0
    assert sum(await asyncio.gather(*(prune(world.db, utcnow() + timedelta(seconds=5)) for _ in range(2)))) == 5
    await items.update(world.ann, item.id, ItemUpdate(title="4"))
    told = [each for each in await recorded(world.ann) if each["row_id"]]
    assert [row["image"]["title"] for row in told] == ["3", "later", "4"]
    newest, oldest = await past.of_row(world.ann, item.id)
    assert newest.changed == {"title": Difference(before="3", after="4")}
    assert oldest.changed is None
    with pytest.raises(Missing):
        await restore(items, world.ann, deleted.id)


# Where it is switched on.


def test_changes_are_recorded_after_every_migration_and_for_every_table(tmp_path: Any):
    with empty_database(tmp_path, "recording") as url:
        migrations.upgrade(url)
        engine = create_engine(url, poolclass=NullPool)
        with engine.begin() as connection:
            assert recording.is_installed(connection)
            recording.install(connection)  # once more changes nothing
        if POSTGRES:
            with engine.begin() as connection:
                connection.execute(text("DROP TRIGGER record_change ON items"))
            assert not migrations.is_at_head(url)
            migrations.upgrade(url)
            assert migrations.is_at_head(url)
