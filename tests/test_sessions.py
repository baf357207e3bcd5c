"""SessionDep, for plain `def` routes: the same rules as for the verbs, and a slow route holds up nobody else's."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlmodel import func, select, update

from app.crud import items
from app.deps import SessionDep
from app.engine.caller import Caller
from app.engine.http import dispatch
from app.main import create_app
from app.models import Item, ItemUpdate, User
from app.settings import Settings
from tests.conftest import POSTGRES, Person

CLASH = "Somebody changed it at the same moment. Read it again."


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    """The real app, with the routes of a team that writes its own queries."""
    app = create_app(settings)

    def in_the_loop(verb: Callable[..., Any], *arguments: Any) -> Any:
        """What a verb says right now, asked from a route's thread."""
        return app.state.portal.call(verb, Caller(app.state.database), *arguments)

    @app.post("/lose")
    def lose(session: SessionDep, owner_id: int):
        session.add(Item(title="lost", owner_id=owner_id))
        session.flush()

    @app.post("/keep")
    def keep(session: SessionDep, owner_id: int):
        item = Item(title="kept", owner_id=owner_id)
        session.add(item)
        session.flush()
        item_id = item.id  # after the commit, asking the item would begin anew
        session.commit()
        return in_the_loop(items.get, item_id).title

    @app.post("/rename")
    def rename(session: SessionDep, item_id: int):
        session.get_one(Item, item_id).title = "renamed"
        session.commit()

    @app.post("/rename-all")
    def rename_all(session: SessionDep):
        session.exec(update(Item).values(title="renamed"))
        session.commit()

    @app.post("/append")
    def append(session: SessionDep, item_id: int):
        item = session.get_one(Item, item_id)
        time.sleep(0.1)
        item.title += "+"
        session.commit()

    @app.post("/save-late")
    def save_late(session: SessionDep, item_id: int):
        item = session.get_one(Item, item_id)
        session.expunge(item)
        session.commit()
        in_the_loop(items.update, item_id, ItemUpdate(title="faster"))
        session.add(item)
        item.title = "slower"
        session.commit()

    @app.post("/users-by-hand")
    def create_user_by_hand(session: SessionDep, username: str, email: str):
        session.add(User(username=username, email=email, hashed_password="none"))
        session.commit()

    @app.get("/slow")
    def slow(session: SessionDep) -> int:
        users = session.exec(select(func.count()).select_from(User)).one()
        time.sleep(0.05)
        return users

    @app.post("/slow")
    def write_slowly(session: SessionDep, owner_id: int):
        session.add(Item(title="slow", owner_id=owner_id))
        session.commit()
        time.sleep(0.02)

    @app.get("/quick")
    async def quick() -> str:
        return "quick"

    @app.get("/quick-in-a-thread")
    def quick_in_a_thread() -> str:
        return "quick"

    dispatch.install(app)
    return app


@pytest.fixture
def client(app: FastAPI, start: Callable[..., TestClient]) -> TestClient:
    client = start(app)
    app.state.portal = client.portal
    return client


def test_what_is_not_committed_is_not_saved(client: TestClient, ann: Person):
    assert client.post("/lose", params={"owner_id": ann.id}).status_code == 200
    assert ann.get("/items").json() == []


def test_a_committed_row_is_there_for_verbs_before_the_response_has_left(client: TestClient, ann: Person):
    assert client.post("/keep", params={"owner_id": ann.id}).json() == "kept"
    assert [(item["title"], item["version"]) for item in ann.get("/items").json()] == [("kept", 1)]


@pytest.mark.parametrize("path", ["/rename", "/rename-all"])
def test_version_and_updated_at_move_with_every_change(client: TestClient, ann: Person, path: str):
    before = ann.post("/items", {"title": "Foo"}).json()
    assert client.post(path, params={"item_id": before["id"]}).status_code == 200
    after = ann.get(f"/items/{before['id']}").json()
    assert after == before | {"title": "renamed", "version": 2, "updated_at": after["updated_at"]}
    assert after["updated_at"] > before["updated_at"]


def test_the_slower_of_two_who_save_one_row_is_refused(client: TestClient, ann: Person):
    item = ann.post("/items", {"title": "Foo"}).json()
    answer = client.post("/save-late", params={"item_id": item["id"]})
    assert (answer.status_code, answer.json()["detail"]) == (409, CLASH)
    assert answer.headers["content-type"] == "application/problem+json"
    left = ann.get(f"/items/{item['id']}").json()
    assert (left["title"], left["version"]) == ("faster", 2)


def test_no_change_is_lost_when_two_sessions_change_one_row(client: TestClient, ann: Person):
    item = ann.post("/items", {"title": "Foo"}).json()
    answers = together(client, *[("POST", f"/append?item_id={item['id']}")] * 2)
    # SQLite lets them in one after the other.
    expected = [200, 409] if POSTGRES else [200, 200]
    left = ann.get(f"/items/{item['id']}").json()
    assert sorted(answer.status_code for answer in answers) == expected
    assert (left["title"], left["version"]) == ("Foo" + "+" * expected.count(200), 1 + expected.count(200))


@pytest.mark.parametrize(
    ("username", "email", "detail"),
    [("ann", "other@example.com", "That username is taken."), ("other", "ann@example.com", "That email is taken.")],
)
def test_a_taken_value_is_409_and_names_its_column(
    client: TestClient, ann: Person, username: str, email: str, detail: str
):
    answer = client.post("/users-by-hand", params={"username": username, "email": email})
    assert (answer.status_code, answer.json()["detail"]) == (409, detail)


def test_a_reference_to_nothing_is_refused(client: TestClient):
    answer = client.post("/keep", params={"owner_id": 77})
    assert answer.status_code == 409
    assert answer.json()["detail"].startswith("It refers to something that does not exist")


@pytest.mark.promise("R16")
@pytest.mark.parametrize("path", ["/quick", "/quick-in-a-thread"])
def test_eighty_slow_requests_are_all_answered_and_hold_up_nobody(client: TestClient, path: str):
    waits: list[float] = []

    async def work() -> list[int]:
        async with browser(client) as http:
            await http.get("/slow")  # the first opens the pool
            crowd = asyncio.gather(*(http.get("/slow") for _ in range(80)))
            await asyncio.sleep(0.05)
            while not crowd.done():
                begun = time.monotonic()
                assert (await http.get(path)).json() == "quick"
                waits.append(time.monotonic() - begun)
                await asyncio.sleep(0.01)
            return [answer.status_code for answer in await crowd]

    assert client.portal.call(work) == [200] * 80
    assert max(waits) < 0.25


def test_forty_requests_that_write_are_all_answered(client: TestClient, ann: Person):
    answers = together(client, *[("POST", f"/slow?owner_id={ann.id}")] * 40)
    assert [answer.status_code for answer in answers] == [200] * 40
    assert len(ann.get("/items").json()) == 40


def browser(client: TestClient) -> httpx.AsyncClient:
    """Many requests at once to the running app."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(client.app), base_url="http://testserver", timeout=30)


def together(client: TestClient, *requests: tuple[str, str]) -> list[httpx.Response]:
    async def work() -> list[httpx.Response]:
        async with browser(client) as http:
            return await asyncio.gather(*(http.request(method, path) for method, path in requests))

    return client.portal.call(work)
