"""The database records by itself: without secrets, whatever a session has set, and after every change of the schema."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import NullPool, create_engine, text, update
from sqlmodel import Field, SQLModel

from alembic import command
from app import accounts
from app.crud import items, users, verbs
from app.engine import migrations, recording
from app.engine.caller import Caller
from app.engine.history import Change, Difference, History
from app.engine.sessions import create_session_engine, open_session
from app.engine.statement import Statement
from app.engine.visibility import entities
from app.errors import Missing
from app.models import Item, ItemCreate, ItemUpdate, MachineTokenCreate, User
from app.models.base import Access, Entity, Row, utcnow
from tests import bodies, office, samples
from tests.conftest import PASSWORD, POSTGRES, Person
from tests.scratch import World, awaited, empty_database, python, tables, world_at
from tests.servers import CADRE, settings_for, sql

ON_POSTGRES = pytest.mark.skipif(not POSTGRES, reason="on SQLite the triggers are each connection's own")
past = History(items)


class Vault(Entity, Row, table=True):
    """It has something that is in no answer."""

    __tablename__ = "scratch_vaults"
    __table_args__ = ({"sqlite_autoincrement": True},)
    __access__ = Access.SHARED

    hidden_code: str = Field(max_length=50)


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    wanted = [*office.TABLES, samples.Sample.__table__]
    with tables(database_url, wanted), world_at(database_url) as world:
        yield world


def by_hand(url: str, *statements: str) -> list[Any]:
    """As somebody does it who is none of us, in one transaction. What the last one says."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        for statement in statements:
            answer = connection.execute(text(statement))
        return answer.all() if answer.returns_rows else []


async def all_since(of: History[Any], caller: Caller, after: str, *, count: int) -> list[Change]:
    """What came after that, once it is so much: whoever writes in another database holds it up."""
    async with asyncio.timeout(20):
        while True:
            found, _ = await of.since(caller, after)
            if len(found) >= count:
                return found
            await asyncio.sleep(0.02)


# What is never in it.


def test_no_secret_is_in_any_image(client: TestClient, database_url: str, ann: Person, root: Person):
    state = client.app.state  # type: ignore[attr-defined]
    assert client.portal
    data = MachineTokenCreate(name="robot")
    token = client.portal.call(accounts.create_machine_token_for, Caller(state.database), "ann", data).token
    secrets = {value for _, value in hidden(database_url)}
    new = {"current_password": PASSWORD, "new_password": "another set of plain words"}
    assert ann.patch("/users/me/password", new).status_code == 204
    assert root.post(f"/admin/users/{ann.id}/promote").status_code == 200
    assert root.post(f"/admin/users/{ann.id}/deactivate").status_code == 200
    secrets |= {value for _, value in hidden(database_url)}
    assert len(secrets) == 2 + 1 + 1  # two hashes, the token's hash, and Ann's new hash
    client.portal.call(users.delete, Caller(state.database), ann.id)
    images = [image for (image,) in by_hand(database_url, "SELECT CAST(image AS TEXT) FROM changes")]
    assert len(images) >= 7
    assert [secret for secret in (*secrets, token, PASSWORD) if any(secret in image for image in images)] == []


def hidden(url: str) -> list[tuple[str, str]]:
    columns = {"users": ("hashed_password",), "machine_tokens": ("hashed_token",)}
    return [
        (column, str(value))
        for table, names in columns.items()
        for column in names
        for (value,) in by_hand(url, f"SELECT {column} FROM {table}")
    ]


def test_what_is_in_a_table_and_in_no_answer_is_not_recorded(database_url: str):
    with tables(database_url, [Vault.__table__]):
        by_hand(database_url, "ALTER TABLE items ADD COLUMN note_to_self VARCHAR(50) DEFAULT 'unseen'")
        try:
            engine = create_session_engine(database_url)
            with open_session(engine, writes=True) as session:
                session.add(User(id=1, username="ann", email="ann@example.com", hashed_password="unseen"))
                session.add(Vault(hidden_code="unseen"))
                session.flush()
                session.add(Item(title="seen", owner_id=1))
                session.flush()
                session.exec(update(Vault).values(hidden_code="unseen too"))
                session.commit()
            engine.dispose()
            images = [image for (image,) in by_hand(database_url, "SELECT CAST(image AS TEXT) FROM changes")]
            assert (len(images), [image for image in images if "unseen" in image]) == (4, [])
        finally:
            by_hand(database_url, "ALTER TABLE items DROP COLUMN note_to_self")


class Passerby(SQLModel):
    """What somebody sees of a user who is not to see all."""

    id: int
    username: str


@awaited
async def test_what_a_verb_does_not_show_its_past_does_not_show_either(world: World):
    passersby: Any = verbs(User, Passerby)  # type: ignore[type-var]
    await users.update(world.application, world.ann.id, full_name="Ann Archer")
    found = await History(passersby).of_row(world.ann, world.ann.id)
    found += await all_since(History(passersby), world.ann, "", count=2)
    assert {name for each in found for name in each.row} == {"id", "username"}
    assert found[0].changed == {}


# Who did it, and to whose.


@awaited
async def test_who_acted_before_on_a_connection_did_not_do_what_comes_after(world: World):
    for number in range(3):
        await items.create(world.ann, ItemCreate(title=str(number)))
    await world.db.run(Statement(update(Item).values(title="by nobody", updated_at=utcnow())), {})
    told, *_ = await past.of_row(world.root, 1)
    assert (told.row["title"], told.user_id) == ("by nobody", None)


@awaited
async def test_what_was_another_teams_for_a_while_is_told_without_what_they_did(world: World):
    first, second = [await office.teams.create(world.root, office.TeamCreate(name=name)) for name in ("one", "two")]
    for team, who in ((first, world.ann), (second, world.bob)):
        await office.memberships.create(world.root, office.MembershipCreate(team_id=team.id, user_id=who.id))
    meeting = office.MeetingCreate(team_id=first.id, room="Blue", starts=1, ends=2)
    row = await office.meetings.create(world.ann, meeting)
    for changes in ({"team_id": second.id}, {"room": "Red"}, {"team_id": first.id}, {"room": "Green"}):
        await office.meetings.update(world.root, row.id, office.MeetingUpdate(**changes))
    history = History(office.meetings)
    by_ann, by_bob = [await history.of_row(who, row.id) for who in (world.ann, world.bob)]
    assert [(each.row["room"], each.row["team_id"]) for each in by_ann] == [
        *(("Green", first.id), ("Red", first.id), ("Blue", first.id))
    ]
    assert [each.changed for each in by_ann] == [{"room": Difference(before="Red", after="Green")}, None, {}]
    assert [(each.row["room"], each.row["team_id"]) for each in by_bob] == [("Red", second.id), ("Blue", second.id)]
    assert [each.changed for each in by_bob] == [{"room": Difference(before="Blue", after="Red")}, None]
    told = [await all_since(history, who, "", count=count) for who, count in ((world.ann, 3), (world.bob, 2))]
    assert [[each.row["room"] for each in of] for of in told] == [["Blue", "Red", "Green"], ["Blue", "Red"]]


@awaited
async def test_whoever_sees_no_change_of_a_row_is_told_nothing_on_any_page(world: World):
    await items.create(world.ann, ItemCreate(title="one"))
    for before in (1, 2, 2**63 - 1):
        with pytest.raises(Missing):
            await past.of_row(world.bob, 1, before=before)
    assert await past.of_row(world.ann, 1, before=1) == []


# Whatever the session has set, and whatever becomes of the schema.


@ON_POSTGRES
@awaited
async def test_what_a_session_in_psql_has_set_makes_no_difference(world: World):
    body = bodies.valid(samples.SampleCreate, 1, lambda *_: None)
    row = await samples.samples.create(world.ann, samples.SampleCreate(**body))
    by_hand(
        world.url,
        "CREATE TEMPORARY TABLE changes (id INT)",
        *("SET TimeZone = 'Asia/Tokyo'", "SET bytea_output = 'escape'", "SET extra_float_digits = -10"),
        "SET search_path = ''",
        "UPDATE public.scratch_samples SET words = 'by hand', ratio = 0.1::float8 + 0.2::float8",
    )
    told, *_ = await History(samples.samples).of_row(world.root, row.id)
    assert told.changed == {
        "ratio": Difference(before=row.ratio, after=0.1 + 0.2),
        "words": Difference(before=row.words, after="by hand"),
    }
    assert told.row == (await samples.samples.get(world.ann, row.id)).model_dump(mode="json")


@awaited
async def test_a_table_that_is_rebuilt_under_a_running_server_is_still_recorded(world: World):
    await items.create(world.ann, ItemCreate(title="one"))
    if POSTGRES:
        by_hand(world.url, "ALTER TABLE items ALTER COLUMN title TYPE TEXT, ADD COLUMN more INT")
    else:  # as Alembic does it
        ((made,),) = by_hand(world.url, "SELECT sql FROM sqlite_master WHERE name = 'items'")
        new = made.replace("CREATE TABLE items", "CREATE TABLE items_new")
        assert new != made
        by_hand(
            world.url,
            new,
            "INSERT INTO items_new SELECT * FROM items",
            "DROP TABLE items",
            "ALTER TABLE items_new RENAME TO items",
        )
    try:
        await items.update(world.ann, 1, ItemUpdate(title="two"))
        await items.delete(world.ann, 1)
        assert [each.action for each in await past.of_row(world.ann, 1)] == ["deleted", "changed", "created"]
    finally:
        if POSTGRES:
            by_hand(world.url, "ALTER TABLE items DROP COLUMN more, ALTER COLUMN title TYPE VARCHAR(200)")


# Migrations.


@pytest.fixture
def migrated_url(tmp_path: Path) -> Iterator[str]:
    with empty_database(tmp_path, "recording") as url:
        migrations.upgrade(url)
        yield url


def triggers(url: str) -> list[str]:
    return [name for (name,) in by_hand(url, "SELECT tgrelid::regclass::text FROM pg_trigger WHERE NOT tgisinternal")]


def downgrade(url: str, revision: str) -> None:
    config = migrations._config()
    with migrations.connect(url) as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, revision)


def test_what_records_comes_and_goes_with_the_migrations(migrated_url: str):
    recorded = [name for name, entity in entities().items() if entity.__recorded__]
    migrated = sorted(name for name in recorded if not name.startswith("scratch_"))
    if POSTGRES:
        assert sorted(triggers(migrated_url)) == migrated
    downgrade(migrated_url, "0001")
    insert = "INSERT INTO users (username, email, created_at, updated_at, version, hashed_password, security_stamp)"
    engine = create_session_engine(migrated_url)
    insert = insert.replace("version,", "version, is_active, is_superuser,")
    sql(engine, f"{insert} VALUES ('ann', 'ann@example.com', '2026-01-01', '2026-01-01', 1, true, false, 'x', 1)")
    engine.dispose()
    migrations.upgrade(migrated_url)
    if POSTGRES:
        assert sorted(triggers(migrated_url)) == migrated
    engine = create_session_engine(migrated_url)
    sql(engine, "UPDATE users SET full_name = 'Ann'")
    assert sql(engine, "SELECT entity, action FROM changes") == [("users", "changed")]
    engine.dispose()
    downgrade(migrated_url, "base")
    if POSTGRES:
        assert triggers(migrated_url) == []


@ON_POSTGRES
def test_a_new_table_has_a_trigger_once_it_is_installed_and_not_twice(database_url: str):
    engine = create_engine(database_url, poolclass=NullPool)
    with tables(database_url, [Vault.__table__]), engine.connect() as connection:
        for trouble in ("DROP TRIGGER record_change ON", "ALTER TABLE", "DROP FUNCTION record_change() CASCADE; --"):
            disabled = " DISABLE TRIGGER record_change" if trouble == "ALTER TABLE" else ""
            by_hand(database_url, f"{trouble} scratch_vaults{disabled}")
            assert (trouble, recording.is_installed(connection)) == (trouble, False)
            with engine.begin() as other:
                recording.install(other)
                recording.install(other)
            connection.rollback()
            assert recording.is_installed(connection)
            assert "scratch_vaults" in triggers(database_url)


@ON_POSTGRES
def test_a_database_that_moved_to_another_server_says_so_and_goes_on_above(migrated_url: str):
    """Its new server has not counted as far as the old one had."""
    serve = [*CADRE, "serve", "--port", "1"]
    production = settings_for(migrated_url, "production") | {"BCRYPT_ROUNDS": "12"}
    with world_at(migrated_url) as world:
        _, before = world.runner.run(past.since(world.root, "now"))
        made = world.runner.run(items.create(world.ann, ItemCreate(title="one")))
        found = world.runner.run(all_since(past, world.root, before, count=1))
        moved = "UPDATE changes SET transaction_id = transaction_id + 1000000"
        by_hand(migrated_url, moved)
        position = f"{int(found[0].position.partition('-')[0]) + 1000000}-{found[0].id}"
        assert not migrations.is_at_head(migrated_url)
        told = python(*serve, **production)
        assert told.stderr.endswith("The database is not at the newest migration. Run: python3 -m app migrate\n")
        migrations.upgrade(migrated_url)
        assert migrations.is_at_head(migrated_url)
        world.runner.run(items.update(world.ann, made.id, ItemUpdate(title="two")))
        found = world.runner.run(all_since(past, world.root, position, count=1))
        assert [each.row["title"] for each in found] == ["two"]


@ON_POSTGRES
def test_what_a_migration_itself_changes_moves_no_numbers(world: World):
    world.runner.run(items.create(world.ann, ItemCreate(title="one")))
    offset = by_hand(world.url, "SELECT changes_offset()")
    for _ in range(3):
        with migrations.connect(world.url) as connection:
            connection.execute(text("UPDATE items SET title = 'migrated'"))
            recording.install(connection)
    assert by_hand(world.url, "SELECT changes_offset()") == offset
