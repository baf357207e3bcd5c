"""Many rows at once: by the rules of single verbs, all of them or none, and each refused row told by its position."""

# ruff: noqa: PT012  # the block of a transaction belongs to what raises

import asyncio
import json
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlmodel import Field, SQLModel

from app.crud import items, transaction, users, verbs
from app.engine.bulk import Bulk
from app.engine.caller import Caller
from app.engine.halving import CHUNK, Rejected
from app.errors import Forbidden, Unauthenticated, Unavailable
from app.models import ItemCreate
from app.models.base import Access, BigId, Closed, Entity, Partial, Ref, Row
from app.models.item import ItemUpdate
from tests import office
from tests.conftest import Person
from tests.office import MeetingCreate, MeetingUpdate, MembershipCreate, ProjectCreate, ProjectUpdate
from tests.scratch import (
    BookingUpdate,
    NoticeCreate,
    NoticeUpdate,
    World,
    awaited,
    booking,
    bookings,
    ledgers,
    notices,
    tables,
    world_at,
)


class BranchBase(SQLModel):
    part_of_id: Ref | None = Field(
        default=None, foreign_key="scratch_branches.id", ondelete="CASCADE", index=True, sa_type=BigId
    )
    length: float = 1.0


class BranchCreate(Closed, BranchBase):
    pass


class BranchUpdate(Partial, BranchBase):
    pass


class BranchRead(BranchBase, Row):
    pass


class Branch(Entity, BranchRead, table=True):
    """Everyone's. What grows on it goes with it."""

    __tablename__ = "scratch_branches"
    __table_args__ = ({"sqlite_autoincrement": True},)
    __access__ = Access.SHARED


branches = verbs(Branch, BranchRead)
many_items, many_bookings, many_notices = Bulk(items), Bulk(bookings), Bulk(notices)
many_projects, many_meetings, many_branches = Bulk(office.projects), Bulk(office.meetings), Bulk(branches)

CLASHES = "That room and starts are taken together."
RULE = "A booking must end after it starts."


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with tables(database_url, [*office.TABLES, Branch.__table__]), world_at(database_url) as world:
        yield world


class Counted:
    """Where the statements run that are counted."""

    def __init__(self, db: Any, ran: list[str]) -> None:
        self._db, self._ran, self.dialect = db, ran, db.dialect

    async def run(self, statement: Any, values: Any) -> Any:
        self._ran.append(statement.on(self.dialect).sql.partition(" ")[0])
        return await self._db.run(statement, values)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        async with self._db.transaction() as db:
            yield Counted(db, self._ran)

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        self._ran.append("SAVEPOINT")
        async with self._db.savepoint():
            yield


def counted(caller: Caller) -> tuple[Caller, list[str]]:
    """The same caller, and how the statements begin that they run from now on."""
    ran: list[str] = []
    return replace(caller, db=Counted(caller.db, ran)), ran


async def refused(attempt: Any) -> list[tuple[int, int, str | None, str]]:
    """Of each refused row its position, status, field and sentence."""
    with pytest.raises(Rejected) as rejected:
        await attempt
    assert rejected.value.status == rejected.value.errors[0].refusal.status
    return told(rejected.value.errors)


def told(errors: Any) -> list[tuple[int, int, str | None, str]]:
    return [(position, refusal.status, field, refusal.detail) for position, refusal, field in errors]


def slots(*starts: int) -> list[Any]:
    return [booking(start, start + 1) for start in starts]


# In how many statements, and in which order.


@awaited
async def test_ten_thousand_rows_take_a_few_statements_and_keep_their_order(world: World):
    ann, ran = counted(world.ann)
    titles = [f"item {number}" for number in range(10_000)]
    made = await many_items.create(ann, [ItemCreate(title=title) for title in titles])
    assert [row.title for row in made] == titles
    assert [row.id for row in made] == sorted(row.id for row in made)
    assert ran == ["SAVEPOINT", "INSERT"] * 10
    ran.clear()
    backwards = [(row.id, ItemUpdate(description=row.title), 1) for row in reversed(made)]
    changed = await many_items.update(ann, backwards)
    assert [(row.id, row.description, row.version) for row in changed] == [
        (row.id, row.title, 2) for row in reversed(made)
    ]
    assert ran == ["SELECT", *["SAVEPOINT", "UPDATE"] * 10]
    ran.clear()
    await many_items.delete(ann, [(row.id, 2) for row in made])
    assert ran == ["SELECT", *["SAVEPOINT", "DELETE"] * 10]
    assert await items.page(ann) == []


@awaited
async def test_a_new_row_is_what_a_single_creation_makes_of_it(world: World):
    data = ProjectCreate(title="One", budget=2, starts_at="2100-01-01T00:00:00Z")
    (row,), other = await many_projects.create(world.ann, [data]), await office.projects.create(world.ann, data)
    same = set(type(row).model_fields) - {"id", "created_at", "updated_at"}
    assert row.model_dump(include=same) == other.model_dump(include=same)
    assert (row.owner_id, row.version, row.created_at) == (world.ann.id, 1, row.updated_at)
    assert await office.projects.get(world.ann, row.id) == row


@awaited
async def test_of_each_row_what_is_sent_is_changed_and_nothing_else(world: World):
    one, two, three = await many_bookings.create(world.ann, slots(1, 2, 3))
    changes = [
        (two.id, BookingUpdate(ends=9), None),
        (one.id, BookingUpdate(room="Red"), 1),
        (three.id, BookingUpdate(), 1),
    ]
    changed = await many_bookings.update(world.ann, changes)
    assert [(row.id, row.room, row.starts, row.ends, row.version) for row in changed] == [
        *((two.id, "Blue", 2, 9, 2), (one.id, "Red", 1, 2, 2), (three.id, "Blue", 3, 4, 1))
    ]
    assert changed[2] == three
    assert changed[0].updated_at == changed[1].updated_at > two.updated_at
    assert await bookings.page(world.ann, sort="id") == [changed[1], changed[0], three]


@awaited
async def test_numbers_beyond_all_bounds_are_kept_as_single_verbs_keep_them(world: World):
    lengths = [math.inf, -math.inf, 0.1, 1e308, 5e-324]
    one_by_one = [await branches.create(world.ann, BranchCreate(length=length)) for length in lengths]
    at_once = await many_branches.create(world.ann, [BranchCreate(length=length) for length in lengths])
    assert [row.length for row in at_once] == [row.length for row in one_by_one] == lengths
    assert await branches.page(world.ann, sort="id") == one_by_one + at_once


@awaited
async def test_no_row_is_no_trouble(world: World):
    assert await many_items.create(world.ann, []) == []
    assert await many_items.update(world.ann, []) == []
    await many_items.delete(world.ann, [])


# What is refused, and where.


@awaited
async def test_one_refused_row_in_the_last_part_leaves_nothing_of_all_the_others(world: World):
    await bookings.create(world.ann, booking(CHUNK + 7, CHUNK + 8))
    rows = slots(*range(CHUNK + 10))
    assert await refused(many_bookings.create(world.ann, rows)) == [(CHUNK + 7, 409, None, CLASHES)]
    assert [row.starts for row in await bookings.page(world.ann)] == [CHUNK + 7]


@awaited
async def test_every_refused_row_is_told_and_the_good_ones_can_be_kept(world: World):
    await bookings.create(world.ann, booking(3, 4))
    rows = [*slots(1, 3), booking(5, 5), *slots(6, 1, 7), booking(2**70, 2**71), booking(8, 9)]
    errors = [(1, 409, None, CLASHES), (2, 422, None, RULE), (4, 409, None, CLASHES)]
    errors += [(6, 422, None, "A number is too large or too small.")]
    assert await refused(many_bookings.create(world.ann, rows)) == errors
    assert len(await bookings.page(world.ann)) == 1
    async with transaction(world.ann) as tx:
        outcome = await many_bookings.create_good(tx, rows)
    assert told(outcome.errors) == errors
    assert [row and row.starts for row in outcome.rows] == [1, None, None, 6, None, 7, None, 8]
    assert [row.starts for row in await bookings.page(world.ann, sort="id")] == [3, 1, 6, 7, 8]


@awaited
async def test_what_is_taken_is_told_with_its_field(world: World):
    await notices.create(world.ann, NoticeCreate(name="a"))
    said = await refused(many_notices.create(world.ann, [NoticeCreate(name="b"), NoticeCreate(name="a")]))
    assert said == [(1, 409, "name", "That name is taken.")]


@awaited
async def test_no_more_than_a_hundred_errors_are_told_or_looked_for(world: World):
    ann, ran = counted(world.ann)
    said = await refused(many_bookings.create(ann, [booking(number, number) for number in range(5000)]))
    assert said == [(position, 422, None, RULE) for position in range(100)]
    assert len(ran) < 500
    missing = await refused(many_bookings.delete(ann, [(number, None) for number in range(1, 200)]))
    assert missing == [(position, 404, None, "Not found.") for position in range(100)]


@awaited
async def test_a_change_is_refused_for_each_reason_at_its_position(world: World):
    one, two, three, four = await many_bookings.create(world.ann, slots(1, 2, 3, 4))
    bobs = await bookings.create(world.bob, booking(9))
    changes = [
        (one.id, BookingUpdate(room="Red"), 1),
        (bobs.id, BookingUpdate(room="Red"), None),
        (2**53 - 1, BookingUpdate(room="Red"), None),
        (two.id, BookingUpdate(room="Red"), 2),
        (one.id, BookingUpdate(room="Green"), None),
        (three.id, BookingUpdate(ends=0), None),
        (four.id, BookingUpdate(starts=3), None),
    ]
    errors = [(1, 404, None, "Not found."), (2, 404, None, "Not found.")]
    errors += [(3, 412, None, "Somebody changed it since you read it."), (4, 422, None, "That row comes twice.")]
    errors += [(5, 422, None, RULE), (6, 409, None, CLASHES)]
    assert await refused(many_bookings.update(world.ann, changes)) == errors
    assert await bookings.page(world.application) == [bobs, four, three, two, one]
    async with transaction(world.ann) as tx:
        outcome = await many_bookings.update_good(tx, changes)
    assert told(outcome.errors) == errors
    assert [row and row.room for row in outcome.rows] == ["Red", *[None] * 6]
    assert [row.room for row in await bookings.page(world.application)] == ["Blue"] * 4 + ["Red"]


@awaited
async def test_a_deletion_is_refused_for_each_reason_at_its_position(world: World):
    one, two, three = await many_bookings.create(world.ann, slots(1, 2, 3))
    bobs = await bookings.create(world.bob, booking(9))
    await notices.create(world.application, NoticeCreate(name="a"), booking_id=two.id)
    ids = [(one.id, 1), (two.id, None), (bobs.id, None), (three.id, 7), (one.id, None)]
    assert await refused(many_bookings.delete(world.ann, ids)) == [
        (1, 409, None, "It is still in use by scratch notices."),
        (2, 404, None, "Not found."),
        (3, 412, None, "Somebody changed it since you read it."),
        (4, 422, None, "That row comes twice."),
    ]
    assert await bookings.page(world.application) == [bobs, three, two, one]


@awaited
async def test_what_goes_with_another_row_may_be_named_beside_it(world: World):
    trunk = await branches.create(world.ann, BranchCreate())
    twig = await branches.create(world.ann, BranchCreate(part_of_id=trunk.id))
    await many_branches.delete(world.ann, [(trunk.id, None), (twig.id, None)])
    assert await branches.page(world.ann) == []


@awaited
async def test_references_to_what_is_missing_and_to_what_is_invisible_are_refused_alike(world: World):
    own = await office.projects.create(world.ann, ProjectCreate(title="Ann's"))
    bobs = await office.projects.create(world.bob, ProjectCreate(title="Bob's"))
    said = "part_of_id is none of the scratch projects that you can see."
    errors = [(1, 422, "part_of_id", said), (3, 422, "part_of_id", said)]
    rows = [ProjectCreate(title="new", part_of_id=each) for each in (own.id, bobs.id, None, 2**53 - 1)]
    assert await refused(many_projects.create(world.ann, rows)) == errors
    made = await many_projects.create(world.ann, [ProjectCreate(title="new") for _ in range(4)])
    changes = [(row.id, ProjectUpdate(part_of_id=data.part_of_id), None) for row, data in zip(made, rows, strict=True)]
    assert await refused(many_projects.update(world.ann, changes)) == errors
    async with transaction(world.ann) as tx:
        outcome = await many_projects.update_good(tx, changes)
    assert [row and row.part_of_id for row in outcome.rows] == [own.id, None, None, None]
    assert told(outcome.errors) == errors


@awaited
async def test_rows_of_a_team_are_made_and_moved_by_its_members_alone(world: World):
    own, other = [await office.teams.create(world.application, office.TeamCreate(name=name)) for name in "ab"]
    await office.memberships.create(world.application, MembershipCreate(team_id=own.id, user_id=world.ann.id))
    said = "team_id is none of the scratch teams that you can see."
    rows = [MeetingCreate(team_id=team.id, room=team.name, starts=1, ends=2) for team in (own, other)]
    assert await refused(many_meetings.create(world.ann, rows)) == [(1, 422, "team_id", said)]
    one, two = await many_meetings.create(world.root, rows)
    assert await refused(many_meetings.update(world.ann, [(two.id, MeetingUpdate(ends=3), None)])) == [
        (0, 404, None, "Not found.")
    ]
    changes = [(one.id, MeetingUpdate(team_id=other.id), None)]
    assert await refused(many_meetings.update(world.ann, changes)) == [(0, 422, "team_id", said)]
    assert [row.ends for row in await many_meetings.update(world.ann, [(one.id, MeetingUpdate(ends=3), None)])] == [3]


@awaited
async def test_a_rule_over_rows_holds_among_new_ones_and_against_those_that_are_there(world: World):
    team = (await office.teams.create(world.application, office.TeamCreate(name="a"))).id

    def meeting(starts: int, ends: int) -> MeetingCreate:
        return MeetingCreate(team_id=team, room="Blue", starts=starts, ends=ends)

    there = await office.meetings.create(world.root, meeting(10, 12))
    rows = [meeting(1, 3), meeting(11, 13), meeting(2, 4), meeting(12, 14), meeting(3, 5)]
    said = "That room is taken at that time."
    assert await refused(many_meetings.create(world.root, rows)) == [(1, 409, None, said), (2, 409, None, said)]
    async with transaction(world.root) as tx:
        outcome = await many_meetings.create_good(tx, rows)
    assert [row and row.starts for row in outcome.rows] == [1, None, None, 12, 3]
    first, *_ = [row for row in outcome.rows if row]
    changes = [(there.id, MeetingUpdate(starts=1, ends=3), None), (first.id, MeetingUpdate(starts=10, ends=12), None)]
    assert [row.starts for row in await many_meetings.update(world.root, changes)] == [1, 10]
    assert await refused(many_meetings.update(world.root, [(there.id, MeetingUpdate(ends=11), None)])) == [
        (0, 409, None, said)
    ]


# Who may.


@awaited
async def test_whoever_is_not_who_their_token_says_writes_nothing(world: World):
    ours = await many_items.create(world.ann, [ItemCreate(title="one"), ItemCreate(title="two")])
    await users.update(world.application, world.ann.id, is_active=False)
    for attempt in (
        many_items.create(world.ann, [ItemCreate(title="three")]),
        many_items.update(world.ann, [(ours[0].id, ItemUpdate(title="three"), None)]),
        many_items.delete(world.ann, [(row.id, None) for row in ours]),
    ):
        with pytest.raises(Unauthenticated):
            await attempt
    assert await items.page(world.application) == ours[::-1]


@awaited
async def test_a_superuser_changes_everybodys_rows_and_one_no_longer_only_their_own(world: World):
    one, two = [await items.create(caller, ItemCreate(title="x")) for caller in (world.ann, world.root)]
    changes = [(one.id, ItemUpdate(title="y"), None), (two.id, ItemUpdate(title="y"), None)]
    assert [row.owner_id for row in await many_items.update(world.root, changes)] == [world.ann.id, world.root.id]
    await users.update(world.application, world.root.id, is_superuser=False)
    assert await refused(many_items.update(world.root, changes)) == [(0, 404, None, "Not found.")]
    mine = [{"owner_id": world.root.id}, {"owner_id": world.ann.id}]
    rows = [ItemCreate(title="z")] * 2
    assert await refused(many_items.create(world.root, rows, more=mine)) == [(1, 404, None, "Not found.")]


@awaited
async def test_what_is_for_superusers_only_is_forbidden_to_others(world: World):
    for attempt in (
        Bulk(ledgers).create(world.ann, [NoticeCreate(name="a")]),
        Bulk(ledgers).update(world.ann, [(1, NoticeUpdate(name="b"), None)]),
        Bulk(ledgers).delete(world.ann, [(1, None)]),
    ):
        with pytest.raises(Forbidden):
            await attempt
    assert len(await Bulk(ledgers).create(world.root, [NoticeCreate(name="a")])) == 1


@awaited
async def test_what_clients_cannot_set_is_given_for_each_row(world: World):
    more = [{"owner_id": world.ann.id}, {"owner_id": world.bob.id}]
    made = await many_items.create(world.application, [ItemCreate(title="a"), ItemCreate(title="b")], more=more)
    assert [row.owner_id for row in made] == [world.ann.id, world.bob.id]
    with pytest.raises(TypeError, match="items has no column colour"):
        await many_items.create(world.ann, [ItemCreate(title="a")], more=[{"colour": "red"}])


# At the same moment.


@awaited
async def test_of_bulks_that_want_the_same_names_one_has_them_all(world: World):
    names = [f"name {number}" for number in range(40)]
    orders = [names, names[::-1], names, names[::-1]]
    attempts = [many_notices.create(world.ann, [NoticeCreate(name=name) for name in order]) for order in orders]
    results = await asyncio.gather(*attempts, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["Rejected"] * 3 + ["list"]
    assert sorted(row.name for row in await notices.page(world.ann)) == sorted(names)


@awaited
async def test_bulks_that_change_the_same_rows_in_different_orders_do_not_block_each_other(world: World):
    made = await many_items.create(world.ann, [ItemCreate(title="x") for _ in range(300)])
    orders = [made, made[::-1]] * 3
    attempts = [
        many_items.update(world.ann, [(row.id, ItemUpdate(title="y"), None) for row in rows]) for rows in orders
    ]
    async with asyncio.timeout(5):
        results = await asyncio.gather(*attempts)
    assert sorted(result[0].version for result in results) == [2, 3, 4, 5, 6, 7]
    versions = [(row.id, ItemUpdate(title="z"), 7) for row in made]
    results = await asyncio.gather(*(many_items.update(world.ann, versions) for _ in range(3)), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["Rejected"] * 2 + ["list"]


@awaited
async def test_a_bulk_is_a_part_of_the_transaction_that_it_is_given(world: World):
    async with transaction(world.ann) as tx:
        await many_items.create(tx, [ItemCreate(title="kept")])
    with pytest.raises(Unavailable):
        async with transaction(world.ann) as tx:
            await many_items.create(tx, [ItemCreate(title="not kept")])
            raise Unavailable
    with pytest.raises(Rejected):
        async with transaction(world.ann) as tx:
            await items.create(tx, ItemCreate(title="not kept"))
            with pytest.raises(Rejected):
                await many_items.delete(tx, [(2**53 - 1, None)])
    assert [row.title for row in await items.page(world.ann)] == ["kept"]


# Over HTTP.


def test_rows_are_created_changed_and_deleted_in_one_request_each(ann: Person):
    made = ann.post("/items/bulk", [{"title": "one"}, {"title": "two", "description": "second"}])
    assert made.status_code == 201
    assert [(row["title"], row["description"]) for row in made.json()] == [("one", None), ("two", "second")]
    one, two = [row["id"] for row in made.json()]
    changed = ann.patch("/items/bulk", [{"id": two, "version": 1, "description": None}, {"id": one, "title": "uno"}])
    assert [(row["id"], row["title"], row["description"]) for row in changed.json()] == [
        *((two, "two", None), (one, "uno", None))
    ]
    assert changed.json() == [ann.get(f"/items/{two}").json(), ann.get(f"/items/{one}").json()]
    deleted = ann.post("/items/bulk/delete", [one, {"id": two, "version": 2}])
    assert (deleted.status_code, deleted.content, ann.get("/items").json()) == (204, b"", [])


def test_what_is_done_to_many_rows_is_in_the_history_of_each(ann: Person):
    ids = [row["id"] for row in ann.post("/items/bulk", [{"title": "one"}, {"title": "two"}]).json()]
    assert ann.patch("/items/bulk", [{"id": each, "title": "new"} for each in ids]).status_code == 200
    assert ann.patch("/items/bulk", [{"id": ids[0], "title": "not kept"}, {"id": 2**53 - 1}]).status_code == 404
    assert ann.post("/items/bulk/delete", ids).status_code == 204
    for each, title in zip(ids, ("one", "two"), strict=True):
        history = ann.get(f"/items/{each}/history").json()
        assert [(change["action"], change["user_id"], change["row"]["title"]) for change in history] == [
            *(("deleted", ann.id, "new"), ("changed", ann.id, "new"), ("created", ann.id, title))
        ]


def test_an_error_says_in_its_place_what_is_wrong(ann: Person, bob: Person):
    (mine, _) = ann.post("/items/bulk", [{"title": "one"}, {"title": "two"}]).json()
    theirs = bob.post("/items", {"title": "three"}).json()
    answer = ann.patch("/items/bulk", [{"id": mine["id"], "title": "new"}, {"id": theirs["id"], "title": "new"}])
    assert (answer.status_code, answer.headers["Content-Type"]) == (404, "application/problem+json")
    assert answer.json()["detail"] == [{"loc": ["body", 1], "msg": "Not found.", "type": "not_found"}]
    stale = ann.post("/items/bulk/delete", [{"id": mine["id"], "version": 2}, theirs["id"]])
    assert stale.status_code == 412
    assert [(each["loc"], each["type"]) for each in stale.json()["detail"]] == [
        *((["body", 0], "precondition_failed"), (["body", 1], "not_found"))
    ]
    assert ann.get(f"/items/{mine['id']}").json() == mine


@pytest.mark.parametrize(
    ("method", "path", "rows", "wrong"),
    [
        ("POST", "", [{"title": "x"}, {"title": ""}, {}], [([1, "title"], "value_error"), ([2, "title"], "missing")]),
        ("POST", "", [{"title": "x", "owner_id": 1}, 5], [([0, "owner_id"], "extra_forbidden"), ([1], "model_type")]),
        ("POST", "", [], [([], "too_short")]),
        ("POST", "", {"title": "x"}, [([], "list_type")]),
        ("POST", "", [{"title": "x"}] * 10_001, [([], "too_long")]),
        ("PATCH", "", [{"title": "x"}, {"id": 0}], [([0, "id"], "missing"), ([1, "id"], "greater_than_equal")]),
        ("PATCH", "", [{"id": 1, "title": None}], [([0, "title"], "string_type")]),
        ("PATCH", "", [{"id": 1, "version": 0}], [([0, "version"], "greater_than_equal")]),
        (
            "POST",
            "/delete",
            [0, "x", True],
            [([0, "id"], "greater_than_equal"), ([1], "model_type"), ([2], "model_type")],
        ),
        ("POST", "/delete", [{"id": 2**53}, {"version": 1}], [([0, "id"], "less_than_equal"), ([1, "id"], "missing")]),
    ],
)
def test_what_has_no_right_shape_is_told_where_it_is(ann: Person, method: str, path: str, rows: Any, wrong: Any):
    answer = ann.client.request(method, f"/api/v1/items/bulk{path}", json=rows, headers=ann.headers)
    found = [(each["loc"], each["type"].replace("attributes_", "")) for each in answer.json()["detail"]]
    assert (answer.status_code, found) == (422, [(["body", *where], kind) for where, kind in wrong])


def test_what_is_wrong_everywhere_is_told_in_short_and_soon(ann: Person):
    answer = ann.post("/items/bulk", [{f"key {number}": 1 for number in range(100)}] * 10_000)
    assert (answer.status_code, len(answer.json()["detail"])) == (422, 20)
    answer = ann.post("/items/bulk", [{"title": "x"}, {str(number): 1 for number in range(1001)}])
    assert [(each["loc"], each["type"]) for each in answer.json()["detail"]] == [(["body"], "too_many")]


@pytest.mark.once
@pytest.mark.parametrize("part", ["[],", '{"x":1},'])
def test_a_body_of_too_many_parts_is_refused_before_it_is_read(ann: Person, part: str):
    # Five seconds of everybody's time, if there are as many as there is room for.
    content = f'[{{"title": [{part * 2**18}0]}}]'
    answer = ann.client.post(
        "/api/v1/items/bulk", content=content, headers={**(ann.headers or {}), "Content-Type": "application/json"}
    )
    told = "More than 262144 opening brackets are too many. Send it in parts."
    assert [each["msg"] for each in answer.json()["detail"]] == [told]


def test_a_bulk_may_be_as_large_as_ten_thousand_rows_are(ann: Person):
    row = {"title": "x" * 255, "description": "y" * 1000}
    assert len(json.dumps([row] * 10_000)) < 2**24
    assert ann.post("/items/bulk", [row] * 200).status_code == 201  # 250 KB, twice what other routes take
    assert ann.post("/items/bulk", [{"title": "x" * 2**24}]).status_code == 413


def test_a_bulk_asks_for_a_token(ann: Person):
    ann.headers = {}
    answers = [ann.post("/items/bulk", [{"title": "x"}]), ann.patch("/items/bulk", [{"id": 1}])]
    assert [answer.status_code for answer in (*answers, ann.post("/items/bulk/delete", [1]))] == [401] * 3
