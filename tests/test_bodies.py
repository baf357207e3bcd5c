"""A body is bounded while it streams in, in bytes and in what it costs others. Then it is read strictly."""

import asyncio
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi import Request
from fastapi.testclient import TestClient

from app.engine.http import dispatch
from app.main import create_app
from app.settings import Settings
from tests import asgi
from tests.conftest import PASSWORD, Person

MOST = 2**17
LATE = object()  # in the place of a chunk: nothing comes for a while
GONE = object()  # in the place of a chunk: the client hangs up


class Sent:
    """What was answered to a body that came in `chunks`, and how many of them were asked for."""

    def __init__(self, client: TestClient, path: str, *chunks: Any, **headers: str) -> None:
        self.taken, coming = 0, iter(chunks)

        async def receive() -> dict[str, Any]:
            chunk = next(coming, GONE)
            self.taken += 1
            if chunk is LATE:
                await asyncio.sleep(0.5)
                chunk = b""
            if chunk is GONE:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": chunk, "more_body": self.taken < len(chunks)}

        fields = [(name.lower().replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        answer = asgi.ask(client, "POST", path, fields, receive)
        self.status, self.headers, self.body = answer.status, answer.headers, answer.body

    @property
    def problem(self) -> tuple[int, str, int]:
        return self.status, self.headers["content-type"], json.loads(self.body)["status"]


def refused(status: int) -> tuple[int, str, int]:
    return status, "application/problem+json", status


OPEN = ["/api/v1/token", "/api/v1/users", "/api/v1/items", "/api/latest/items", "/token"]


@pytest.mark.promise("V07")
@pytest.mark.parametrize("path", OPEN)
def test_a_body_announced_as_too_large_is_refused_before_a_byte_of_it_is_taken(client: TestClient, path: str):
    sent = Sent(client, path, b"x" * 1000, Content_Length=str(MOST + 1), Content_Type="application/json")
    assert (sent.problem, sent.taken) == (refused(413), 0)
    assert sent.headers["x-content-type-options"] == "nosniff"


@pytest.mark.promise("V07")
@pytest.mark.parametrize("path", OPEN)
def test_a_body_that_is_not_announced_is_counted_and_refused_at_the_limit(client: TestClient, path: str):
    sent = Sent(client, path, *[b"x" * 10_000] * 100, Transfer_Encoding="chunked", Content_Type="application/json")
    assert (sent.problem, sent.taken) == (refused(413), 14)


@pytest.mark.promise("V07")
@pytest.mark.promise("V07")
@pytest.mark.parametrize("size", [{"Content_Length": str(MOST + 1)}, {"Transfer_Encoding": "chunked"}])
def test_who_sends_more_than_other_routes_take_says_first_who_they_are(client: TestClient, size: dict[str, str]):
    for token in ({}, {"Authorization": "Bearer none"}):
        sent = Sent(client, "/api/v1/items/bulk", b"[" + b" " * MOST, b"]", **size, **token)
        assert (sent.problem, sent.taken) == (refused(401), 0)


def test_a_body_as_large_as_the_limit_is_read(ann: Person):
    body = json.dumps({"title": "one", "description": ""}).encode()
    token = ann.headers["Authorization"]
    for size, status in ((MOST, 201), (MOST + 1, 413)):
        parts = body.ljust(size), b""
        sent = Sent(ann.client, "/api/v1/items", *parts, Content_Type="application/json", Authorization=token)
        assert (size, sent.status) == (size, status)


@pytest.mark.parametrize("length", ["x", "-1", "+5", "1" * 400, "0x5", "1,1"])
def test_a_length_that_is_none_is_refused(client: TestClient, length: str):
    assert Sent(client, "/api/v1/items", b"", Content_Length=length).problem == refused(413)


def test_the_limit_is_a_setting_and_a_route_may_have_its_own(settings: Settings, start: Callable[..., TestClient]):
    app = create_app(settings.model_copy(update={"max_body_size": 2000}))

    @app.post("/larger", max_body_size=5000)
    @app.post("/as-set")
    @app.get("/read")
    async def measure(request: Request) -> int:
        return len(await request.body())

    dispatch.install(app, dispatch.Limits(max_body_size=2000))
    client = start(app)
    for path, most in (("/larger", 5000), ("/as-set", 2000)):
        assert [client.post(path, content=b"x" * size).status_code for size in (most, most + 1)] == [200, 413]
    assert [client.request("GET", "/read", content=b"x" * size).status_code for size in (2000, 2001)] == [200, 413]


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "br", "deflate", "gzip, identity", "nonsense"])
def test_a_compressed_body_is_refused(client: TestClient, coding: str):
    for path in OPEN:
        sent = Sent(client, path, b"{}", Content_Encoding=coding, Content_Type="application/json")
        assert (sent.problem, sent.headers["accept-encoding"], sent.taken) == (refused(415), "identity", 0)
    json_as_it_is = {"Content_Encoding": "identity", "Content_Type": "application/json"}
    assert Sent(client, "/api/v1/items", b"{}", **json_as_it_is).status == 401


@pytest.mark.promise("R11")
def test_who_hangs_up_in_the_middle_is_not_answered_and_no_defect(client: TestClient, caplog: pytest.LogCaptureFixture):
    sent = Sent(client, "/api/v1/token", b"username=", GONE)
    assert (sent.status, [record for record in caplog.records if record.name == "app"]) == (0, [])


@pytest.mark.promise("R10")
def test_who_stalls_holds_no_place(start: Callable[..., TestClient]):
    client = start(concurrent_requests=8)
    with ThreadPoolExecutor(20) as pool:
        stalled = [pool.submit(Sent, client, "/api/v1/users", b"{", LATE, GONE) for _ in range(20)]
        while sum(future.running() for future in stalled) < 20:
            time.sleep(0.01)
        answers = [client.get("/api/v1/items").status_code for _ in range(20)]
        statuses = [future.result().status for future in stalled]
    assert (answers, statuses) == ([401] * 20, [0] * 20)


@pytest.mark.parametrize(("expects", "connection"), [("100-continue", "close"), ("", None)])
def test_who_asked_whether_to_send_what_is_too_large_must_connect_anew(
    client: TestClient, expects: str, connection: str | None
):
    # Otherwise the next request could be taken for the body that was not sent, or the body for a request.
    headers = {"Expect": expects} if expects else {}
    sent = Sent(client, "/api/v1/items", Content_Length=str(MOST + 1), **headers)
    assert (sent.status, sent.headers.get("connection")) == (413, connection)


def test_a_route_of_a_tutorial_reads_json_as_strictly(settings: Settings, start: Callable[..., TestClient]):
    app = create_app(settings)

    @app.post("/plain")
    async def plain(data: dict[str, float]) -> int:
        return len(data)

    dispatch.install(app)
    client, headers = start(app), {"Content-Type": "application/json"}
    assert client.post("/plain", json={"a": 1}).json() == 1
    for bad in (b'{"a": NaN}', '{"a": 1}'.encode("utf-16"), b"[" * 300 + b"]" * 300):
        answer = client.post("/plain", content=bad, headers=headers)
        assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["body"])
    assert client.post("/plain", content=b'{"a": 1}', headers={"Content-Type": "text/plain"}).status_code == 415


def test_logging_in_takes_no_megabyte(client: TestClient):
    form = {"username": "ann", "password": f"{PASSWORD}{'x' * MOST}"}
    assert client.post("/api/v1/token", data=form).status_code == 413
