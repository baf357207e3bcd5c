"""Scopes: a token may do what its scope says, and never more than its user. Routes declare it, and every verb asks."""

import itertools
import json
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI
from fastapi.testclient import TestClient

from app.crud import items, transaction, users
from app.deps import Caller as CallerDep
from app.deps import CurrentUser, may, reads
from app.engine.bulk import Bulk
from app.engine.caller import Caller
from app.engine.history import History
from app.engine.http import dispatch
from app.engine.restoring import restore
from app.engine.scopes import known
from app.errors import Forbidden, InsufficientScope, Missing, Refusal
from app.main import create_app
from app.models import Item, ItemCreate, ItemRead
from app.security import create_access_token, read_access_token
from app.settings import Settings
from tests.conftest import PASSWORD, Person, sign_up
from tests.entities import World as Routes
from tests.scratch import BookingUpdate, NoticeCreate, World, awaited, booking, bookings, ledgers, world_at

OF_A_USER = {"items", "users", "sessions", "machine_tokens"}


def log_in(client: TestClient, scope: str, username: str = "ann") -> Any:
    return client.post("/api/v1/token", data={"username": username, "password": PASSWORD, "scope": scope})


def refresh(client: TestClient, answer: Any, **form: str) -> Any:
    form |= {"grant_type": "refresh_token", "refresh_token": answer.json()["refresh_token"]}
    return client.post("/api/v1/token", data=form)


def call(answer: Any, client: TestClient, method: str, path: str, **options: Any) -> Any:
    headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    return client.request(method, f"/api/v1{path}", headers=headers, **options)


# Asking for them


def test_who_asks_for_nothing_gets_all_that_they_may(client: TestClient, ann: Person, root: Person):
    for scope in ("", None):
        form = {"username": "ann", "password": PASSWORD} | ({} if scope is None else {"scope": scope})
        answer = client.post("/api/v1/token", data=form)
        told = answer.json()["scope"].split()
        assert {f"{name}:{how}" for name in OF_A_USER for how in ("read", "write")} <= {*told}
        assert "admin" not in told
    assert "admin" in log_in(client, "", "root").json()["scope"].split()


def test_the_answer_says_what_was_granted_and_the_token_does_that_and_no_more(client: TestClient, ann: Person):
    answer = log_in(client, "items:read  users:read")
    assert answer.json()["scope"] == "items:read users:read"
    assert [call(answer, client, "GET", path).status_code for path in ("/items", "/users/me")] == [200, 200]
    refused = call(answer, client, "POST", "/items", json={"title": "Foo"})
    assert refused.status_code == 403
    assert refused.headers["WWW-Authenticate"] == 'Bearer error="insufficient_scope", scope="items:write"'
    assert refused.json()["detail"] == "That takes a token with items:write in its scope."
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert ann.get("/items").json() == []


@pytest.mark.parametrize(
    ("scope", "username", "granted"),
    [
        ("admin items:read", "ann", "items:read"),
        ("admin items:read", "root", "admin items:read"),
        ("admin", "root", "admin"),
    ],
)
def test_nobody_gets_more_than_their_role_has(
    client: TestClient, ann: Person, root: Person, scope: str, username: str, granted: str
):
    assert log_in(client, scope, username).json()["scope"] == granted


@pytest.mark.parametrize("scope", ["admin", " ", "items", "items:read nonsense", "items:read,users:read", "ITEMS:READ"])
def test_what_is_no_scope_or_cannot_be_granted_is_refused(client: TestClient, ann: Person, scope: str):
    answer = log_in(client, scope)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_scope")
    assert len(ann.get("/sessions").json()) == 1


def test_a_token_with_an_empty_scope_may_do_nothing(client: TestClient, ann: Person, settings: Settings):
    # None is ever given out; should there be one, it must not be taken for one without.
    identity = read_access_token(log_in(client, "items:read").json()["access_token"], keys=settings.keys)
    token = create_access_token(replace(identity, scopes=frozenset()), keys=settings.keys, minutes=1)
    headers = {"Authorization": f"Bearer {token}"}
    assert [client.get(f"/api/v1{path}", headers=headers).status_code for path in ("/items", "/users/me")] == [403, 403]


def test_a_refresh_keeps_the_scope_or_narrows_it_and_never_widens_it(client: TestClient, ann: Person):
    first = log_in(client, "items:read users:read")
    second = refresh(client, first)
    assert second.json()["scope"] == "items:read users:read"
    third = refresh(client, second, scope="items:read")
    assert third.json()["scope"] == "items:read"
    assert call(third, client, "GET", "/users/me").status_code == 403
    for scope in ("items:write", "items:read items:write", "nonsense", "admin"):
        refused = refresh(client, third, scope=scope)
        assert (refused.status_code, refused.json()["error"]) == (400, "invalid_scope")
    # With that its token was not spent.
    fourth = refresh(client, third)
    assert fourth.json()["scope"] == "items:read users:read"


def test_who_is_promoted_gains_no_scope_that_was_not_granted(client: TestClient, ann: Person, root: Person):
    scoped, whole = log_in(client, "admin items:read users:read"), log_in(client, "")
    other = root.post("/items", {"title": "Root's"}).json()
    root.post(f"/admin/users/{ann.id}/promote")
    for answer in (scoped, refresh(client, scoped)):
        assert call(answer, client, "GET", "/items").json() == []
        assert call(answer, client, "GET", f"/items/{other['id']}").status_code == 404
        assert call(answer, client, "GET", "/admin/counts").status_code == 403
    assert "admin" not in refresh(client, log_in(client, "items:read")).json()["scope"]
    # Without a scope it is all that she may now.
    for answer in (whole, refresh(client, whole)):
        assert call(answer, client, "GET", "/items").json() == [other]


@pytest.mark.promise("A32")
def test_a_demoted_superusers_token_loses_admin_at_once(client: TestClient, ann: Person, root: Person):
    root.post(f"/admin/users/{ann.id}/promote")
    theirs, mine = root.post("/items", {"title": "Root's"}).json(), ann.post("/items", {"title": "Ann's"}).json()
    answer, only = log_in(client, "admin items:read"), log_in(client, "admin")
    assert call(answer, client, "GET", "/items").json() == [mine, theirs]
    root.post(f"/admin/users/{ann.id}/demote")
    assert call(answer, client, "GET", "/items").json() == [mine]
    refused = call(answer, client, "GET", "/admin/counts")
    assert (refused.status_code, refused.json()["detail"]) == (403, "That is for superusers.")
    # Of `admin` alone nothing is left; promoted again, it is what was granted.
    assert refresh(client, only).json()["error"] == "invalid_scope"
    root.post(f"/admin/users/{ann.id}/promote")
    assert refresh(client, only).json()["scope"] == "admin"


def test_a_token_may_end_itself_whatever_its_scope(client: TestClient, ann: Person):
    answer = log_in(client, "items:read")
    assert call(answer, client, "DELETE", "/sessions").status_code == 403
    assert call(answer, client, "POST", "/logout").status_code == 204
    assert call(answer, client, "GET", "/items").status_code == 401
    assert ann.get("/items").status_code == 200


def test_who_has_another_role_by_now_logs_out_everywhere_too(client: TestClient, ann: Person, root: Person):
    root.post(f"/admin/users/{ann.id}/promote")
    assert ann.delete("/sessions").status_code == 204  # by the token from before
    assert ann.get("/users/me").status_code == 401


# What routes declare


@pytest.mark.promise("U12")
def test_an_operation_takes_the_scopes_that_it_declares_and_no_others(client: TestClient):
    world, number = Routes(client), 0
    of_kinds = tuple(f"/api/v1{kind.path}" for kind in world.kinds.values())  # test_contract.py has those
    for method, path, operation in world.operations():
        if "security" not in operation or path.startswith(of_kinds):
            continue
        # Other people for each: some of these shut somebody out.
        number += 1
        root, other = (sign_up(client, f"{name}-{number}", is_superuser=True) for name in ("root", "other"))
        bob = sign_up(client, f"bob-{number}")
        body, address = sent(world, operation), re.sub(r"{\w+}", str(bob.id), path.removeprefix("/api/v1"))
        needed = world.scopes(operation)
        machine = world.machine(other, *needed)
        for scope in needed:
            refused = world.ask(world.scoped(root, *(known.keys() - {scope})), method, address, body)
            assert (path, refused.status_code) == (path, 403)
            assert refused.headers["WWW-Authenticate"].startswith('Bearer error="insufficient_scope"')
        callers = [world.scoped(root, *needed), machine]
        for caller in callers[: 1 if operation["operationId"] == "delete_me" else 2]:  # one goes only once
            answer = world.ask(caller, method, address, body)
            assert (path, answer.headers.get("WWW-Authenticate")) == (path, None)
            assert (path, answer.status_code < 500) == (path, True)
    assert number >= 22


def sent(world: Routes, operation: dict[str, Any]) -> Any:
    """What must be in its body, by the examples in the document."""
    if not operation.get("requestBody", {}).get("required"):
        return None
    name = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    model = world.document["components"]["schemas"][name]
    fields = {name: of.get("examples", [PASSWORD]) for name, of in model["properties"].items()}
    return {name: fields[name][0] for name in model.get("required", ())}


@pytest.mark.once
def test_the_document_names_every_scope_that_an_operation_takes_and_says_what_it_allows():
    document = json.loads(json.dumps(create_app(Settings()).openapi()))
    told = document["components"]["securitySchemes"]["Login"]["flows"]["password"]["scopes"]
    operations = [each for of in document["paths"].values() for each in of.values()]
    taken = {
        scope for each in operations for of in each.get("security", ()) for scopes in of.values() for scope in scopes
    }
    assert taken == told.keys()
    assert told["items:read"] == "Read items."
    assert told["machine_tokens:write"] == "Create, change and delete machine tokens."


# A route that declares nothing, or something of its own


def guard(_caller: Annotated[Caller, may("audit")]) -> None:
    """Of a router."""


undeclared = APIRouter(prefix="/api/v1/undeclared")


@undeclared.get("/read")
async def read_undeclared(caller: CallerDep) -> list[ItemRead]:
    return await items.page(caller)


@undeclared.post("/write", status_code=201)
async def write_undeclared(caller: CallerDep, data: ItemCreate) -> ItemRead:
    async with transaction(caller) as tx:
        await items.page(tx)
        return await items.create(tx, data)


@undeclared.post("/application")
async def write_as_application(caller: CallerDep, data: ItemCreate) -> ItemRead:
    return await items.create(caller.as_application(), data, owner_id=caller.id)


@undeclared.get("/user")
async def read_current_user(user: CurrentUser) -> str:
    return user.username


@undeclared.get("/guarded", dependencies=[Depends(guard), reads(Item)])
async def read_guarded(caller: CallerDep) -> int:
    return caller.id


@pytest.fixture
def undeclared_client(start: Callable[..., TestClient], settings: Settings) -> TestClient:
    app: FastAPI = create_app(settings)
    app.include_router(undeclared)
    dispatch.install(app)
    return start(app)


def test_a_route_that_declares_nothing_is_refused_by_its_verbs(undeclared_client: TestClient):
    client = undeclared_client
    sign_up(client, "ann")
    reader, writer, other = (log_in(client, scope) for scope in ("items:read", "items:write", "users:read"))
    foo = {"title": "Foo"}
    assert [
        call(each, client, method, path, json=body).status_code
        for method, path, body in (("GET", "/undeclared/read", None), ("POST", "/undeclared/write", foo))
        for each in (reader, writer, other)
    ] == [200, 200, 403, 403, 201, 403]
    refused = call(reader, client, "POST", "/undeclared/write", json=foo)
    assert refused.headers["WWW-Authenticate"] == 'Bearer error="insufficient_scope", scope="items:write"'
    # What the application does after a check of the route's own is nobody else's to refuse.
    assert call(other, client, "POST", "/undeclared/application", json=foo).status_code == 200
    assert [call(each, client, "GET", "/undeclared/user").status_code for each in (reader, other)] == [403, 200]


def test_of_a_guard_and_a_route_both_are_asked(undeclared_client: TestClient):
    client = undeclared_client
    sign_up(client, "ann")
    answers = [log_in(client, scope) for scope in ("items:read", "audit", "audit items:read")]
    assert [call(each, client, "GET", "/undeclared/guarded").status_code for each in answers] == [403, 403, 200]
    told = client.app.openapi()["paths"]["/api/v1/undeclared/guarded"]["get"]["security"]
    assert told == [{kind: ["audit", "items:read"]} for kind in ("Login", "MachineToken")]


@pytest.mark.promise("I18")
def test_a_token_that_may_less_is_not_shown_what_another_was_answered(undeclared_client: TestClient):
    client = undeclared_client
    sign_up(client, "ann")
    writer, other = log_in(client, "items:write"), log_in(client, "users:read")

    def ask(answer: Any) -> Any:
        headers = {"Authorization": f"Bearer {answer.json()['access_token']}", "Idempotency-Key": "1"}
        return client.post("/api/v1/undeclared/write", json={"title": "Foo"}, headers=headers)

    assert [ask(each).status_code for each in (writer, other, writer)] == [201, 422, 201]


# Verbs, whoever calls them

READ, WRITE = "scratch_bookings:read", "scratch_bookings:write"
Door = Callable[[Caller, int], Awaitable[Any]]
bulk, past, hours = Bulk(bookings), History(bookings), itertools.count()


def another() -> Any:
    return booking(hour := next(hours), hour + 1)


async def since(caller: Caller, _row_id: int) -> list[Any]:
    return (await past.since(caller))[0]


READING: dict[str, Door] = {
    "page": lambda caller, _: bookings.page(caller),
    "get": bookings.get,
    "by_ids": lambda caller, row_id: bookings.by_ids(caller, [row_id]),
    "of_row": past.of_row,
    "since": since,
}
WRITING: dict[str, Door] = {
    "create": lambda caller, _: bookings.create(caller, another()),
    "update": lambda caller, row_id: bookings.update(caller, row_id, BookingUpdate(room="Red")),
    "delete": bookings.delete,
    "bulk.create": lambda caller, _: bulk.create(caller, [another()]),
    "bulk.update": lambda caller, row_id: bulk.update(caller, [(row_id, BookingUpdate(room="Red"), None)]),
    "bulk.delete": lambda caller, row_id: bulk.delete(caller, [(row_id, None)]),
    "restore": lambda caller, row_id: restore(bookings, caller, row_id),
}
DOORS = READING | WRITING


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with world_at(database_url) as world:
        yield world


def scoped(caller: Caller, *scopes: str) -> Caller:
    assert caller.identity
    return replace(caller, identity=replace(caller.identity, scopes=frozenset(scopes)))


async def said(name: str, caller: Caller, row_id: int) -> type[Exception] | None:
    """The class of its refusal; Missing for what is empty, and None for what was done."""
    try:
        async with transaction(caller) as tx:
            answer = await DOORS[name](tx, row_id)
            return Missing if answer in ([], {}) else None
    except Refusal as refusal:
        return Missing if refusal.status == 404 else type(refusal)


async def anns(world: World, name: str) -> int:
    """A row of hers, as that verb needs it."""
    row = await bookings.create(world.ann, another())
    if name == "restore":
        await bookings.delete(world.ann, row.id)
    return row.id


@awaited
async def test_every_verb_asks_for_the_scope_of_its_entity(world: World):
    for name in DOORS:
        asked = ((READ,), (WRITE,), (*(known.keys() - {READ, WRITE}),), ())
        to_read, to_write, others, nothing = [
            await said(name, scoped(world.ann, *scopes), await anns(world, name)) for scopes in asked
        ]
        assert (name, to_read) == (name, None if name in READING else InsufficientScope)
        assert (name, to_write) == (name, None)  # what is written is shown, so it may be read
        assert (name, others, nothing) == (name, InsufficientScope, InsufficientScope)


@awaited
async def test_a_verb_that_is_refused_for_its_scope_has_done_nothing(world: World):
    reader, row = scoped(world.ann, READ), await anns(world, "update")
    for name in WRITING:
        assert (name, await said(name, reader, row)) == (name, InsufficientScope)
    (left,) = await bookings.page(world.application)
    assert (left.id, left.version) == (row, 1)


@awaited
async def test_without_admin_a_superuser_is_an_ordinary_user_in_every_verb(world: World):
    for name in DOORS:
        row, less = await anns(world, name), scoped(world.root, READ, WRITE)
        assert (name, await said(name, less, row)) == (name, await said(name, world.bob, row))
        assert (name, await said(name, less, row)) == (name, None if "create" in name else Missing)
        assert (name, await said(name, scoped(world.root, READ, WRITE, "admin"), row)) == (name, None)
        for each in await bookings.page(world.application):
            await bookings.delete(world.application, each.id)


@awaited
async def test_what_is_for_superusers_only_takes_admin(world: World):
    own = {"scratch_ledgers:read", "scratch_ledgers:write"}
    for verb, arguments in (("page", ()), ("create", (NoticeCreate(name="a"),))):
        for caller, refusal in ((scoped(world.root, *own), InsufficientScope), (scoped(world.ann, *own), Forbidden)):
            with pytest.raises(Forbidden) as refused:
                await getattr(ledgers, verb)(caller, *arguments)
            assert type(refused.value) is refusal
    assert refused.value.detail == "That is for superusers."
    with pytest.raises(InsufficientScope) as lacking:
        await ledgers.page(scoped(world.root, *own))
    assert lacking.value.headers["WWW-Authenticate"].endswith('scope="admin"')
    assert (await ledgers.create(scoped(world.root, *own, "admin"), NoticeCreate(name="a"))).id == 1


@awaited
async def test_who_is_promoted_or_demoted_meanwhile_keeps_what_their_token_may(world: World):
    for caller, becomes in ((scoped(world.ann, READ, WRITE), True), (scoped(world.root, READ, WRITE), False)):
        await users.update(world.application, caller.id, is_superuser=becomes)
        # Without admin the role is the same before and after; the token still says the old one.
        row = await bookings.create(caller, another())
        assert await bookings.page(caller) == [row]
        assert (await bookings.update(caller, row.id, BookingUpdate(room="Red"))).version == 2
        await bookings.delete(caller, row.id)
