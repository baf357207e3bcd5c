"""The real app on a real database, made anew for each test: SQLite in memory, or what TEST_DATABASE_URL names."""

import gc
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import create_engine, make_url, text
from sqlmodel import SQLModel

# Before app.main is imported: it reads its settings from here, and never from a developer's .env.local.
os.environ.update(ENVIRONMENT="test", SECRET_KEY=secrets.token_urlsafe(48), DATABASE_URL="sqlite:////dev/null")

from app import main
from app.crud import users
from app.engine import migrations
from app.engine.caller import Caller
from app.models.user import UserBase
from app.settings import Settings

POSTGRES = os.environ.get("TEST_DATABASE_URL", "")
PASSWORD = "four plain words together"
HASHED = dict[tuple[str, int], str]()  # of that, for each name and cost: it takes half of a sign-up

if POSTGRES and not (make_url(POSTGRES).database or "").endswith("_test"):
    pytest.exit("TEST_DATABASE_URL must name a database that ends in _test: every test empties it.", returncode=1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="Long tests at their full length.")


def pytest_collection_finish() -> None:
    # What is there by now stays. To look through it again and again took a tenth of the time.
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if POSTGRES and item.get_closest_marker("once"):
        pytest.skip("No database can make a difference: it runs without TEST_DATABASE_URL.")


@pytest.fixture(autouse=True)
def short_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream of changes ends when it has told what there is: many a test asks every route."""
    monkeypatch.setattr("app.extras.changes.LASTS", 0.0)


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether long tests shall run at their full length."""
    return bool(request.config.getoption("--full"))


@dataclass
class Person:
    """Somebody who talks to the API: `ann.post("/items", {"title": "one"})`."""

    client: TestClient
    username: str
    id: int = 0
    headers: dict[str, str] | None = None

    @property
    def email(self) -> str:
        return f"{self.username}@example.com"

    def log_in(self, password: str = PASSWORD) -> Any:
        answer = self.client.post("/api/v1/token", data={"username": self.username, "password": password})
        if answer.status_code == 200:
            self.headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        return answer

    def get(self, path: str, **options: Any) -> Any:
        return self.client.get(f"/api/v1{path}", headers=self.headers, **options)

    def post(self, path: str, json: Any = None, **options: Any) -> Any:
        return self.client.post(f"/api/v1{path}", json=json, headers=self.headers, **options)

    def patch(self, path: str, json: Any) -> Any:
        return self.client.patch(f"/api/v1{path}", json=json, headers=self.headers)

    def delete(self, path: str) -> Any:
        return self.client.delete(f"/api/v1{path}", headers=self.headers)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database at the newest migration, made by the migrations themselves."""
    url = POSTGRES or f"sqlite:///{tmp_path_factory.mktemp('database')}/template.db"
    if POSTGRES:
        engine = create_engine(POSTGRES)
        with engine.begin() as connection:
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
        engine.dispose()
    migrations.upgrade(url)
    return url


@pytest.fixture
def database_url(migrated: str) -> Iterator[str]:
    """An empty database for this test alone."""
    with emptied(migrated) as url:
        yield url


@contextmanager
def emptied(migrated: str) -> Iterator[str]:
    """On PostgreSQL it is the same for all, so only one at a time."""
    if POSTGRES:
        engine = create_engine(POSTGRES)
        tables = ", ".join(f'"{name}"' for name in SQLModel.metadata.tables if not name.startswith("scratch"))
        with engine.begin() as connection:
            connection.execute(text(f"TRUNCATE {tables} RESTART IDENTITY CASCADE"))
        engine.dispose()
        yield POSTGRES
        return
    uri = f"file:/{secrets.token_hex(8)}?vfs=memdb"
    # It lives as long as somebody holds it open.
    held = sqlite3.connect(uri, uri=True)
    with sqlite3.connect(migrated.removeprefix("sqlite:///")) as template:
        template.backup(held)
    template.close()
    yield f"sqlite:///{uri}&uri=true"
    held.close()


@pytest.fixture
def settings(database_url: str) -> Settings:
    return Settings(database_url=database_url, environment="test", bcrypt_rounds=4)


@pytest.fixture
def start(settings: Settings) -> Iterator[Callable[..., TestClient]]:
    """Start the app under other settings: `client = start(read_only=True)`.

    Under none it is the one that uvicorn serves, again and again: to assemble one takes longer than most tests.
    """
    running: list[TestClient] = []

    def start_with(app: FastAPI | None = None, **changed: Any) -> TestClient:
        if app is None and not changed and not running:
            app = main.app
            app.state.settings = settings
        client = TestClient(app or main.create_app(settings.model_copy(update=changed)), follow_redirects=False)
        client.__enter__()
        running.append(client)
        return client

    yield start_with
    for client in reversed(running):
        client.__exit__()


@pytest.fixture
def client(start: Callable[..., TestClient]) -> TestClient:
    """Somebody without a token."""
    return start()


def sign_up(client: TestClient, username: str, *, is_superuser: bool = False) -> Person:
    person = Person(client, username)
    data = UserBase(username=username, email=person.email)
    state = client.app.state  # type: ignore[attr-defined]

    async def create() -> int:
        if (key := (username, state.settings.bcrypt_rounds)) not in HASHED:
            HASHED[key] = await state.hasher.hash(PASSWORD)
        more = {"hashed_password": HASHED[key], "is_superuser": is_superuser}
        return (await users.create(Caller(state.database), data, **more)).id

    assert client.portal is not None
    person.id = client.portal.call(create)
    assert person.log_in().status_code == 200
    return person


@pytest.fixture
def ann(client: TestClient) -> Person:
    """Ann has an account like any other."""
    return sign_up(client, "ann")


@pytest.fixture
def bob(client: TestClient) -> Person:
    """Bob has an account like any other."""
    return sign_up(client, "bob")


@pytest.fixture
def root(client: TestClient) -> Person:
    """Root is a superuser."""
    return sign_up(client, "root", is_superuser=True)


@pytest.fixture(scope="session")
def opened_post_office() -> Iterator[Any]:
    from tests.post import PostOffice  # late: few tests need a mail server

    office = PostOffice().open()
    yield office
    office.close()


@pytest.fixture
def post(opened_post_office: Any) -> Any:
    """A mail server to which nothing has come yet: a PostOffice."""
    opened_post_office.empty()
    return opened_post_office
