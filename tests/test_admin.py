"""Administration is for superusers: everybody else is stopped at the door, at every address behind it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlmodel import Session, SQLModel, select

from app import accounts
from app.accounts.machines import revoke_machine_tokens
from app.crud import machine_tokens, transaction, users
from app.engine import migrations
from app.engine.caller import Caller
from app.engine.database import connect
from app.engine.hashing import Hasher
from app.errors import Clash, Forbidden, Unauthenticated
from app.main import app
from app.models import AccountCreate, MachineTokenCreate
from app.models.user import UserBase
from app.security import Identity
from tests.conftest import PASSWORD, Person
from tests.scratch import STAMP, begin_session
from tests.test_items import give_items

# From the schema itself, so that a route added tomorrow is asked too.
OPERATIONS = [
    (method.upper(), path, operation)
    for path, operations in app.openapi()["paths"].items()
    for method, operation in operations.items()
]
ADMIN = [(method, path) for method, path, _ in OPERATIONS if path.startswith("/api/v1/admin")]
SECURED = [(method, path) for method, path, operation in OPERATIONS if operation.get("security")]
OPEN = {"log_in", "revoke_token", "create_user", "confirm", "read_health", "read_readiness"}
OPEN |= {"ask_for_reset", "reset_password"}


def url(path: str, number: int = 1) -> str:
    return path.replace("{user_id}", str(number)).replace("{item_id}", "1")


@pytest.mark.promise("U14")
def test_nothing_is_open_but_signing_up_logging_in_and_health():
    assert {operation["operationId"] for _, _, operation in OPERATIONS if not operation.get("security")} == OPEN


@pytest.mark.promise("U13", "A06")
@pytest.mark.parametrize(("method", "path"), SECURED)
def test_whatever_asks_for_a_token_is_closed_without_one(client: TestClient, ann: Person, method: str, path: str):
    ann.post("/items", {"title": "Foo"})
    for address in (url(path), url(path).replace("/v1/", "/latest/"), url(path) + "/"):
        response = client.request(method, address, json={"title": "Bar"} if method in ("POST", "PATCH") else None)
        assert (response.status_code, response.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert [item["title"] for item in ann.get("/items").json()] == ["Foo"]


def test_the_administration_is_what_it_was_meant_to_be():
    # An empty list would make the next test prove nothing.
    assert [path.removeprefix("/api/v1/admin") for _, path in ADMIN] == [
        *("/history", "/counts", "/users", "/users", "/invitations"),
        *("/users/{user_id}/reset", "/users/{user_id}"),
        *(f"/users/{{user_id}}/{verb}" for verb in ("activate", "deactivate", "promote", "demote")),
    ]


@pytest.mark.promise("U11", "U12")
@pytest.mark.parametrize(("method", "path"), ADMIN)
def test_the_administration_is_closed_to_ordinary_users(ann: Person, root: Person, method: str, path: str):
    for number in (ann.id, root.id, 77):  # nor do they learn who exists
        response = ann.client.request(method, url(path, number), headers=ann.headers)
        assert (response.status_code, response.json()["detail"]) == (403, "That is for superusers.")
    ann_now, root_now = ann.get("/users/me").json(), root.get("/users/me").json()
    assert (ann_now["is_superuser"], root_now["is_superuser"], root_now["is_active"]) == (False, True, True)


@pytest.mark.parametrize(("method", "path"), ADMIN)
def test_each_door_of_the_administration_says_what_it_refuses(method: str, path: str):
    (operation,) = [operation for m, p, operation in OPERATIONS if (m, p) == (method, path)]
    assert operation["tags"][0] == "admin"
    assert {"401", "403"} <= set(operation["responses"])


def test_demoting_has_a_tag_and_a_refusal_of_its_own():
    (demote,) = [operation for _, _, operation in OPERATIONS if operation["operationId"] == "demote_user"]
    assert demote["tags"] == ["admin", "superusers"]
    assert demote["responses"]["403"]["description"] == "You cannot demote yourself"


def test_every_account_is_listed_newest_first(ann: Person, bob: Person, root: Person):
    root.post(f"/admin/users/{bob.id}/deactivate")
    listed = root.get("/admin/users").json()
    assert [(user["username"], user["is_active"]) for user in listed] == [("root", True), ("bob", False), ("ann", True)]
    assert root.get("/admin/users?skip=1&limit=1").json() == listed[1:2]
    assert root.get("/admin/users?limit=101").status_code == 422


def test_the_counts_are_exact(ann: Person, bob: Person, root: Person):
    give_items(ann, 2)
    give_items(root, 1)
    root.post(f"/admin/users/{bob.id}/deactivate")
    assert root.get("/admin/counts").json() == {"users": 3, "active_users": 2, "superusers": 1, "items": 3}


def test_a_deactivated_user_is_shut_out_and_let_in_again(ann: Person, root: Person):
    give_items(ann, 1)
    response = root.post(f"/admin/users/{ann.id}/deactivate")
    assert (response.status_code, response.json()["is_active"], response.json()["version"]) == (200, False, 2)
    assert (ann.get("/items").status_code, ann.log_in().status_code) == (401, 400)
    response = root.post(f"/admin/users/{ann.id}/activate")
    assert (response.status_code, response.json()["is_active"]) == (200, True)
    # A token from before stays dead: it may be the reason why somebody was shut out.
    assert ann.get("/items").status_code == 401
    assert ann.log_in().status_code == 200
    assert [item["title"] for item in ann.get("/items").json()] == ["item 1"]


@pytest.mark.promise("U18")
def test_nobody_demotes_themselves(ann: Person, root: Person):
    root.post(f"/admin/users/{ann.id}/promote")
    response = root.post(f"/admin/users/{root.id}/demote")
    assert (response.status_code, response.json()["detail"]) == (
        403,
        "You cannot demote yourself. Ask another superuser.",
    )
    assert root.get("/users/me").json()["is_superuser"] is True


def test_a_deactivated_superuser_can_be_demoted_by_the_last(ann: Person, root: Person):
    root.post(f"/admin/users/{ann.id}/promote")
    root.post(f"/admin/users/{ann.id}/deactivate")
    assert root.post(f"/admin/users/{ann.id}/demote").json()["is_superuser"] is False


@pytest.mark.parametrize("verb", ["activate", "deactivate", "promote", "demote", "reset"])
def test_nobody_there_is_nobody_to_change(root: Person, verb: str):
    assert root.post(f"/admin/users/77/{verb}").status_code == 404
    assert root.delete("/admin/users/77").status_code == 404


# Creating, resetting, deleting


CID = {"username": "Cid", "email": "Cid@Example.com"}


def test_a_superuser_creates_an_account_and_is_shown_its_password_once(client: TestClient, root: Person):
    answer = root.post("/admin/users", CID | {"full_name": "Cid Carver"})
    made = answer.json()
    assert (answer.status_code, answer.headers["Location"]) == (201, f"/api/v1/users/{made['id']}")
    password = made.pop("password")
    assert root.get(f"/users/{made['id']}").json() == made | {"items": []}
    assert (made["username"], made["email"], made["is_superuser"]) == ("cid", "cid@example.com", False)
    cid = Person(client, "cid")
    assert cid.log_in(password).status_code == 200
    assert cid.get("/admin/counts").status_code == 403


def test_a_superuser_creates_another_with_a_password_that_is_given(client: TestClient, root: Person):
    answer = root.post("/admin/users", CID | {"password": PASSWORD, "is_superuser": True})
    assert (answer.status_code, answer.json()["password"], PASSWORD in answer.text) == (201, None, False)
    cid = Person(client, "cid")
    assert cid.log_in().status_code == 200
    assert cid.get("/admin/counts").json()["superusers"] == 2


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        *(({"username": "ANN"}, 409), ({"email": "Ann@example.com"}, 409), ({"password": "short"}, 422)),
        *(({"username": "c d"}, 422), ({"email": None}, 422), ({"is_active": False}, 422), ({"id": 7}, 422)),
    ],
    ids=str,
)
def test_an_account_that_cannot_be_is_not_created(ann: Person, root: Person, changed: dict[str, Any], status: int):
    assert root.post("/admin/users", CID | changed).status_code == status
    assert root.get("/admin/counts").json()["users"] == 2


def test_a_password_that_is_shown_once_is_kept_under_no_key(ann: Person, root: Person):
    for path, body in (("/admin/users", CID), (f"/admin/users/{ann.id}/reset", None)):
        answer = root.client.post(f"/api/v1{path}", json=body, headers=(root.headers or {}) | {"Idempotency-Key": "k"})
        assert answer.status_code == 422
    assert (root.get("/admin/counts").json()["users"], ann.log_in().status_code) == (2, 200)


@pytest.mark.promise("A25", "A31")
def test_a_reset_ends_all_by_which_a_thief_could_be_in(client: TestClient, ann: Person, bob: Person, root: Person):
    login = {"username": "ann", "password": PASSWORD}
    refresh_token = client.post("/api/v1/token", data=login).json()["refresh_token"]
    mine, bobs = (person.post("/machine_tokens", {"name": "backups"}).json()["token"] for person in (ann, bob))
    reset = root.post(f"/admin/users/{ann.id}/reset").json()

    assert (reset["username"], reset["version"]) == ("ann", 2)
    assert ann.get("/users/me").status_code == 401
    form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
    assert client.post("/api/v1/token", data=form).status_code == 400
    by_machine = [client.get("/api/v1/users/me", headers={"X-Token": token}).status_code for token in (mine, bobs)]
    assert by_machine == [401, 200]
    assert (ann.log_in().status_code, ann.log_in(reset["password"]).status_code) == (400, 200)
    assert bob.get("/users/me").status_code == 200


def test_a_reset_takes_the_address_from_a_thief_who_has_changed_it(ann: Person, bob: Person, root: Person):
    ann.patch("/users/me", {"email": "thief@example.com", "current_password": PASSWORD})
    reset = f"/admin/users/{ann.id}/reset"
    assert (root.post(reset, {"email": bob.email}).status_code, ann.get("/users/me").status_code) == (409, 200)
    assert root.post(reset, {"email": "nowhere"}).status_code == 422
    answer = root.post(reset, {"email": "Ann@Example.com"}).json()
    assert (answer["email"], answer["is_verified"]) == ("ann@example.com", False)
    assert ann.log_in(answer["password"]).status_code == 200


@pytest.mark.promise("P12")
def test_nobody_resets_or_deletes_themselves_without_their_password(ann: Person, root: Person):
    root.post(f"/admin/users/{ann.id}/promote")
    for answer in (root.post(f"/admin/users/{root.id}/reset"), root.delete(f"/admin/users/{root.id}")):
        assert answer.status_code == 403
    assert root.get("/users/me").json()["version"] == 1
    for path in ("/users/me/password", "/users/me/delete"):
        told = root.post(f"/admin/users/{root.id}/reset"), root.delete(f"/admin/users/{root.id}")
        assert any(path in answer.json()["detail"] for answer in told)


@pytest.mark.promise("A22", "A31", "U15")
@pytest.mark.parametrize("by", ["a superuser", "herself"])
def test_with_an_account_all_goes_that_was_theirs_at_once(client: TestClient, ann: Person, root: Person, by: str):
    login = {"username": "ann", "password": PASSWORD}
    refresh_token = client.post("/api/v1/token", data=login).json()["refresh_token"]
    token = ann.post("/machine_tokens", {"name": "backups"}).json()["token"]
    key = (ann.headers or {}) | {"Idempotency-Key": "k"}
    item = client.post("/api/v1/items", json={"title": "Foo"}, headers=key).json()
    kept = ann.get("/users/me"), root.post("/items", {"title": "Bar"})
    assert [answer.status_code for answer in kept] == [200, 201]

    if by == "herself":
        gone = ann.post("/users/me/delete", {"current_password": PASSWORD})
    else:
        gone = root.delete(f"/admin/users/{ann.id}")
    assert (gone.status_code, gone.content) == (204, b"")
    form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
    refused = ann.log_in(), client.post("/api/v1/token", data=form)
    assert [answer.status_code for answer in refused] == [400, 400]
    in_her_name = ann.headers, {"X-Token": token}, key
    assert [client.get("/api/v1/items", headers=headers).status_code for headers in in_her_name] == [401] * 3
    assert root.get(f"/items/{item['id']}").status_code == root.get(f"/users/{ann.id}").status_code == 404
    with Session(client.app.state.session_engine) as session:
        whose = {
            table.name: table.c.get("owner_id", table.c.get("user_id")) for table in SQLModel.metadata.sorted_tables
        }
        owners = {
            name: set(session.scalars(select(column)))
            for name, column in whose.items()
            if column is not None and not name.startswith("scratch") and name != "changes"
        }
    assert {name for name, ids in owners.items() if ann.id in ids} == set()
    assert owners["items"] == owners["sessions"] == {root.id}


def test_nobody_deletes_their_account_without_the_password(ann: Person):
    assert ann.post("/users/me/delete", {}).status_code == 422
    assert ann.delete("/users/me").status_code == 405
    refused = ann.post("/users/me/delete", {"current_password": "four plain words apart"})
    assert (refused.status_code, refused.json()["detail"]) == (403, "The current password is wrong.")
    assert ann.get("/users/me").status_code == 200


def test_who_was_deleted_can_sign_up_anew_and_is_another(client: TestClient, ann: Person, root: Person):
    ann.post("/items", {"title": "Foo"})
    root.delete(f"/admin/users/{ann.id}")
    before, again = ann.headers, {"username": "ann", "email": "ann@example.com", "password": PASSWORD}
    assert client.post("/api/v1/users", json=again).json()["id"] > root.id
    assert ann.log_in().status_code == 200
    assert ann.get("/items").json() == []
    assert client.get("/api/v1/items", headers=before).status_code == 401


@pytest.mark.promise("U18")
def test_the_last_superuser_cannot_go_by_any_door(ann: Person, root: Person):
    root.post(f"/admin/users/{ann.id}/promote")
    root.post(f"/admin/users/{ann.id}/deactivate")  # one who is shut out does not count
    doors = [
        *(("POST", f"/admin/users/{root.id}/{verb}") for verb in ("demote", "deactivate")),
        *(("DELETE", f"/admin/users/{root.id}"), ("POST", "/users/me/delete")),
    ]
    proof = {"current_password": PASSWORD}
    statuses = [
        root.client.request(method, f"/api/v1{path}", json=proof, headers=root.headers).status_code
        for method, path in doors
    ]
    assert statuses == [403, 409, 403, 409]
    me = root.get("/users/me").json()
    assert (me["is_active"], me["is_superuser"], me["version"]) == (True, True, 1)
    root.post(f"/admin/users/{ann.id}/activate")
    assert root.post("/users/me/delete", proof).status_code == 204


def test_every_act_of_the_administration_is_in_the_history_and_whose_it_was(ann: Person, root: Person):
    cid = root.post("/admin/users", CID).json()["id"]
    token = ann.post("/machine_tokens", {"name": "backups"}).json()["id"]
    before = ann.get("/users/me").json()
    for verb in ("deactivate", "activate", "promote", "demote", "reset"):
        assert root.post(f"/admin/users/{ann.id}/{verb}").status_code == 200
    root.delete(f"/admin/users/{ann.id}")
    told = []
    for each in reversed(root.get("/admin/history").json()):
        if each["user_id"] == root.id:
            changed = set()
            if (each["entity"], each["row_id"]) == ("users", ann.id):
                changed = {name for name in before if each["row"][name] != before[name]}
                before = each["row"]
            told.append((each["entity"], each["row_id"], each["action"], changed - {"updated_at", "version"}))
    assert told == [
        ("users", cid, "created", set()),
        *[("users", ann.id, "changed", {name}) for name in ["is_active"] * 2 + ["is_superuser"] * 2],
        ("users", ann.id, "changed", {"credentials_changed_at"}),
        ("machine_tokens", token, "deleted", set()),
        ("users", ann.id, "deleted", set()),
    ]


SHUTS_OUT = [
    lambda caller, user_id: accounts.set_superuser(caller, user_id, False),
    lambda caller, user_id: accounts.set_active(caller, user_id, False),
    accounts.delete_account,
]


@contextmanager
def two_superusers(database_url: str, folder: Path) -> Iterator[tuple[asyncio.Runner, Caller, list[int]]]:
    """As for two processes, and the application itself, as it acts for the command line."""
    # In a file, so that somebody can read while a transaction is not yet committed.
    url = database_url if database_url.startswith("postgresql") else f"sqlite:///{folder}/race.db"
    migrations.upgrade(url)
    with asyncio.Runner() as runner:
        opened = connect(url)
        application = Caller(runner.run(opened.__aenter__()))
        ids = []
        for name in ("root", "ann"):
            data = UserBase(username=name, email=f"{name}@example.com")
            made = runner.run(users.create(application, data, hashed_password="", is_superuser=True))
            ids.append(made.id)
        try:
            yield runner, application, ids
        finally:
            runner.run(opened.__aexit__(None, None, None))


@pytest.mark.promise("U18")
@pytest.mark.parametrize("first", SHUTS_OUT)
@pytest.mark.parametrize("second", SHUTS_OUT)
def test_of_two_who_shut_out_the_last_two_at_once_one_is_refused(
    database_url: str, tmp_path: Path, first: Any, second: Any
):
    with two_superusers(database_url, tmp_path) as (runner, application, (root, ann)):

        async def race() -> list[Any]:
            return await asyncio.gather(first(application, root), second(application, ann), return_exceptions=True)

        refused = [answer for answer in runner.run(race()) if isinstance(answer, Exception)]
        assert [type(each) for each in refused] == [Clash]
        left = runner.run(users.page(application, limit=10))
        assert len([each for each in left if each.is_superuser and each.is_active]) == 1


LAST_ACTS = {
    "promote": lambda caller: accounts.set_superuser(caller, caller.id, True),
    "create": lambda caller: accounts.create_account(
        caller, Hasher(rounds=4), AccountCreate(username="eve", email="eve@example.com", is_superuser=True)
    ),
    "reset": lambda caller: accounts.reset_account(caller, Hasher(rounds=4), caller.id),
    "delete": lambda caller: accounts.delete_account(caller, caller.id),
}


@pytest.mark.parametrize("act", LAST_ACTS)
def test_whoever_is_being_demoted_does_nothing_more_meanwhile(database_url: str, tmp_path: Path, act: str):
    with two_superusers(database_url, tmp_path) as (runner, application, (root, ann)):

        async def race() -> object:
            async with transaction(application) as tx:
                await users.update(tx, ann, is_superuser=False)
                attempt = asyncio.create_task(LAST_ACTS[act](replace(application, identity=Identity(ann, True))))
                await asyncio.sleep(0.2)
            return (await asyncio.gather(attempt, return_exceptions=True))[0]

        assert type(runner.run(race())) is Forbidden
        left = runner.run(users.page(application, limit=10))
        assert [(each.id, each.is_superuser, each.version) for each in left] == [(ann, False, 2), (root, True, 1)]


def test_a_machine_token_that_is_made_during_a_reset_ends_with_the_others(database_url: str, tmp_path: Path):
    with two_superusers(database_url, tmp_path) as (runner, application, (_root, ann)):

        async def race() -> tuple[object, list[Any]]:
            thief = replace(application, identity=Identity(ann, True, await begin_session(application, ann), STAMP))
            async with transaction(application) as tx:
                await accounts.set_password(tx, ann, "")
                await revoke_machine_tokens(tx, ann)
                attempt = asyncio.create_task(accounts.create_machine_token(thief, MachineTokenCreate(name="mine")))
                await asyncio.sleep(0.2)
            (answer,) = await asyncio.gather(attempt, return_exceptions=True)
            return answer, await machine_tokens.page(application)

        answer, tokens = runner.run(race())
        assert (type(answer), tokens) == (Unauthenticated, [])
