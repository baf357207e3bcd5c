"""Too much at once: the rest is refused at once, and told when to come back. /health and /ready stand outside."""

import asyncio
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, HTTPException
from fastapi.testclient import TestClient
from sqlalchemy import NullPool, create_engine, text
from sqlmodel import select

from app.deps import SessionDep
from app.engine import migrations, waiting
from app.engine.http import dispatch
from app.engine.sessions import SESSIONS
from app.main import create_app
from app.models import User
from app.routers import health
from app.settings import Settings
from tests.clusters import cluster, needs_cluster
from tests.conftest import PASSWORD, Person, sign_up

BUSY = "Too many requests at once. Try again in a moment."
NOT_MIGRATED = "The database is not at the newest migration. Run: python3 -m app migrate"


class Held:
    """An app with routes that answer once `gate` is open, and how many requests are inside."""

    def __init__(self, settings: Settings, start: Callable[..., TestClient], **changed: Any) -> None:
        self.gate, self.inside = threading.Event(), threading.Semaphore(0)
        settings = settings.model_copy(update=changed)
        app = create_app(settings)
        app.include_router(self.routes(), prefix="/held")
        limits = dispatch.Limits(concurrent_requests=settings.concurrent_requests, ungated=health.PATHS)
        dispatch.install(app, limits)
        self.client = start(app)
        self.pool = ThreadPoolExecutor(40)

    def routes(self) -> APIRouter:
        router = APIRouter()

        @router.get("/verb")
        async def hold(fail: bool = False) -> None:
            self.inside.release()
            await asyncio.to_thread(self.gate.wait, 6)
            if fail:
                raise HTTPException(418)

        @router.get("/session")
        def hold_session(session: SessionDep) -> None:
            session.exec(select(User)).first()
            self.inside.release()
            self.gate.wait(6)

        return router

    def ask(self, number: int, path: str) -> list[Any]:
        asked = [self.pool.submit(self.client.get, path) for _ in range(number)]
        for _ in range(number):
            assert self.inside.acquire(timeout=4)
        return asked


@pytest.mark.promise("R16")
def test_what_is_too_much_is_refused_at_once_and_health_is_not(settings: Settings, start: Any):
    held = Held(settings, start, concurrent_requests=8)
    try:
        asked = held.ask(8, "/held/verb")
        refused = [held.client.get(path) for path in ("/held/verb", "/api/v1/items", "/docs", "/static/favicon.svg")]
        well = [held.client.get(path).status_code for path in health.PATHS]
    finally:
        held.gate.set()
    assert [(answer.status_code, answer.headers["Retry-After"]) for answer in refused] == [(503, "1")] * 4
    assert {answer.json()["detail"] for answer in refused} == {BUSY}
    assert well == [200, 200]
    assert [answer.result().status_code for answer in asked] == [200] * 8


def test_a_place_is_free_again_whatever_the_answer_was(settings: Settings, start: Any):
    held = Held(settings, start, concurrent_requests=8)
    held.gate.set()
    for _ in range(3):
        for path in ("/held/verb?fail=true", "/held/verb", "/nowhere", "/api/v1/items", "/held/verb?fail=perhaps"):
            held.client.get(path)
    held.gate.clear()
    held.inside = threading.Semaphore(0)
    try:
        asked = held.ask(8, "/held/verb")
        assert held.client.get("/held/verb").status_code == 503
    finally:
        held.gate.set()
    assert [answer.result().status_code for answer in asked] == [200] * 8


def test_more_sessions_than_there_are_wait_and_then_are_told_to_come_back(
    settings: Settings, start: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(waiting, "PATIENCE", 0.3)
    held = Held(settings, start)
    ann = sign_up(held.client, "ann")
    try:
        asked = held.ask(SESSIONS, "/held/session")
        refused = held.client.get("/held/session")
        others = ann.get("/users/me"), held.client.get("/ready")
    finally:
        held.gate.set()
    assert (refused.status_code, refused.headers["Retry-After"], refused.json()["detail"]) == (503, "1", waiting.BUSY)
    assert [answer.status_code for answer in others] == [200, 200]
    assert [answer.result().status_code for answer in asked] == [200] * SESSIONS
    assert held.client.get("/held/session").status_code == 200


def test_of_many_who_log_in_at_once_only_so_many_reach_the_database(
    start: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
):
    client = start(login_attempts=64)
    sign_up(client, "ann")
    state: Any = client.app.state  # type: ignore[attr-defined]
    gate, asked = threading.Event(), []
    run, verify = state.database.run, state.hasher._verify

    async def counted(statement: Any, values: Any) -> Any:
        asked.append(values)
        await asyncio.sleep(0.2)  # so that all are there before the first has its answer
        return await run(statement, values)

    monkeypatch.setattr(state.database, "run", counted)
    monkeypatch.setattr(state.hasher, "_verify", lambda *given: (gate.wait(20), verify(*given))[1])
    form = {"username": "ann", "password": PASSWORD}
    with ThreadPoolExecutor(64) as pool:
        answers = [pool.submit(client.post, "/api/v1/token", data=form) for _ in range(64)]
        end = time.monotonic() + 10
        while sum(answer.done() for answer in answers) < 64 - 17 and time.monotonic() < end:
            time.sleep(0.01)
        gate.set()
    statuses = [answer.result().status_code for answer in answers]
    assert (statuses.count(200), statuses.count(503)) == (17, 47)
    assert asked.count({"value": "ann"}) == 17


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Elsewhere priority is the whole process's.")
def test_hashing_gives_way_to_everything_else(client: TestClient):
    state: Any = client.app.state  # type: ignore[attr-defined]
    niceness = state.hasher._executor.submit(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
    assert niceness.result() > os.getpriority(os.PRIO_PROCESS, 0)


@pytest.mark.promise("F06", "H23")
@pytest.mark.parametrize("broken", ["UPDATE alembic_version SET version_num = 'older'", "DROP TABLE alembic_version"])
def test_a_server_is_ready_only_while_its_schema_is_the_newest(client: TestClient, database_url: str, broken: str):
    engine = create_engine(database_url, poolclass=NullPool)
    assert client.get("/ready").json() == {"status": "ok"}
    try:
        with engine.begin() as connection:
            connection.execute(text(broken))
        refused, alive = client.get("/ready"), client.get("/health")
    finally:
        with engine.begin() as connection:
            connection.execute(text("DROP TABLE IF EXISTS alembic_version"))
            connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
            connection.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": migrations._head()})
    assert (refused.status_code, refused.headers["Retry-After"], refused.json()["detail"]) == (503, "10", NOT_MIGRATED)
    assert (alive.status_code, alive.json()) == (200, {"status": "ok"})
    assert client.get("/ready").status_code == 200


def test_ready_needs_no_connection_of_the_others(start: Any, ann: Person, monkeypatch: pytest.MonkeyPatch):
    state: Any = ann.client.app.state  # type: ignore[attr-defined]

    async def never(*_: object) -> None:
        raise AssertionError("That is the others' connection.")

    monkeypatch.setattr(state.database, "run", never)
    assert ann.client.get("/ready").status_code == 200


@pytest.mark.promise("F31", "H23")
@needs_cluster
def test_without_its_database_a_server_is_alive_and_not_ready(settings: Settings, start: Any):
    with cluster() as postgres:
        migrations.upgrade(postgres.url)
        app: FastAPI = create_app(settings.model_copy(update={"database_url": postgres.url}))
        client = start(app)
        assert client.get("/ready").status_code == 200
        postgres.stop()
        down = [client.get(path) for path in health.PATHS]
        postgres.start()
        assert [answer.status_code for answer in down] == [200, 503]
        assert down[1].json()["detail"] == "The database does not answer. Try again in a moment."
        assert client.get("/ready").status_code == 200
