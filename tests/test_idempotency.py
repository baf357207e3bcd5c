"""A request that is sent again under its Idempotency-Key is done once, and answered as it was the first time."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Event
from typing import Any

import pytest
from fastapi import APIRouter, BackgroundTasks, FastAPI, Request
from fastapi.testclient import TestClient
from sqlalchemy import func, insert, select, update

from app.crud import items, transaction
from app.deps import Application, Caller, SessionDep
from app.engine import keys as kept
from app.engine import transaction as shared_transaction
from app.engine.http import dispatch
from app.engine.http.answers import EXPOSED
from app.engine.http.idempotency import IDEMPOTENT, IDEMPOTENT_LATER, NOT_IDEMPOTENT, begin_now
from app.engine.records import keys
from app.engine.statement import Statement
from app.engine.waiting import BUSY, retried
from app.errors import Missing, Overtaken
from app.main import create_app
from app.models import Item, ItemCreate, ItemRead
from app.models.base import utcnow
from app.settings import Settings
from tests.asgi import ask, whole
from tests.conftest import Person

OTHERS_KEY = "That Idempotency-Key was used for another request. Take a new one."
COUNT = Statement(select(func.count()).select_from(keys))


def send(who: Person, key: str | None, title: str = "one", path: str = "/items", method: str = "POST") -> Any:
    """An item of that title, created under `key`."""
    headers = {**(who.headers or {}), **({"Idempotency-Key": key} if key is not None else {})}
    return who.client.request(method, f"/api/v1{path}", json={"title": title}, headers=headers)


def titles(who: Person) -> list[str]:
    return [item["title"] for item in who.get("/items").json()]


def told(answer: Any) -> tuple[int, bytes, dict[str, str]]:
    """What an answer says, without what is of this request alone."""
    own = {"x-request-id", "x-process-time", "idempotency-replayed"}
    return answer.status_code, answer.content, {n: v for n, v in answer.headers.items() if n not in own}


def is_again(answer: Any) -> bool:
    return bool(answer.headers.get("Idempotency-Replayed") == "true")


def run(client: TestClient, work: Callable[[Any], Any]) -> Any:
    """What `work` makes of the app's database, on the app's own loop."""
    assert client.portal is not None
    return client.portal.call(work, client.app.state.database)  # type: ignore[attr-defined]


def count_keys(client: TestClient) -> int:
    rows: list[tuple[int]] = run(client, lambda db: db.run(COUNT, {}))
    return rows[0][0]


@pytest.mark.promise("I18")
def test_a_creation_that_is_sent_again_makes_no_second_item_and_is_answered_alike(ann: Person):
    first, again = send(ann, "k1"), send(ann, "k1")
    assert (first.status_code, first.headers["Location"]) == (201, "/api/v1/items/1")
    assert told(again) == told(first)
    assert (is_again(first), is_again(again)) == (False, True)
    assert titles(ann) == ["one"]


def test_it_is_answered_alike_though_the_item_has_changed_or_gone(ann: Person):
    first = send(ann, "k1")
    ann.patch("/items/1", {"title": "two"})
    assert told(send(ann, "k1")) == told(first)
    ann.delete("/items/1")
    assert told(send(ann, "k1")) == told(first)
    assert titles(ann) == []


def test_quoted_or_bare_it_is_the_same_key(ann: Person):
    assert [is_again(send(ann, key)) for key in ('"a\\\\b"', "a\\b", '"a b"', '"a b"')] == [False, True, False, True]


@pytest.mark.parametrize(
    "other", [{"title": "two"}, {"path": "/items?x=1"}, {"path": "/users/1/items"}], ids=["body", "query", "path"]
)
def test_another_request_under_the_same_key_is_refused(ann: Person, other: dict[str, str]):
    send(ann, "k1")
    refused = send(ann, "k1", **other)
    assert (refused.status_code, refused.json()["detail"]) == (422, OTHERS_KEY)
    assert titles(ann) == ["one"]


def test_somebody_elses_key_is_another(ann: Person, bob: Person):
    assert [is_again(send(who, "k1")) for who in (ann, bob, ann, bob)] == [False, False, True, True]
    assert (titles(ann), titles(bob)) == (["one"], ["one"])


@pytest.mark.parametrize("key", ["", "x" * 256, "a b", '"a', 'a"b', '""', f'"{"x" * 256}"', '"a"b"', '"a";p=1'])
def test_what_is_no_key_is_refused(ann: Person, key: str):
    refused = send(ann, key)
    assert (refused.status_code, refused.json()["detail"][0]["loc"]) == (422, ["header", "Idempotency-Key"])
    assert titles(ann) == []


@pytest.mark.parametrize("fields", [[b"k1", b"k1"], ["schl\u00fcssel".encode()]], ids=["two", "beyond ASCII"])
def test_two_keys_are_none_nor_is_one_beyond_ascii(client: TestClient, ann: Person, fields: list[bytes]):
    token = (ann.headers or {})["Authorization"].encode()
    head = [(b"authorization", token), (b"content-type", b"application/json")]
    head += [(b"idempotency-key", each) for each in fields]
    assert ask(client, "POST", "/api/v1/items", head, whole(b'{"title": "one"}')).status == 422
    assert titles(ann) == []


@pytest.mark.parametrize("key", ["x" * 255, "!", "~", f'"{"x" * 255}"', '"\\""'])
def test_a_key_has_up_to_255_letters(ann: Person, key: str):
    assert [is_again(send(ann, key)) for _ in range(2)] == [False, True]


def test_without_a_key_and_where_nothing_is_created_nothing_is_kept(client: TestClient, ann: Person):
    send(ann, None)
    send(ann, "k1", path="/items/1", method="PATCH")
    assert [len(send(ann, "k1", method="GET").json()), len(ann.get("/items").json())] == [1, 1]
    assert count_keys(client) == 0


def test_what_is_refused_may_be_tried_again_under_the_same_key(client: TestClient, ann: Person):
    assert send(ann, "k1", title="").status_code == 422
    assert send(ann, "k1", path="/users/77/items").status_code == 404
    assert count_keys(client) == 0
    assert send(ann, "k1").status_code == 201
    assert titles(ann) == ["one"]


@pytest.mark.parametrize("why", ["shut out", "new password"])
def test_the_answer_is_not_for_a_token_that_no_longer_holds(client: TestClient, ann: Person, root: Person, why: str):
    send(ann, "k1")
    if why == "shut out":
        root.post(f"/admin/users/{ann.id}/deactivate")
    else:
        passwords = {"current_password": "four plain words together", "new_password": "four other words together"}
        ann.patch("/users/me/password", passwords)
    refused = send(ann, "k1")
    assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, 'Bearer error="invalid_token"')
    assert count_keys(client) == 1


def test_it_is_still_hers_when_her_role_has_changed(ann: Person, root: Person):
    first = send(ann, "k1")
    root.post(f"/admin/users/{ann.id}/promote")
    assert told(send(ann, "k1")) == told(first)
    assert send(ann, "k2").status_code == 201


def expire(client: TestClient, *, in_seconds: float) -> None:
    at = update(keys).values(expires_at=utcnow() + timedelta(seconds=in_seconds)).returning(keys.c.key)
    run(client, lambda db: db.run(Statement(at), {}))


def test_a_key_that_has_expired_is_a_new_one(client: TestClient, ann: Person):
    send(ann, "k1")
    expire(client, in_seconds=60)
    assert is_again(send(ann, "k1"))
    expire(client, in_seconds=0)
    assert not is_again(send(ann, "k1", "two"))
    assert is_again(send(ann, "k1", "two"))
    assert titles(ann) == ["two", "one"]


def test_how_long_a_key_is_kept_is_for_the_settings_to_say(start: Callable[..., TestClient], ann: Person):
    ann.client = start(idempotency_hours=3)
    before = utcnow()
    send(ann, "k1")
    ((until,),) = run(ann.client, lambda db: db.run(Statement(select(func.max(keys.c.expires_at))), {}))
    if isinstance(until, str):
        until = before.fromisoformat(f"{until}+00:00")
    assert timedelta(hours=3) <= until - before < timedelta(hours=3, seconds=5)


def test_what_has_expired_is_deleted_a_thousand_at_a_time(client: TestClient, ann: Person):
    send(ann, "k1")
    now = utcnow()

    old = [{"user_id": ann.id, "key": f"old {n}", "fingerprint": "", "expires_at": now} for n in range(2001)]
    run(client, lambda db: db.run(Statement(insert(keys).values(old)), {}))
    sizes: list[int] = []

    async def prune(db: Any) -> int:
        class Counted:
            async def run(self, statement: Statement, values: Any) -> Any:
                rows = await db.run(statement, values)
                sizes.append(len(rows))
                return rows

        return await kept.prune(Counted(), now)  # type: ignore[arg-type]  # all of Runs that it needs

    assert (run(client, prune), sizes[:2]) == (2001, [1000, 1000])
    assert (count_keys(client), is_again(send(ann, "k1"))) == (1, True)


@pytest.mark.promise("I18")
def test_of_many_at_once_one_is_done_and_all_are_answered_alike(ann: Person):
    with ThreadPoolExecutor(8) as pool:
        for number in range(5):
            answers = list(pool.map(lambda key: send(ann, key), [f"k{number}"] * 8))
            assert len({repr(told(answer)) for answer in answers}) == 1
            assert sorted(is_again(answer) for answer in answers) == [False] + [True] * 7
    assert titles(ann) == ["one"] * 5


# Routes of a team's own.

router = APIRouter(prefix="/api/v1/scratch")


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    app = create_app(settings)
    app.include_router(router)
    app.state.told = []
    app.state.fails = 0
    app.state.waits, app.state.goes_on = Event(), asyncio.Event()
    dispatch.install(app)
    return app


@pytest.fixture
def client(start: Callable[..., TestClient], app: FastAPI) -> TestClient:
    return start(app)


async def make(caller: Any, title: str) -> ItemRead:
    return await items.create(caller, ItemCreate(title=title), owner_id=1)


@router.patch("/many", openapi_extra=IDEMPOTENT)
async def change_many(caller: Caller, data: ItemCreate) -> list[str]:
    """A large answer of what is no creation."""
    row = await make(caller, data.title)
    return [row.title] * 100_000


@router.post("/delete", status_code=204, openapi_extra=IDEMPOTENT)
async def delete_many(caller: Caller, data: ItemCreate) -> None:
    """Without an answer's body."""
    await make(caller, data.title)


@router.post("/stream", openapi_extra=IDEMPOTENT_LATER)
async def take_stream(request: Request, caller: Caller) -> str:
    """Reads for itself, and then begins."""
    body = await request.body()
    await begin_now(request.scope)
    return (await make(caller, body.decode())).title


@router.post("/empty", status_code=201)
async def create_from_nothing(caller: Caller) -> str:
    return (await make(caller, "nothing")).title


@router.post("/secret", status_code=201, openapi_extra=NOT_IDEMPOTENT)
async def create_secret(caller: Caller, data: ItemCreate) -> str:
    return (await make(caller, data.title)).title


@router.post("/session", status_code=201)
def create_by_session(caller: Caller, session: SessionDep, data: ItemCreate) -> str:
    session.add(Item(title=data.title, owner_id=caller.id))
    session.commit()
    return data.title


@retried
async def lose(caller: Any) -> None:
    """Somebody else was faster, each time."""
    async with transaction(caller):
        raise Overtaken(BUSY)


@router.post("/fail", status_code=201)
async def fail_after_it(request: Request, application: Application, caller: Caller, data: ItemCreate) -> str:
    """Fails after it wrote in both its roles, for as long as it shall."""
    await make(caller, data.title)
    await make(application, data.title)
    request.app.state.fails -= 1
    if request.app.state.fails == 1:
        await lose(caller)
    if request.app.state.fails == 0:
        raise ZeroDivisionError
    return data.title


@router.post("/catch", status_code=201)
async def catch_what_is_refused(caller: Caller, data: ItemCreate) -> str:
    async def look(caller: Any) -> None:
        async with transaction(caller):
            raise Missing("It was not there.")

    row = await make(caller, data.title)
    with pytest.raises(Missing):
        await look(caller)
    return row.title


@router.post("/afterwards", status_code=201)
async def go_on_afterwards(request: Request, caller: Caller, data: ItemCreate, tasks: BackgroundTasks) -> str:
    async def tell() -> None:
        # As somebody else sees it, who waits for no transaction.
        found = await items.page(type(caller)(request.app.state.database))
        await make(caller, "afterwards")
        request.app.state.told.append([item.title for item in found])

    tasks.add_task(tell)
    return (await make(caller, data.title)).title


@router.post("/wait", status_code=201)
async def wait_after_it(request: Request, caller: Caller, data: ItemCreate) -> str:
    row = await make(caller, data.title)
    request.app.state.waits.set()
    await request.app.state.goes_on.wait()
    return row.title


@pytest.mark.parametrize(("method", "path", "status"), [("PATCH", "many", 200), ("POST", "delete", 204)])
def test_a_route_that_is_no_creation_may_say_that_it_takes_a_key(ann: Person, method: str, path: str, status: int):
    first, again = [send(ann, "k1", path=f"/scratch/{path}", method=method) for _ in range(2)]
    assert (first.status_code, is_again(first), is_again(again)) == (status, False, True)
    assert told(again) == told(first)
    assert titles(ann) == ["one"]


def test_what_is_kept_is_compressed(client: TestClient, ann: Person):
    answer = send(ann, "k1", path="/scratch/many", method="PATCH")
    ((size,),) = run(client, lambda db: db.run(Statement(select(func.length(keys.c.body))), {}))
    assert (len(answer.content), size < 10_000) == (600_001, True)


def test_a_creation_without_a_body_takes_a_key_too(ann: Person):
    first, again = send(ann, "k1", path="/scratch/empty"), send(ann, "k1", path="/scratch/empty")
    assert (told(again), is_again(again)) == (told(first), True)
    assert titles(ann) == ["nothing"]


def test_a_route_that_reads_for_itself_begins_when_it_has_all(ann: Person):
    def stream(body: str) -> Any:
        headers = {**(ann.headers or {}), "Idempotency-Key": "k1"}
        return ann.client.post("/api/v1/scratch/stream", content=body, headers=headers)

    first, again, other = stream("one"), stream("one"), stream("two")
    assert (told(again), is_again(first), is_again(again)) == (told(first), False, True)
    assert (other.status_code, other.json()["detail"]) == (422, OTHERS_KEY)
    assert titles(ann) == ["one"]


@pytest.mark.parametrize("route", ["session", "secret"])
def test_where_nothing_can_be_kept_or_must_not_a_key_is_refused(client: TestClient, ann: Person, route: str):
    """A Session is in no such transaction; and what is secret must not lie about."""
    refused = send(ann, "k1", path=f"/scratch/{route}")
    assert refused.status_code == 422
    assert refused.json()["detail"] == "Nothing is kept under an Idempotency-Key here. Send it without."
    assert (titles(ann), count_keys(client)) == ([], 0)
    assert send(ann, None, path=f"/scratch/{route}").status_code == 201


@pytest.mark.parametrize(("fails", "status", "later"), [(2, 503, "1"), (1, 500, None)], ids=["overtaken", "defect"])
def test_what_failed_has_left_nothing_whoever_wrote_it_and_may_be_sent_again(
    client: TestClient, app: FastAPI, ann: Person, fails: int, status: int, later: str | None
):
    app.state.fails = fails
    failed = send(ann, "k1", path="/scratch/fail")
    assert (failed.status_code, failed.headers.get("Retry-After")) == (status, later)
    assert (titles(ann), count_keys(client)) == ([], 0)
    app.state.fails = 0
    assert [is_again(send(ann, "k1", path="/scratch/fail")) for _ in range(2)] == [False, True]
    assert titles(ann) == ["one", "one"]


def test_what_was_refused_within_it_is_the_last_word_as_in_any_transaction(client: TestClient, ann: Person):
    refused = send(ann, "k1", path="/scratch/catch")
    assert (refused.status_code, refused.json()["detail"]) == (404, "It was not there.")
    assert (titles(ann), count_keys(client)) == ([], 0)


def test_what_comes_after_the_answer_comes_after_the_commit(app: FastAPI, ann: Person):
    assert [is_again(send(ann, "k1", path="/scratch/afterwards")) for _ in range(2)] == [False, True]
    assert app.state.told == [["one"]]
    assert titles(ann) == ["afterwards", "one"]


def test_what_takes_too_long_is_refused_and_leaves_nothing(
    client: TestClient, ann: Person, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shared_transaction, "TRANSACTION_LIMIT", 0.1)
    refused = send(ann, "k1", path="/scratch/wait")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert (titles(ann), count_keys(client)) == ([], 0)
    assert send(ann, "k1").status_code == 201


def test_a_request_that_is_cancelled_leaves_nothing(client: TestClient, app: FastAPI, ann: Person):
    """Between its writing and its answer: as a crash would."""
    assert client.portal is not None
    under_way = client.portal.start_task_soon(_until_cancelled, app, (ann.headers or {})["Authorization"])
    assert app.state.waits.wait(5)
    app.state.cancel()
    assert under_way.result(5) == []
    assert (titles(ann), count_keys(client)) == ([], 0)
    assert send(ann, "k1").status_code == 201


async def _until_cancelled(app: FastAPI, token: str) -> list[Any]:
    """What a request whose task is cancelled was answered."""
    sent: list[Any] = []
    head = [(b"authorization", token.encode()), (b"content-type", b"application/json"), (b"idempotency-key", b"k1")]
    scope = {
        **{"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "method": "POST"},
        **{"path": "/api/v1/scratch/wait", "raw_path": b"/api/v1/scratch/wait", "query_string": b"", "root_path": ""},
        **{"headers": head, "server": ("testserver", 80), "client": ("testclient", 50000), "state": {}},
    }

    async def send_noted(message: Any) -> None:
        sent.append(message)

    task = asyncio.ensure_future(app(scope, whole(b'{"title": "one"}'), send_noted))
    loop = asyncio.get_running_loop()
    app.state.cancel = lambda: loop.call_soon_threadsafe(task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    return sent


def test_a_mark_where_nobody_asks_who_is_calling_stops_the_start(settings: Settings):
    app = create_app(settings)

    @app.post("/scratch", openapi_extra=IDEMPOTENT)
    async def take_from_anybody() -> None:
        """Whose would the key be?"""

    with pytest.raises(TypeError, match=r"^/scratch cannot take an Idempotency-Key: it asks for no Caller.$"):
        dispatch.install(app)


def test_the_document_tells_who_takes_a_key(app: FastAPI):
    for _ in range(2):  # the second time it is asked for
        document = app.openapi()
    taking = {
        f"{method.upper()} {path}"
        for path, of in document["paths"].items()
        for method, operation in of.items()
        if "Idempotency-Key" in [each["name"] for each in operation.get("parameters", ())]
    }
    scratch = {"PATCH /api/v1/scratch/many", *(f"POST /api/v1/scratch/{name}" for name in ("delete", "stream"))}
    scratch |= {f"POST /api/v1/scratch/{name}" for name in ("empty", "fail", "catch", "afterwards", "wait")}
    assert {address for address in taking if "/scratch/" in address} == scratch
    assert taking >= {"POST /api/v1/items", "POST /api/v1/users/{user_id}/items"}
    assert "POST /api/v1/users" not in taking  # who signs up is nobody yet
    assert "x-idempotent" not in str(document)
    assert "Idempotency-Replayed" in EXPOSED
