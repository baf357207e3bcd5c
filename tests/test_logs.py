"""The log: one line for each request and event. What is secret does not stand in it, and nobody can forge a line."""

import asyncio
import json
import logging
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel

from app.deps import SessionDep
from app.engine import logs, migrations
from app.engine.http import dispatch
from app.main import create_app
from app.models import User
from app.settings import Settings
from tests.conftest import PASSWORD, Person
from tests.scratch import empty_database
from tests.servers import RUN, Server, settings_for

SECRET = "hailhydra"
UVICORN = ("-m", "uvicorn", "app.main:app", "--port", "{port}")
HASH = f"$2b$12${SECRET}"


@pytest.fixture(autouse=True)
def shape_is_as_before() -> Iterator[None]:
    before = logs.shape
    yield
    logs.shape = before


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What was logged since the last time, each line by itself: what is no JSON fails."""
    logs.flush()
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_request_is_one_line_with_what_is_needed_to_find_it_again(ann: Person, capsys: pytest.CaptureFixture[str]):
    ann.post("/items", {"title": "one"})
    lines(capsys)
    read, missing = ann.get("/items/1"), ann.get("/nothing")
    there, gone = lines(capsys)
    assert {name: there[name] for name in ("level", "message", "method", "route", "status", "user")} == {
        **{"level": "info", "message": "GET /api/v1/items/1 200", "method": "GET", "status": 200, "user": ann.id},
        "route": "/api/v1/items/{item_id}",
    }
    assert [there["request"], gone["request"]] == [answer.headers["X-Request-Id"] for answer in (read, missing)]
    assert there["ms"] >= float(read.headers["X-Process-Time"]) * 1000 > 0
    assert (gone["message"], gone["status"]) == ("GET /api/v1/nothing 404", 404)
    assert not {"route", "user"} & set(gone)


@pytest.mark.promise("F09")
def test_no_query_string_no_token_and_no_password_is_logged(ann: Person, capsys: pytest.CaptureFixture[str]):
    lines(capsys)
    token = ann.headers["Authorization"].removeprefix("Bearer ")
    ann.client.get(f"/api/v1/items?token={token}&password={PASSWORD}")
    ann.client.get("/api/v1/items", headers={"X-Token": SECRET, "Cookie": SECRET})
    ann.client.post("/api/v1/token", data={"username": SECRET, "password": SECRET})
    ann.client.post("/api/v1/users", json={"username": SECRET, "email": SECRET, "password": SECRET})
    ann.patch("/users/me/password", {"current_password": PASSWORD, "new_password": SECRET})
    logs.flush()
    written = capsys.readouterr().out
    assert len(written.splitlines()) == 5
    for secret in (token, PASSWORD, SECRET, "four%20plain"):
        assert secret not in written


class Refused(BaseModel):
    number: int


@pytest.fixture
def faulty(settings: Settings, start: Callable[..., TestClient]) -> TestClient:
    """The app with routes whose defects have a secret at hand."""
    app: FastAPI = create_app(settings)

    @app.get("/row")
    def refuse_a_row(session: SessionDep) -> None:
        session.add(User(username="bob", email=None, hashed_password=HASH))
        session.commit()

    @app.get("/answer")
    async def answer_wrongly() -> Refused:
        return {"number": SECRET}  # type: ignore[return-value]

    @app.get("/validator")
    async def validate() -> None:
        Refused.model_validate({"number": SECRET})

    dispatch.install(app)
    return start(app)


@pytest.mark.promise("F07")
@pytest.mark.parametrize("path", ["/row", "/answer", "/validator"])
def test_a_defect_is_logged_with_its_traceback_and_without_the_data(
    faulty: TestClient, capsys: pytest.CaptureFixture[str], path: str
):
    response = faulty.get(path)
    defect, _ = lines(capsys)
    assert (response.status_code, SECRET in response.text) == (500, False)
    assert (defect["level"], defect["message"]) == ("error", "A request failed")
    assert defect["request"] == response.headers["X-Request-Id"]
    assert defect["exception"].startswith("  File ")
    assert SECRET not in json.dumps(defect)


@pytest.mark.promise("F07")
@pytest.mark.parametrize("for_people", [True, False])
def test_nobody_forges_a_line(client: TestClient, capsys: pytest.CaptureFixture[str], for_people: bool):
    logs.configure(for_people=for_people)
    forged = "\r\n14:00:00 INFO forged \x1b[2J\u2028\x85\udc80"
    client.get("/api/v1/%0d%0aforged%1b[2J", headers={"User-Agent": "x"})
    seen = {"method": "GET", "request_id": "1", "client": ("\x85" * 10_000, 1)}  # as a proxy may have been told
    client.portal.call(logs.note_request, seen, 200, 0.1)
    logging.getLogger("app").warning("somebody wrote %s", forged)
    try:
        raise ValueError(forged)
    except ValueError:
        logging.getLogger("elsewhere").exception("a defect")
    logs.flush()
    written = capsys.readouterr().out
    assert not any(letter in written for letter in "\r\x1b\u2028\x85\udc80")
    assert max(map(len, written.splitlines())) < 2_000
    assert not any(line.lstrip().startswith("14:00:00 INFO forged") for line in written.splitlines())
    if not for_people:
        assert [json.loads(line)["message"][:8] for line in written.splitlines()] == [
            "GET /api",
            "GET  200",
            "somebody",
            "a defect",
        ]


def test_what_led_to_what_is_told(capsys: pytest.CaptureFixture[str]):
    logs.configure(for_people=False)
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ExceptionGroup("both", [ValueError("second")]) from error
    except ExceptionGroup:
        logging.getLogger("app").exception("told")
    (line,) = lines(capsys)
    told = line["exception"]
    assert told.index("KeyError: 'first'") < told.index("which led to") < told.index("within it")
    assert told.endswith("ValueError: second")


def test_requests_are_logged_only_where_that_is_wanted(
    start: Callable[..., TestClient], capsys: pytest.CaptureFixture[str]
):
    client = start(log_requests=False)
    assert client.get("/health").status_code == 200
    assert lines(capsys) == []


@pytest.mark.once
@pytest.mark.promise("F07", "F09")
@pytest.mark.parametrize("arguments", [RUN, UVICORN], ids=["run", "uvicorn"])
def test_outside_development_a_server_speaks_json(tmp_path: Path, arguments: tuple[str, ...]):
    with empty_database(tmp_path, "logs") as url:
        migrations.upgrade(url)
        server = Server(tmp_path, settings_for(url), arguments).is_up()
        server.http.get(f"/items?token={SECRET}", headers={"Authorization": f"Bearer {SECRET}"})
        server.stop()
        server.close()
    messages = [json.loads(line)["message"] for line in server.said.splitlines() if line.startswith("{")]
    assert "GET /api/v1/items 401" in messages
    assert "Application shutdown complete." in messages
    assert SECRET not in server.said


def test_no_line_is_lost_or_doubled_when_threads_log_as_well(capsys: pytest.CaptureFixture[str]):
    logs.configure(for_people=False)
    rounds, is_over = 2_000, threading.Event()

    async def note() -> None:
        for number in range(rounds):
            logs.note_request({"method": "GET", "request_id": str(number)}, 200, 0.1)
            await asyncio.sleep(0)

    def flush() -> None:
        while not is_over.is_set():
            logs.flush()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    others = [threading.Thread(target=flush) for _ in range(2)]
    try:
        for other in others:
            other.start()
        asyncio.run(note())
    finally:
        is_over.set()
        for other in others:
            other.join()
        sys.setswitchinterval(before)
    assert Counter(line["request"] for line in lines(capsys)) == Counter(map(str, range(rounds)))


def test_a_server_whose_log_nobody_reads_goes_on(client: TestClient, monkeypatch: pytest.MonkeyPatch, capfd: Any):
    with open(os.devnull) as unwritable:  # noqa: PTH123  # a file open for reading only: writing to it fails
        monkeypatch.setattr(sys, "stdout", unwritable)
        assert client.get("/health").status_code == 200
        logs.flush()
        logging.getLogger("app").warning("nobody reads this")
        monkeypatch.undo()
    assert capfd.readouterr().err == ""


def test_in_development_a_line_is_for_people(capsys: pytest.CaptureFixture[str]):
    line = {"time": "2026-11-24T14:03:22.123+00:00", "level": "info", "message": "GET / 200", "ms": 1.2, "user": 3}
    assert logs.as_text(line) == "14:03:22 INFO    GET / 200 ms=1.2 user=3"
    assert logs.as_text({**line, "exception": "one\ntwo"}) == f"{logs.as_text(line)}\n    one\n    two"
