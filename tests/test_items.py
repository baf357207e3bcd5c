"""Items belong to a user. The familiar six come first, with the X-Token header of FastAPI's own tutorial."""

import pytest
from fastapi.testclient import TestClient

from tests.conftest import Person


@pytest.fixture
def x_token(client: TestClient, ann: Person) -> str:
    """A machine token that acts as ann."""
    from app import accounts
    from app.engine.accounts import Caller

    async def create() -> str:
        return (await accounts.create_machine_token(Caller(client.app.state.database), "ann", "tests"))[1]

    return client.portal.call(create)


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
