"""Administration is for superusers: everybody else is stopped at the door, at every address behind it."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from app import accounts
from app.crud import transaction, users
from app.engine import migrations
from app.engine.caller import Caller
from app.engine.database import connect
from app.errors import Clash, Forbidden
from app.main import app
from app.models import UserCreate
from app.security import Identity
from tests.conftest import PASSWORD, Person
from tests.test_items import give_items

# From the schema itself, so that a route added tomorrow is asked too.
OPERATIONS = [
    (method.upper(), path, operation)
    for path, operations in app.openapi()["paths"].items()
    for method, operation in operations.items()
]
ADMIN = [(method, path) for method, path, _ in OPERATIONS if path.startswith("/api/v1/admin")]
SECURED = [(method, path) for method, path, operation in OPERATIONS if operation.get("security")]
OPEN = {"log_in", "revoke_token", "create_user", "read_health", "read_readiness"}


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
        *("/history", "/counts", "/users"),
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


def test_a_user_is_promoted_and_demoted_at_once(ann: Person, root: Person):
    assert root.post(f"/admin/users/{ann.id}/promote").json()["is_superuser"] is True
    assert ann.get("/admin/counts").json()["superusers"] == 2
    assert root.post(f"/admin/users/{ann.id}/demote").json()["is_superuser"] is False
    assert ann.get("/admin/counts").status_code == 403


@pytest.mark.promise("U18")
def test_nobody_demotes_themselves(ann: Person, root: Person):
    root.post(f"/admin/users/{ann.id}/promote")
    response = root.post(f"/admin/users/{root.id}/demote")
    assert (response.status_code, response.json()["detail"]) == (
        403,
        "You cannot demote yourself. Ask another superuser.",
    )
    assert root.get("/users/me").json()["is_superuser"] is True


@pytest.mark.promise("U18")
def test_the_last_superuser_stays(ann: Person, root: Person):
    root.post(f"/admin/users/{ann.id}/promote")
    assert ann.post(f"/admin/users/{root.id}/deactivate").status_code == 200
    # Of two superusers one is active: her.
    assert ann.post(f"/admin/users/{ann.id}/deactivate").status_code == 409
    assert ann.get("/users/me").json()["is_active"] is True


@pytest.mark.promise("U18")
def test_the_last_superuser_stays_even_if_another_door_led_here(client: TestClient, ann: Person, root: Person):
    application: Any = Caller(client.app.state.database)
    for act in (accounts.set_superuser, accounts.set_active):
        with pytest.raises(Clash):
            client.portal.call(act, application, root.id, False)
    me = root.get("/users/me").json()
    assert (me["is_active"], me["is_superuser"], me["version"]) == (True, True, 1)


def test_a_deactivated_superuser_can_be_demoted_by_the_last(ann: Person, root: Person):
    root.post(f"/admin/users/{ann.id}/promote")
    root.post(f"/admin/users/{ann.id}/deactivate")
    assert root.post(f"/admin/users/{ann.id}/demote").json()["is_superuser"] is False


@pytest.mark.parametrize("verb", ["activate", "deactivate", "promote", "demote"])
def test_nobody_there_is_nobody_to_change(root: Person, verb: str):
    assert root.post(f"/admin/users/77/{verb}").status_code == 404


@pytest.mark.promise("U18")
def test_of_two_superusers_who_shut_each_other_out_one_stays(ann: Person, root: Person):
    root.post(f"/admin/users/{ann.id}/promote")
    acts = [(ann, root.id), (root, ann.id)]
    with ThreadPoolExecutor(2) as pool:
        statuses = sorted(pool.map(lambda act: act[0].post(f"/admin/users/{act[1]}/demote").status_code, acts))
    # How the loser is told depends on how far they came.
    assert statuses[0] == 200
    assert statuses[1] in (403, 404, 409)
    assert sorted(person.get("/users/me").json()["is_superuser"] for person in (ann, root)) == [False, True]


def test_whoever_is_being_demoted_cannot_promote_themselves_meanwhile(database_url: str, tmp_path: Path):
    # In a file, so that somebody can read while the demotion is not yet committed.
    url = database_url if database_url.startswith("postgresql") else f"sqlite:///{tmp_path}/race.db"
    migrations.upgrade(url)

    async def race() -> tuple[list[object], bool]:
        async with connect(url) as database:
            application = Caller(database)
            data = UserCreate(username="root", email="root@example.com", password=SecretStr(PASSWORD))
            root = await users.create(application, data, hashed_password="none", is_superuser=True)
            token = Caller(database, Identity(root.id, True))
            async with transaction(application) as tx:
                promotion = asyncio.create_task(accounts.set_superuser(token, root.id, True))
                await users.update(tx, root.id, is_superuser=False)
                await asyncio.sleep(0.2)
            refused = await asyncio.gather(promotion, return_exceptions=True)
            return refused, (await users.get(application, root.id)).is_superuser

    (refused,), is_superuser = asyncio.run(race())
    assert (type(refused), is_superuser) == (Forbidden, False)
