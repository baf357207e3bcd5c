"""The five verbs as a library, without HTTP: who may do what, what is refused, and what comes back."""

import asyncio
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from typing import Any

import pytest

from app.crud import items, sessions, users
from app.engine.caller import Caller
from app.errors import Clash, Forbidden, Invalid, Missing, Refusal, Stale, Unauthenticated
from app.models import ItemCreate, ItemUpdate, UserUpdate
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
    sign_up,
    world_at,
)

ENTITIES = {
    "owned": (bookings, booking(1), booking(2), BookingUpdate(room="Red")),
    "shared": (notices, NoticeCreate(name="a"), NoticeCreate(name="b"), NoticeUpdate(name="c")),
    "restricted": (ledgers, NoticeCreate(name="a"), NoticeCreate(name="b"), NoticeUpdate(name="c")),
}
VERBS = ("page", "get", "update", "create", "delete")


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with world_at(database_url) as world:
        yield world


async def outcomes(world: World, kind: str, caller: Caller) -> dict[str, Any]:
    """What each verb says to `caller` about ann's row: None if it does it, or the refusal's class."""
    verbs, data, other, changes = ENTITIES[kind]
    row = await verbs.create(world.application, data, **anns(world, kind))
    said: dict[str, Any] = {}
    for verb, arguments, more in (
        ("page", (), {}),
        ("get", (row.id,), {}),
        ("update", (row.id, changes), {}),
        ("create", (other,), anns(world, kind)),
        ("delete", (row.id,), {}),
    ):
        try:
            # An empty page: nothing is there for them.
            said[verb] = Missing if await getattr(verbs, verb)(caller, *arguments, **more) == [] else None
        except Refusal as refusal:
            said[verb] = type(refusal)
    # Whoever could not delete has changed nothing either.
    left = await verbs.page(world.application)
    assert [row.id for row in left] == [row.id + 1] if said["delete"] is None else left == [row]
    return said


def anns(world: World, kind: str) -> dict[str, int]:
    return {"owner_id": world.ann.id} if kind == "owned" else {}


@awaited
async def test_a_row_is_created_read_changed_and_deleted_without_http(world: World):
    created = await bookings.create(world.ann, booking(9, 10))
    changed = await bookings.update(world.ann, created.id, BookingUpdate(ends=12))
    read = await bookings.get(world.ann, created.id)
    await bookings.delete(world.ann, created.id)

    assert created.model_dump(include={"id", "room", "starts", "ends", "owner_id", "version"}) == {
        "id": 1,
        "room": "Blue",
        "starts": 9,
        "ends": 10,
        "owner_id": world.ann.id,
        "version": 1,
    }
    assert created.created_at == created.updated_at
    assert created.created_at.utcoffset() is not None
    assert changed == created.model_copy(update={"ends": 12, "version": 2, "updated_at": changed.updated_at})
    assert changed.updated_at > created.updated_at
    assert read == changed
    assert await bookings.page(world.ann) == []


@awaited
async def test_a_page_is_newest_first_and_holds_what_equals(world: World):
    for hour in range(5):
        await bookings.create(world.ann, booking(hour, 9, room="Blue" if hour % 2 else "Red"))
    pages = [
        await bookings.page(world.ann),
        await bookings.page(world.ann, skip=1, limit=2),
        await bookings.page(world.ann, room="Blue"),
        await bookings.page(world.ann, skip=5),
    ]
    assert [[row.starts for row in page] for page in pages] == [[4, 3, 2, 1, 0], [3, 2], [3, 1], []]


@awaited
async def test_a_taken_value_is_a_clash_that_names_its_column(world: World):
    await notices.create(world.ann, NoticeCreate(name="a"))
    with pytest.raises(Clash) as refused:
        await notices.create(world.bob, NoticeCreate(name="a"))
    assert refused.value.detail == "That name is taken."


@awaited
async def test_a_taken_combination_is_a_clash_that_names_its_columns(world: World):
    await bookings.create(world.ann, booking(9))
    later = await bookings.create(world.bob, booking(10, 11))
    with pytest.raises(Clash) as refused:
        await bookings.update(world.bob, later.id, BookingUpdate(starts=9))
    assert refused.value.detail == "That room and starts are taken together."


@awaited
async def test_a_broken_rule_is_invalid_with_its_sentence(world: World):
    row = await bookings.create(world.ann, booking(9, 10))
    for attempt in (
        bookings.create(world.ann, booking(12, 11)),
        bookings.update(world.ann, row.id, BookingUpdate(ends=9)),
    ):
        with pytest.raises(Invalid) as refused:
            await attempt
        assert refused.value.detail == "A booking must end after it starts."


@awaited
async def test_a_reference_to_nothing_is_refused_at_both_ends(world: World):
    row = await bookings.create(world.ann, booking())
    await notices.create(world.ann, NoticeCreate(name="a"), booking_id=row.id)
    with pytest.raises(Invalid) as refused:
        await notices.create(world.ann, NoticeCreate(name="b"), booking_id=row.id + 1)
    assert refused.value.detail == "booking_id is none of the scratch bookings that you can see."
    with pytest.raises(Clash) as in_use:
        await bookings.delete(world.ann, row.id)
    assert in_use.value.detail == "It is still in use by scratch notices."


@awaited
async def test_an_outdated_version_is_stale_and_changes_nothing(world: World):
    row = await bookings.create(world.ann, booking())
    changed = await bookings.update(world.ann, row.id, BookingUpdate(room="Red"), version=1)
    for attempt in (
        bookings.update(world.ann, row.id, BookingUpdate(room="Green"), version=1),
        bookings.update(world.ann, row.id, BookingUpdate(), version=1),
        bookings.delete(world.ann, row.id, version=1),
    ):
        with pytest.raises(Stale):
            await attempt
    assert await bookings.get(world.ann, row.id) == changed
    await bookings.delete(world.ann, row.id, version=2)
    with pytest.raises(Missing):
        await bookings.delete(world.ann, row.id, version=2)


@awaited
async def test_an_update_without_changes_answers_the_row_as_it_is(world: World):
    row = await bookings.create(world.ann, booking())
    assert await bookings.update(world.ann, row.id, BookingUpdate()) == row
    assert await bookings.update(world.ann, row.id) == row


@pytest.mark.parametrize(
    ("kind", "who", "refusal"),
    [
        ("owned", "ann", None),
        ("owned", "bob", Missing),
        ("shared", "ann", None),
        ("shared", "bob", None),
        ("restricted", "ann", Forbidden),
        *((kind, who, None) for kind in ENTITIES for who in ("root", "application")),
    ],
)
@awaited
async def test_every_verb_asks_whose_row_it_is(world: World, kind: str, who: str, refusal: Any):
    assert await outcomes(world, kind, getattr(world, who)) == dict.fromkeys(VERBS, refusal)


@pytest.mark.parametrize("kind", ENTITIES)
@pytest.mark.parametrize("who", ["bob", "root"])
@pytest.mark.parametrize("reason", ["logged out", {"is_active": False}, "deleted"], ids=str)
@awaited
async def test_no_verb_acts_for_a_token_that_no_longer_holds(world: World, kind: str, who: str, reason: Any):
    caller = getattr(world, who)
    if reason == "deleted":
        await users.delete(world.application, caller.id)
    elif reason == "logged out":
        await sessions.delete(world.application, caller.identity.session_id)
    else:
        await users.update(world.application, caller.id, **reason)
    assert await outcomes(world, kind, caller) == dict.fromkeys(VERBS, Unauthenticated)


@pytest.mark.parametrize(("kind", "refusal"), [("owned", Missing), ("shared", None), ("restricted", Forbidden)])
@awaited
async def test_a_demoted_superuser_is_a_user_from_the_next_verb_on(world: World, kind: str, refusal: Any):
    await users.update(world.application, world.root.id, is_superuser=False)
    assert await outcomes(world, kind, world.root) == dict.fromkeys(VERBS, refusal)
    assert (await bookings.create(world.root, booking(3))).owner_id == world.root.id


@pytest.mark.parametrize("kind", ENTITIES)
@awaited
async def test_a_promoted_user_is_a_superuser_from_the_next_verb_on(world: World, kind: str):
    await users.update(world.application, world.bob.id, is_superuser=True)
    assert await outcomes(world, kind, world.bob) == dict.fromkeys(VERBS, None)
    assert await users.update(world.bob, world.ann.id, UserUpdate(full_name="Ann Archer"))


@awaited
async def test_an_id_is_never_given_twice(world: World):
    first = await bookings.create(world.ann, booking())
    await bookings.delete(world.ann, first.id)
    second = await bookings.create(world.ann, booking())
    eve = await sign_up(world.application, "eve")
    await users.delete(world.application, eve.id)
    mallory = await sign_up(world.application, "mallory")
    assert (second.id, mallory.id) == (first.id + 1, eve.id + 1)
    with pytest.raises(Unauthenticated):
        await users.get(eve, eve.id)


@awaited
async def test_of_parallel_creations_of_one_thing_one_succeeds(world: World):
    attempts = (bookings.create(world.ann, booking()) for _ in range(40))
    results = await asyncio.gather(*attempts, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["BookingRead"] + ["Clash"] * 39


@awaited
async def test_no_parallel_change_is_lost(world: World):
    row = await bookings.create(world.ann, booking())
    attempts = (bookings.update(world.ann, row.id, BookingUpdate(ends=100 + n)) for n in range(40))
    assert sorted(row.version for row in await asyncio.gather(*attempts)) == list(range(2, 42))


@awaited
async def test_of_parallel_changes_of_one_version_one_succeeds(world: World):
    row = await bookings.create(world.ann, booking())
    attempts = (bookings.update(world.ann, row.id, BookingUpdate(ends=100 + n), version=1) for n in range(40))
    results = await asyncio.gather(*attempts, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["BookingRead"] + ["Stale"] * 39


@awaited
async def test_parallel_changes_and_deletions_of_one_row_end_in_a_row_or_a_refusal(world: World):
    await bookings.create(world.ann, booking(8, 9))
    row = await bookings.create(world.ann, booking(9, 10))
    attempts: list[Any] = []
    for n in range(20):
        version = {"version": n % 3} if n % 2 else {}
        attempts += [
            bookings.update(world.ann, row.id, BookingUpdate(ends=100 + n), **version),
            bookings.update(world.ann, row.id, BookingUpdate(starts=8)),
            bookings.delete(world.ann, row.id, version=None if n > 15 else n),
        ]
    results = await asyncio.gather(*attempts, return_exceptions=True)
    assert {type(result).__name__ for result in results} <= {"BookingRead", "NoneType", "Missing", "Clash", "Stale"}
    assert sum(result is None for result in results) == 1
    assert [row.starts for row in await bookings.page(world.ann)] == [8]


@pytest.mark.parametrize(
    "said",
    [
        "Zürich",
        "鈴木 由紀",
        "🐙 𐍈 𝄞",
        "e\u0301 \u202e",
        "'; DROP TABLE items; -- % ? $1 :x \\",
        "a\n\tb\r\n",
        "",
        " a ",
    ],
)
@awaited
async def test_text_comes_back_as_it_was_sent(world: World, said: str):
    item = await items.create(world.ann, ItemCreate(title="Foo", description=said))
    changed = await items.update(world.ann, item.id, ItemUpdate(description=said + "!"))
    (found,) = await items.page(world.ann, description=said + "!")
    assert (item.description, changed.description, found.description) == (said, said + "!", said + "!")


@pytest.mark.parametrize(
    "said", ["x" * 300, "🐙" * 300, "a\0b", "a\ud800b"], ids=lambda said: f"{len(said)} of {said[-1]!a}"
)
@awaited
async def test_text_that_no_column_holds_is_kept_whole_or_refused(world: World, said: str):
    # model_construct: past the validation that every client meets.
    try:
        stored = (await items.create(world.ann, ItemCreate.model_construct(title=said))).title
    except Exception:
        stored = None
    assert stored in (said, None)
    assert [item.title for item in await items.page(world.ann)] == ([said] if stored else [])


@pytest.mark.parametrize("number", [2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**400])
@awaited
async def test_a_number_that_no_column_holds_is_kept_whole_or_refused(world: World, number: int):
    try:
        stored = (await bookings.create(world.ann, booking(min(0, number), max(1, number)))).ends
    except Invalid:
        stored = None
    assert stored in (max(1, number), None)
    assert [row.ends for row in await bookings.page(world.ann)] == ([stored] if stored else [])


class Meanwhile:
    """A database on which `act` happens right after the first statement."""

    def __init__(self, db: Any, act: Coroutine[Any, Any, Any]) -> None:
        self.db, self.dialect, self.act = db, db.dialect, act

    async def run(self, statement: Any, values: Any) -> Any:
        rows = await self.db.run(statement, values)
        if self.act:
            act, self.act = self.act, None
            await act
        return rows


@pytest.mark.parametrize("verb", ["update", "delete"])
@awaited
async def test_what_is_reported_done_is_done_even_if_the_callers_role_turns_meanwhile(world: World, verb: str):
    row = await bookings.create(world.ann, booking(9, 10))
    await users.update(world.application, world.ann.id, is_superuser=True)
    demotion = users.update(world.application, world.ann.id, is_superuser=False)
    # Her token says user; the statement finds a superuser, and whoever asks afterwards a user again.
    ann = replace(world.ann, db=Meanwhile(world.db, demotion))
    if verb == "update":
        assert (await bookings.update(ann, row.id, BookingUpdate(ends=11))).ends == 11
        assert (await bookings.get(world.ann, row.id)).version == 2
    else:
        await bookings.delete(ann, row.id)
        assert await bookings.page(world.ann) == []
