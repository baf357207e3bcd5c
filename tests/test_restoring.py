"""What a deletion took along comes back with it, however its rows refer to each other, whatever changed since."""

# ruff: noqa: PT012  # the block of a transaction belongs to what raises

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import NullPool, UniqueConstraint, create_engine, text
from sqlmodel import Field, SQLModel

from app.crud import items, transaction, verbs
from app.engine.caller import Caller
from app.engine.history import History
from app.engine.restoring import restore
from app.errors import Clash, InsufficientScope, Invalid, Missing
from app.models import ItemCreate, ItemUpdate
from app.models.base import Access, BigId, Entity, Row, references, rule
from tests.conftest import POSTGRES
from tests.scratch import World, awaited, tables, world_at


class FolderBase(SQLModel):
    name: str = Field(max_length=50)
    size: int = Field(default=0)
    parent_id: int | None = Field(
        default=None, foreign_key="scratch_folders.id", ondelete="CASCADE", index=True, sa_type=BigId
    )


class FolderRead(FolderBase, Row):
    pass


class Folder(Entity, FolderRead, table=True):
    """Everyone's; with all that is in it, it goes."""

    __tablename__ = "scratch_folders"
    __table_args__ = (
        rule("not_negative", "size >= 0", "A folder's size must not be negative."),
        {"sqlite_autoincrement": True},
    )
    __access__ = Access.SHARED


class PaperBase(SQLModel):
    """It goes with its folder, and with the drawer that the folder is in, whichever is first."""

    name: str = Field(max_length=50)
    drawer_id: int = Field(foreign_key="scratch_folders.id", ondelete="CASCADE", index=True, sa_type=BigId)
    folder_id: int = Field(foreign_key="scratch_folders.id", ondelete="CASCADE", index=True, sa_type=BigId)


class PaperRead(PaperBase, Row):
    pass


class Paper(Entity, PaperRead, table=True):
    __tablename__ = "scratch_papers"
    __table_args__ = (UniqueConstraint(*references(PaperBase)), {"sqlite_autoincrement": True})
    __access__ = Access.SHARED


class SealRead(Row):
    folder_id: int | None = Field(
        default=None, foreign_key="scratch_folders.id", ondelete="CASCADE", index=True, sa_type=BigId
    )


class Seal(Entity, SealRead, table=True):
    """It has something that is in no answer, and may be empty."""

    __tablename__ = "scratch_seals"
    __table_args__ = ({"sqlite_autoincrement": True},)
    __access__ = Access.SHARED

    hidden_code: str | None = Field(default=None, max_length=50)


folders, papers, seals = verbs(Folder, FolderRead), verbs(Paper, PaperRead), verbs(Seal, SealRead)


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    wanted = [entity.__table__ for entity in (Folder, Paper, Seal)]
    with tables(database_url, wanted), world_at(database_url) as world:
        yield world


async def folder(caller: Caller, name: str, parent_id: int | None = None) -> FolderRead:
    return await folders.create(caller, SQLModel(), name=name, parent_id=parent_id)


async def paper(caller: Caller, name: str, drawer: FolderRead, folder: FolderRead) -> PaperRead:
    return await papers.create(caller, SQLModel(), name=name, drawer_id=drawer.id, folder_id=folder.id)


async def named(caller: Caller, rows: Any = folders) -> list[str]:
    return sorted(row.name for row in await rows.page(caller))


async def refused(attempt: Any, kind: type[Exception] = Clash) -> str:
    with pytest.raises(kind) as refusal:
        await attempt
    return str(refusal.value)


def by_hand(world: World, statement: str) -> None:
    """As somebody does it who is none of us: on SQLite nothing is recorded then."""
    engine = create_engine(world.url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text(statement))


@awaited
async def test_a_tree_comes_back_whole_whatever_refers_to_what_in_it(world: World):
    top = await folder(world.ann, "top")
    # A parent that is younger than its child, and what refers to two that both go.
    low = await folder(world.ann, "low", top.id)
    middle = await folder(world.ann, "middle", top.id)
    await folders.update(world.ann, low.id, parent_id=middle.id)
    await paper(world.ann, "in both", top, low)
    await paper(world.ann, "in one", low, low)
    await folders.delete(world.ann, top.id)
    assert (await named(world.ann), await named(world.ann, papers)) == ([], [])

    back = await restore(folders, world.ann, top.id)
    assert (back.name, back.version) == ("top", 2)
    assert await named(world.ann) == ["low", "middle", "top"]
    assert await named(world.ann, papers) == ["in both", "in one"]
    assert (await folders.get(world.ann, low.id)).parent_id == middle.id
    # And once more: it is the last deletion that counts.
    await folders.delete(world.ann, top.id)
    assert (await restore(folders, world.ann, top.id)).version == 3
    assert await named(world.ann, papers) == ["in both", "in one"]


@awaited
async def test_what_comes_back_too_takes_the_scope_of_its_own_entity(world: World):
    top = await folder(world.ann, "top")
    await paper(world.ann, "inside", top, top)
    await folders.delete(world.ann, top.id)

    def with_scope(*scopes: str) -> Caller:
        assert world.ann.identity
        return replace(world.ann, identity=replace(world.ann.identity, scopes=frozenset(scopes)))

    told = await refused(restore(folders, with_scope("scratch_folders:write"), top.id), InsufficientScope)
    assert told == "That takes a token with scratch_papers:write in its scope."
    assert await named(world.application) == []
    await restore(folders, with_scope("scratch_folders:write", "scratch_papers:write"), top.id)
    assert await named(world.ann, papers) == ["inside"]


@awaited
async def test_what_was_deleted_at_another_time_stays_deleted(world: World):
    top = await folder(world.ann, "top")
    before, with_it = await folder(world.ann, "before", top.id), await folder(world.ann, "with it", top.id)
    await folders.delete(world.ann, before.id)
    await folders.delete(world.ann, top.id)
    await restore(folders, world.ann, top.id)
    assert await named(world.ann) == ["top", "with it"]
    assert (await folders.get(world.ann, with_it.id)).version == 2
    assert (await restore(folders, world.ann, before.id)).parent_id == top.id


@awaited
async def test_what_refers_to_two_that_went_at_once_comes_back_with_the_second(world: World):
    one, two = await folder(world.ann, "one"), await folder(world.ann, "two")
    await paper(world.ann, "in both", one, two)
    async with transaction(world.ann) as tx:
        await folders.delete(tx, one.id)
        await folders.delete(tx, two.id)
    await restore(folders, world.ann, one.id)
    assert (await named(world.ann), await named(world.ann, papers)) == (["one"], [])
    await restore(folders, world.ann, two.id)
    assert (await named(world.ann), await named(world.ann, papers)) == (["one", "two"], ["in both"])


@awaited
async def test_what_is_gone_for_another_reason_must_come_back_first(world: World):
    one, two = await folder(world.ann, "one"), await folder(world.ann, "two")
    both = await paper(world.ann, "in both", one, two)
    await folders.delete(world.ann, one.id)
    await folders.delete(world.ann, two.id)
    said = f"Something that scratch papers {both.id} refers to is gone. Restore that first."
    assert await refused(restore(folders, world.ann, one.id)) == said
    assert await named(world.ann) == []
    await restore(folders, world.ann, two.id)
    await restore(folders, world.ann, one.id)
    assert await named(world.ann, papers) == ["in both"]


@awaited
async def test_a_restoration_is_all_or_nothing(world: World):
    top = await folder(world.ann, "top")
    low = await folder(world.ann, "low", top.id)
    gone = await paper(world.ann, "first", top, low)
    await folders.delete(world.ann, top.id)
    with pytest.raises(Missing):
        async with transaction(world.ann) as tx:
            await restore(folders, tx, top.id)
            assert await named(tx, papers) == ["first"]
            raise Missing
    assert (await named(world.ann), await named(world.ann, papers)) == ([], [])
    assert (await restore(folders, world.ann, top.id)).version == 2
    assert (await papers.get(world.ann, gone.id)).version == 2


@awaited
async def test_what_held_a_secret_does_not_come_back_without_it(world: World):
    top = await folder(world.ann, "top")
    seal = await seals.create(world.ann, SQLModel(), folder_id=top.id, hidden_code="1234")
    await folders.delete(world.ann, top.id)
    await restore(folders, world.ann, top.id)
    assert await seals.page(world.ann) == []
    said = "The hidden code is not in the history, so it cannot come back."
    assert await refused(restore(seals, world.ann, seal.id)) == said


@awaited
async def test_of_many_who_restore_one_row_at_once_the_others_are_told_that_it_is_there(world: World):
    top = await folder(world.ann, "top")
    await folder(world.ann, "low", top.id)
    await folders.delete(world.ann, top.id)
    callers = [world.ann, world.bob, world.root] * 2
    told = await asyncio.gather(*(restore(folders, who, top.id) for who in callers), return_exceptions=True)
    assert sorted(str(each) for each in told if isinstance(each, Exception)) == ["It is not deleted."] * 5
    assert await named(world.ann) == ["low", "top"]


@awaited
async def test_whose_it_was_when_it_was_deleted_may_have_it_back_and_nobody_else(world: World):
    item = await items.create(world.ann, ItemCreate(title="one"))
    await items.update(world.root, item.id, ItemUpdate(title="two"), owner_id=world.bob.id)
    await items.delete(world.bob, item.id)
    assert await refused(restore(items, world.ann, item.id), Missing) == "Not found."
    assert (await restore(items, world.bob, item.id)).owner_id == world.bob.id
    await items.delete(world.bob, item.id)
    assert (await restore(items, world.root, item.id)).owner_id == world.bob.id


# What has changed since: the table, and its rules.


@awaited
async def test_a_field_that_is_newer_than_the_deletion_has_its_default(world: World):
    top = await folder(world.ann, "top")
    await folders.delete(world.ann, top.id)
    rewrite_image(world, "size")
    assert (await restore(folders, world.ann, top.id)).size == 0


@awaited
async def test_what_the_history_cannot_tell_or_a_rule_forbids_by_now_is_refused(world: World):
    top = await folder(world.ann, "top")
    await folders.delete(world.ann, top.id)
    rewrite_image(world, "size", "-5")
    assert await refused(restore(folders, world.ann, top.id), Invalid) == "A folder's size must not be negative."
    rewrite_image(world, "name")
    assert await refused(restore(folders, world.ann, top.id)) == "It is from before its name was what it is today."
    rewrite_image(world, "created_at", '"long ago"')
    assert "It is from before its created at" in await refused(restore(folders, world.ann, top.id))
    told, *_ = await History(folders).of_row(world.ann, top.id)
    assert told.row["created_at"] == "long ago"  # which can be read, whatever it means
    assert await named(world.ann) == []


def rewrite_image(world: World, name: str, value: str | None = None) -> None:
    """As if the field had held that when the row was deleted; or had not been there."""
    if POSTGRES:
        new = f"image - '{name}'" if value is None else f"jsonb_set(image, '{{{name}}}', '{value}')"
    else:
        new = f"json_remove(image, '$.{name}')" if value is None else f"json_set(image, '$.{name}', json('{value}'))"
    by_hand(world, f"UPDATE changes SET image = {new} WHERE action = 'deleted'")
