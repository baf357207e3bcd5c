"""Items belong to a user. The familiar six come first, with the X-Token header of FastAPI's own tutorial."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.models import ItemCreate, MachineTokenCreate
from tests.conftest import Person


@pytest.fixture
def x_token(client: TestClient, ann: Person) -> str:
    """A machine token that acts as ann."""
    from app import accounts
    from app.engine.caller import Caller

    async def create() -> str:
        return (
            await accounts.create_machine_token_for(
                Caller(client.app.state.database), "ann", MachineTokenCreate(name="tests")
            )
        ).token

    return client.portal.call(create)


@pytest.mark.promise("I01")
def test_read_item(client: TestClient, ann: Person, x_token: str):
    item = ann.post("/items", {"title": "Foo", "description": "There goes my hero"}).json()
    response = client.get(f"/api/v1/items/{item['id']}", headers={"X-Token": x_token})
    assert response.status_code == 200
    assert response.json() == item


def test_read_item_bad_token(client: TestClient, ann: Person):
    item = ann.post("/items", {"title": "Foo"}).json()
    response = client.get(f"/api/v1/items/{item['id']}", headers={"X-Token": "hailhydra"})
    assert response.status_code == 401
    assert response.json()["detail"] == "That X-Token is not valid, or no longer."


def test_read_inexistent_item(client: TestClient, x_token: str):
    response = client.get("/api/v1/items/77", headers={"X-Token": x_token})
    assert response.status_code == 404
    assert response.json()["detail"] == "Not found."


@pytest.mark.promise("I01", "I02")
def test_create_item(client: TestClient, ann: Person, x_token: str):
    body = {"title": "Foo Bar", "description": "The Foo Barters"}
    response = client.post("/api/v1/items", headers={"X-Token": x_token}, json=body)
    assert response.status_code == 201
    assert response.headers["Location"] == "/api/v1/items/1"
    created = response.json()
    assert created | body == created
    assert (created["id"], created["owner_id"], created["version"]) == (1, ann.id, 1)
    assert created["created_at"] == created["updated_at"]


def test_create_item_bad_token(client: TestClient, ann: Person):
    response = client.post("/api/v1/items", headers={"X-Token": "hailhydra"}, json={"title": "Bazz"})
    assert response.status_code == 401
    assert ann.get("/items").json() == []


def test_create_existing_user(client: TestClient, ann: Person):
    body = {"username": "ann", "email": "other@example.com", "password": "four plain words together"}
    response = client.post("/api/v1/users", json=body)
    assert response.status_code == 409
    assert response.json()["detail"] == "That username is taken."


def give_items(person: Person, count: int) -> None:
    """`person` has that many more items, titled item 1, item 2, ... in this order."""
    from app.crud import items, transaction
    from app.engine.caller import Caller

    async def create() -> None:
        async with transaction(Caller(person.client.app.state.database)) as tx:
            for number in range(1, count + 1):
                await items.create(tx, ItemCreate(title=f"item {number}"), owner_id=person.id)

    person.client.portal.call(create)


def titles(response: Any) -> list[str]:
    assert response.status_code == 200
    return [item["title"] for item in response.json()]


def test_the_newest_item_comes_first(ann: Person):
    give_items(ann, 3)
    assert titles(ann.get("/items")) == ["item 3", "item 2", "item 1"]


def test_skip_and_limit_choose_a_part_of_the_list(ann: Person):
    give_items(ann, 5)
    assert titles(ann.get("/items?skip=1&limit=2")) == ["item 4", "item 3"]


@pytest.mark.promise("I07")
def test_a_list_holds_a_hundred_items_unless_fewer_are_asked_for(ann: Person):
    give_items(ann, 101)
    assert titles(ann.get("/items")) == titles(ann.get("/items?limit=100")) == [f"item {n}" for n in range(101, 1, -1)]


def test_beyond_the_end_of_a_list_is_nothing(ann: Person):
    give_items(ann, 2)
    assert titles(ann.get("/items?skip=2")) == titles(ann.get("/items?skip=100000")) == []


NONSENSE = [
    *("limit=0", "limit=-1", "limit=101", "limit=abc", "limit=", "limit=1.5", "limit=1e1", "limit=%00"),
    *("skip=-1", "skip=abc", "skip=", "skip=100001", f"skip={2**63}", f"limit={'9' * 5000}"),
    *("offset=1", "owner_id=1", "limit=1&limti=2", "limit=1%20OR%201=1", "skip=0;DROP%20TABLE%20items"),
]


@pytest.mark.promise("I06", "V16")
@pytest.mark.parametrize("path", ["/items", "/users/me/items"])
def test_nonsense_in_a_query_is_refused(ann: Person, path: str):
    statuses = {query: ann.get(f"{path}?{query}").status_code for query in NONSENSE}
    assert statuses == dict.fromkeys(NONSENSE, 422)


@pytest.mark.promise("I08")
def test_paging_walks_every_item_once_while_they_change(ann: Person):
    give_items(ann, 7)
    walked = []
    for skip in range(0, 9, 3):
        walked += [item["id"] for item in ann.get(f"/items?skip={skip}&limit=3").json()]
        ann.patch("/items/1", {"description": f"changed after {skip}"})
        ann.patch(f"/items/{walked[-1]}", {"description": f"changed after {skip}"})
    assert walked == [7, 6, 5, 4, 3, 2, 1]


@pytest.mark.promise("I01", "I11")
def test_a_patch_touches_only_what_it_sends(ann: Person):
    before = ann.post("/items", {"title": "Foo", "description": "There goes my hero"}).json()
    response = ann.patch("/items/1", {"title": "Bar"})
    after = response.json()
    assert response.status_code == 200
    assert after == before | {"title": "Bar", "version": 2, "updated_at": after["updated_at"]}
    assert after["updated_at"] > before["updated_at"]
    assert ann.get("/items/1").json() == after


@pytest.mark.promise("I11")
def test_an_empty_patch_changes_nothing(ann: Person):
    before = ann.post("/items", {"title": "Foo"}).json()
    response = ann.patch("/items/1", {})
    assert (response.status_code, response.json()) == (200, before)
    assert ann.get("/items/1").json() == before


def test_null_empties_what_may_be_empty(ann: Person):
    ann.post("/items", {"title": "Foo", "description": "There goes my hero"})
    response = ann.patch("/items/1", {"description": None})
    assert (response.status_code, response.json()["description"]) == (200, None)
    assert ann.get("/items/1").json()["description"] is None


@pytest.mark.promise("I11")
def test_null_is_no_title(ann: Person):
    before = ann.post("/items", {"title": "Foo"}).json()
    assert ann.patch("/items/1", {"title": None}).status_code == 422
    assert ann.post("/items", {"title": None}).status_code == 422
    assert ann.get("/items").json() == [before]


def test_every_change_makes_a_new_version(ann: Person):
    ann.post("/items", {"title": "Foo"})
    versions = [ann.patch("/items/1", {"title": title}).json()["version"] for title in ("Bar", "Bar", "Baz")]
    assert versions == [2, 3, 4]


@pytest.mark.promise("I01", "I02")
def test_a_deleted_item_is_gone(ann: Person):
    give_items(ann, 2)
    response = ann.delete("/items/1")
    assert (response.status_code, response.content) == (204, b"")
    assert ann.get("/items/1").status_code == ann.patch("/items/1", {"title": "Foo"}).status_code == 404
    assert ann.delete("/items/1").status_code == 404
    assert titles(ann.get("/items")) == ["item 2"]


def test_an_id_is_never_given_twice(ann: Person):
    give_items(ann, 1)
    ann.delete("/items/1")
    assert ann.post("/items", {"title": "Foo"}).json()["id"] == 2


@pytest.mark.promise("I16")
def test_of_ten_deletes_at_once_one_succeeds(ann: Person):
    give_items(ann, 1)
    with ThreadPoolExecutor(10) as pool:
        statuses = [response.status_code for response in pool.map(ann.delete, ["/items/1"] * 10)]
    assert sorted(statuses) == [204, *[404] * 9]


def test_of_ten_changes_at_once_none_is_lost(ann: Person):
    give_items(ann, 1)
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda n: ann.patch("/items/1", {"title": f"title {n}"}).json(), range(10)))
    assert sorted(answer["version"] for answer in answers) == list(range(2, 12))


@pytest.mark.promise("I03", "I04")
def test_someone_elses_item_does_not_exist(ann: Person, bob: Person):
    item = ann.post("/items", {"title": "Foo"}).json()
    for act in (bob.get, lambda path: bob.patch(path, {"title": "Bar"}), lambda path: bob.patch(path, {}), bob.delete):
        foreign, missing = act("/items/1"), act("/items/77")
        # Not even the body may tell the two apart, or ids could be probed.
        assert (foreign.status_code, foreign.content) == (404, missing.content)
    assert bob.get("/items").json() == bob.get("/users/me/items").json() == []
    assert ann.get("/items").json() == [item]


def test_a_superuser_sees_and_changes_every_item(ann: Person, root: Person):
    item = ann.post("/items", {"title": "Foo"}).json()
    assert root.get("/items").json() == [item]
    assert root.get("/items/1").json() == item
    changed = root.patch("/items/1", {"title": "Bar"}).json()
    # A change by another is no change of owner.
    assert (changed["title"], changed["owner_id"], changed["version"]) == ("Bar", ann.id, 2)
    assert root.delete("/items/1").status_code == 204
    assert ann.get("/items").json() == []


def test_a_superusers_own_items_are_only_their_own(ann: Person, root: Person):
    give_items(ann, 1)
    root.post("/items", {"title": "mine"})
    assert titles(root.get("/users/me/items")) == ["mine"]


@pytest.mark.promise("I05", "I12")
@pytest.mark.parametrize("key", ["id", "owner_id", "version", "created_at", "updated_at", "titel", "__class__", ""])
def test_a_key_that_clients_may_not_send_is_refused(ann: Person, bob: Person, key: str):
    item = ann.post("/items", {"title": "Foo"}).json()
    for response in (
        ann.post("/items", {"title": "Bar", key: bob.id}),
        ann.patch("/items/1", {"title": "Bar", key: bob.id}),
    ):
        assert response.status_code == 422
        assert [(wrong["loc"], wrong["type"]) for wrong in response.json()["detail"]] == [
            (["body", key], "extra_forbidden")
        ]
    assert ann.get("/items").json() == [item]
    assert bob.get("/items").json() == []


ODD_IDS = [
    *("0", "-1", "01", "1_0", "+1", "1.0", "1e0", "0x1", "null", "NaN", "1;2", "1,2", "' OR 1=1 --", "\uff11"),
    *("%201", "%00", "1%00", "1%0A", "%FF", str(2**53), str(2**63), str(2**64 + 1), "9" * 5000),
]


@pytest.mark.promise("I09", "I10", "V16")
@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", "/items/{}"), ("PATCH", "/items/{}"), ("DELETE", "/items/{}")),
        *(("GET", "/users/{}"), ("POST", "/users/{}/items")),
        *(("POST", f"/admin/users/{{}}/{verb}") for verb in ("activate", "deactivate", "promote", "demote")),
    ],
)
def test_an_odd_id_is_refused(root: Person, method: str, path: str):
    root.post("/items", {"title": "Foo"})  # number 1, which some of them would be read as
    body = {"title": "Bar"} if "items" in path and method != "GET" else None
    send = partial(root.client.request, method, headers=root.headers, json=body)
    statuses = {odd: send(f"/api/v1{path.format(odd)}").status_code for odd in ODD_IDS}
    assert statuses == dict.fromkeys(ODD_IDS, 422)
    assert titles(root.get("/items")) == ["Foo"]


def test_the_greatest_id_is_only_missing(root: Person):
    assert root.get(f"/items/{2**53 - 1}").status_code == root.get(f"/users/{2**53 - 1}").status_code == 404
