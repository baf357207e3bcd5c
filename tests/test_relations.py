"""Rows that refer to others: to what their caller sees, in a fixed number of statements, deleted as declared."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlmodel import Field, SQLModel

from app.crud import transaction, verbs
from app.engine.bulk import Bulk
from app.engine.caller import Caller
from app.engine.halving import Rejected
from app.engine.sessions import create_session_engine, open_session
from app.engine.visibility import entities
from app.errors import Clash, Invalid, Missing
from app.models.base import Access, BigId, Entity, Ref, Row
from tests.office import (
    TABLES,
    CompanyCreate,
    Meeting,
    MeetingCreate,
    MeetingUpdate,
    MembershipCreate,
    PairingCreate,
    PairingUpdate,
    ProjectCreate,
    ProjectUpdate,
    TeamCreate,
    TeamUpdate,
    companies,
    meetings,
    memberships,
    pairings,
    projects,
    teams,
)
from tests.scratch import World, awaited, tables, world_at


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with tables(database_url, TABLES), world_at(database_url) as world:
        yield world


def counted(caller: Caller) -> tuple[Caller, list[Any]]:
    """The same caller, and the statements that they run from now on."""
    ran: list[Any] = []

    class Counted:
        dialect, transaction = caller.db.dialect, caller.db.transaction

        async def run(self, statement: Any, values: Any) -> Any:
            ran.append(statement)
            return await caller.db.run(statement, values)

    return replace(caller, db=Counted()), ran


async def refused(kind: type[Exception], attempt: Any) -> str:
    with pytest.raises(kind) as refusal:
        await attempt
    return str(refusal.value)


@awaited
async def test_a_reference_to_what_is_missing_and_to_what_is_invisible_are_refused_alike(world: World):
    bobs = await projects.create(world.bob, ProjectCreate(title="Bob's"))
    own = await projects.create(world.ann, ProjectCreate(title="Ann's"))
    said = {
        await refused(Invalid, projects.create(world.ann, ProjectCreate(title="x", part_of_id=bobs.id))),
        await refused(Invalid, projects.create(world.ann, ProjectCreate(title="x", part_of_id=77))),
        await refused(Invalid, projects.update(world.ann, own.id, ProjectUpdate(part_of_id=bobs.id))),
        await refused(Invalid, projects.update(world.ann, own.id, ProjectUpdate(part_of_id=77))),
    }
    assert said == {"part_of_id is none of the scratch projects that you can see."}
    assert await projects.page(world.ann) == [own]
    changed = await projects.update(world.ann, own.id, ProjectUpdate(part_of_id=own.id))
    assert (changed.part_of_id, changed.version) == (own.id, 2)
    assert (await projects.update(world.ann, own.id, ProjectUpdate(part_of_id=None))).part_of_id is None
    # Whoever sees both may connect them.
    assert (await projects.update(world.root, own.id, ProjectUpdate(part_of_id=bobs.id))).part_of_id == bobs.id


@awaited
async def test_a_patch_of_what_is_not_ones_own_says_missing_whatever_it_refers_to(world: World):
    bobs = await projects.create(world.bob, ProjectCreate(title="Bob's"))
    for client_id in (77, None):
        await refused(Missing, projects.update(world.ann, bobs.id, ProjectUpdate(client_id=client_id)))


@awaited
async def test_the_application_too_refers_only_to_what_is_there(world: World):
    said = await refused(Invalid, projects.create(world.application, ProjectCreate(title="x", client_id=1), owner_id=1))
    assert said == "client_id is none of the scratch companies that you can see."


@awaited
async def test_a_write_with_references_is_still_one_statement(world: World):
    company = await companies.create(world.ann, CompanyCreate(name="Acme"))
    ann, ran = counted(world.ann)
    row = await projects.create(ann, ProjectCreate(title="x", client_id=company.id))
    await projects.update(ann, row.id, ProjectUpdate(client_id=company.id, part_of_id=row.id))
    assert len(ran) == 2


@awaited
async def test_what_is_deleted_takes_along_frees_or_is_held_by_what_refers_to_it(world: World):
    company = await companies.create(world.ann, CompanyCreate(name="Acme"))
    whole = await projects.create(world.ann, ProjectCreate(title="whole", client_id=company.id))
    part = await projects.create(world.ann, ProjectCreate(title="part", part_of_id=whole.id))
    await pairings.create(world.ann, PairingCreate(project_id=whole.id, company_id=company.id))

    said = await refused(Clash, companies.delete(world.bob, company.id))
    assert said == "It is still in use by scratch projects."
    await projects.delete(world.ann, whole.id)
    assert await pairings.page(world.ann) == []
    assert (await projects.get(world.ann, part.id)).part_of_id is None
    await companies.delete(world.bob, company.id)


@awaited
async def test_many_to_many_connects_each_pair_once(world: World):
    company = await companies.create(world.ann, CompanyCreate(name="Acme"))
    one, two = [await projects.create(world.ann, ProjectCreate(title=title)) for title in ("one", "two")]
    pair = PairingCreate(project_id=one.id, company_id=company.id)
    first = await pairings.create(world.ann, pair)
    second = await pairings.create(world.ann, PairingCreate(project_id=two.id, company_id=company.id))
    said = {
        await refused(Clash, pairings.create(world.ann, pair)),
        await refused(Clash, pairings.update(world.ann, second.id, PairingUpdate(project_id=one.id))),
    }
    assert said == {"That project id and company id are taken together."}
    assert [row.id for row in await pairings.page(world.ann, project_id=one.id)] == [first.id]


@pytest.mark.parametrize("rows", [1, 7])
def test_nested_rows_come_in_a_fixed_number_of_statements_however_many_there_are(world: World, rows: int):
    world.runner.run(_nest(world, rows))


async def _nest(world: World, rows: int) -> None:
    acme = await companies.create(world.ann, CompanyCreate(name="Acme"))
    other = await companies.create(world.ann, CompanyCreate(name="Other"))
    for number in range(rows):
        row = await projects.create(world.ann, ProjectCreate(title=f"{number}", client_id=acme.id))
        for company in (acme, other):
            await pairings.create(world.ann, PairingCreate(project_id=row.id, company_id=company.id))
    await projects.create(world.bob, ProjectCreate(title="Bob's", client_id=acme.id))
    ann, ran = counted(world.ann)

    page = await projects.page(ann)
    clients = await companies.by_ids(ann, [row.client_id for row in page if row.client_id])
    links = await pairings.children(ann, "project_id", [row.id for row in page])
    labels = await companies.by_ids(ann, [link.company_id for of in links.values() for link in of])

    assert len(ran) == 4
    assert clients == {acme.id: acme}
    assert {row.id: [labels[link.company_id].name for link in links[row.id]] for row in page} == {
        number: ["Other", "Acme"] for number in range(1, rows + 1)
    }


@awaited
async def test_children_are_the_newest_of_each_parent_and_only_those_the_caller_sees(world: World):
    acme = await companies.create(world.ann, CompanyCreate(name="Acme"))
    mine = [await projects.create(world.ann, ProjectCreate(title=f"{n}", client_id=acme.id)) for n in range(4)]
    await projects.create(world.bob, ProjectCreate(title="Bob's", client_id=acme.id))
    found = await projects.children(world.ann, "client_id", [acme.id, 77], limit=2)
    assert found == {acme.id: mine[:1:-1], 77: []}
    assert (await projects.by_ids(world.bob, [1, 2, 5, 77])).keys() == {5}
    assert await projects.by_ids(world.bob, []) == {}


@awaited
async def test_a_team_sees_its_rows_and_nobody_elses(world: World):
    ann, bob, root = world.ann, world.bob, world.root
    team = await teams.create(ann, TeamCreate(name="Ann's"))
    assert await teams.page(ann) == []  # nobody is in it yet
    other = await teams.create(bob, TeamCreate(name="Bob's"))
    bobs = await memberships.create(world.application, MembershipCreate(team_id=other.id, user_id=bob.id))
    await memberships.create(world.application, MembershipCreate(team_id=team.id, user_id=ann.id))
    assert await teams.page(ann) == [team]
    assert await teams.page(root) == [other, team]

    row = await meetings.create(ann, MeetingCreate(team_id=team.id, room="Blue", starts=1, ends=2))
    assert (await meetings.page(bob), await teams.page(bob), await memberships.page(bob)) == ([], [other], [bobs])
    for attempt in (
        meetings.get(bob, row.id),
        meetings.update(bob, row.id, MeetingUpdate(room="Red")),
        meetings.delete(bob, row.id),
        teams.update(bob, team.id, TeamUpdate(name="Bob's")),
        teams.delete(bob, team.id),
    ):
        await refused(Missing, attempt)
    said = {
        await refused(Invalid, meetings.create(bob, MeetingCreate(team_id=number, room="Red", starts=1, ends=2)))
        for number in (team.id, 77)
    }
    assert said == {"team_id is none of the scratch teams that you can see."}

    await memberships.create(world.application, MembershipCreate(team_id=team.id, user_id=bob.id))
    assert await meetings.page(bob) == [row]
    assert len(await memberships.page(bob)) == 3
    assert (await meetings.update(bob, row.id, MeetingUpdate(room="Red"))).room == "Red"


@awaited
async def test_nobody_moves_a_row_into_a_team_that_they_are_not_in(world: World):
    ours, theirs = [await teams.create(world.application, TeamCreate(name=name)) for name in ("ours", "theirs")]
    await memberships.create(world.application, MembershipCreate(team_id=ours.id, user_id=world.ann.id))
    row = await meetings.create(world.ann, MeetingCreate(team_id=ours.id, room="Blue", starts=1, ends=2))
    await refused(Invalid, meetings.update(world.ann, row.id, MeetingUpdate(team_id=theirs.id)))
    # Nor adds themselves to one.
    await refused(Invalid, memberships.create(world.ann, MembershipCreate(team_id=theirs.id, user_id=world.ann.id)))
    assert (await meetings.update(world.root, row.id, MeetingUpdate(team_id=theirs.id))).team_id == theirs.id
    assert await meetings.page(world.ann) == []


def meeting(team_id: int, starts: int, ends: int, room: str = "Blue") -> MeetingCreate:
    return MeetingCreate(team_id=team_id, room=room, starts=starts, ends=ends)


async def a_team(world: World) -> int:
    team = await teams.create(world.application, TeamCreate(name="all"))
    for who in (world.ann, world.bob):
        await memberships.create(world.application, MembershipCreate(team_id=team.id, user_id=who.id))
    return team.id


@awaited
async def test_a_row_that_stands_against_another_is_refused_with_the_rules_sentence(world: World):
    team = await a_team(world)
    first = await meetings.create(world.ann, meeting(team, 1, 5))
    later = await meetings.create(world.bob, meeting(team, 5, 6))
    said = {
        await refused(Clash, meetings.create(world.bob, meeting(team, 4, 6))),
        await refused(Clash, meetings.update(world.bob, later.id, MeetingUpdate(starts=2))),
    }
    assert said == {"That room is taken at that time."}
    assert await meetings.page(world.ann) == [later, first]
    assert (await meetings.update(world.ann, first.id, MeetingUpdate(starts=2))).starts == 2
    assert await meetings.create(world.bob, meeting(team, 1, 9, room="Red"))


@awaited
async def test_of_many_who_book_one_room_at_once_one_gets_it(world: World):
    team = await a_team(world)
    attempts = (meetings.create(world.ann, meeting(team, number, number + 20)) for number in range(12))
    results = await asyncio.gather(*attempts, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["Clash"] * 11 + ["MeetingRead"]
    moved = await meetings.create(world.ann, meeting(team, 100, 101))
    others = [await meetings.create(world.ann, meeting(team, 200 + n, 201 + n)) for n in range(6)]
    attempts = (meetings.update(world.ann, row.id, MeetingUpdate(starts=50, ends=60)) for row in [moved, *others])
    results = await asyncio.gather(*attempts, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["Clash"] * 6 + ["MeetingRead"]


@awaited
async def test_a_broken_rule_ends_the_whole_transaction_even_if_it_is_caught(world: World):
    team = await a_team(world)

    async def book() -> None:
        async with transaction(world.ann) as tx:
            await meetings.create(tx, meeting(team, 1, 5))
            with pytest.raises(Clash):
                await meetings.create(tx, meeting(team, 2, 3))

    assert await refused(Clash, book()) == "That room is taken at that time."
    assert await meetings.page(world.ann) == []


def test_a_session_keeps_the_rules_over_rows_too(world: World):
    team = world.runner.run(a_team(world))
    engine = create_session_engine(world.url)

    def add(starts: int, ends: int) -> None:
        with open_session(engine, writes=True) as session:
            session.add(Meeting(team_id=team, room="Blue", starts=starts, ends=ends))
            session.commit()

    def stretch() -> None:
        with open_session(engine, writes=True) as session:
            session.get_one(Meeting, 1).ends = 9
            session.commit()

    add(1, 5)
    add(5, 7)
    attempts: list[Callable[[], None]] = [lambda: add(2, 3), stretch]
    for attempt in attempts:
        with pytest.raises(Clash, match="That room is taken"):
            attempt()
    engine.dispose()
    assert [(row.starts, row.ends) for row in world.runner.run(meetings.page(world.ann))] == [(5, 7), (1, 5)]


class ClubRead(Row):
    pass


class Club(Entity, ClubRead, table=True):
    """Everyone sees which there are, and their members what is theirs."""

    __tablename__ = "scratch_clubs"
    __table_args__ = ({"sqlite_autoincrement": True},)
    __access__ = Access.SHARED


class MemberRead(Row):
    team_id: Ref = Field(foreign_key="scratch_clubs.id", ondelete="CASCADE", index=True, sa_type=BigId)
    user_id: Ref = Field(foreign_key="users.id", ondelete="CASCADE", index=True, sa_type=BigId)


class Clubs(Entity):
    """What the entities of clubs have in common, and no entity itself."""

    __access__ = Access.TEAM
    __members__ = "scratch_club_members"
    __table_args__ = ({"sqlite_autoincrement": True},)


class Member(Clubs, MemberRead, table=True):
    __tablename__ = "scratch_club_members"


@awaited
async def test_a_row_goes_into_no_club_of_others_even_if_everyone_sees_the_clubs(world: World):
    with tables(world.url, [Club.__table__, Member.__table__]):
        clubs, members = verbs(Club, ClubRead), verbs(Member, MemberRead)
        ours, theirs = [await clubs.create(world.application, SQLModel()) for _ in range(2)]
        row = await members.create(world.application, SQLModel(), team_id=ours.id, user_id=world.ann.id)
        said = {
            await refused(Invalid, members.create(world.ann, SQLModel(), team_id=theirs.id, user_id=world.ann.id)),
            await refused(Invalid, members.update(world.ann, row.id, team_id=theirs.id)),
        }
        many, moved = Bulk(members), MemberRead.model_construct({"team_id"}, team_id=theirs.id)
        said |= {
            await refused(
                Rejected, many.create(world.ann, [SQLModel()], more=[{"team_id": theirs.id, "user_id": world.ann.id}])
            ),
            await refused(Rejected, many.update(world.ann, [(row.id, moved, None)])),
        }
        assert said == {"team_id is none of the scratch clubs that you can see."}


def test_an_entity_that_inherits_its_manners_keeps_them_for_what_refers_to_it():
    assert entities()["scratch_club_members"] is Member
    assert Clubs not in entities().values()


@awaited
async def test_rows_are_replaced_in_many_transactions_at_once(world: World):
    team = await a_team(world)
    rows = [await meetings.create(world.ann, meeting(team, number, number + 1)) for number in range(5)]

    async def replace_it(row: Any) -> None:
        async with transaction(world.ann) as tx:
            await meetings.delete(tx, row.id)
            await asyncio.sleep(0.01)
            await meetings.create(tx, meeting(team, row.starts, row.ends))

    assert await asyncio.gather(*map(replace_it, rows), return_exceptions=True) == [None] * 5
