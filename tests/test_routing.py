"""The routing table answers like FastAPI's own router, guards included, and better where that one is wrong."""

from collections.abc import Callable

import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, WebSocket
from fastapi.testclient import TestClient
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from app.engine.http import dispatch, refusals
from app.errors import Forbidden

LEVELS = ("app", "include", "nested include", "router", "route")


def served(app: FastAPI) -> TestClient:
    """`app` as create_app would finish it."""
    refusals.install(app)
    dispatch.install(app)
    return TestClient(app, follow_redirects=False)


def said(*paths: str, method: str = "GET") -> TestClient:
    """An app with these paths, registered in this order, each of which says which it is, and its parameters."""
    app = FastAPI(redirect_slashes=False)
    for path in paths:
        app.add_api_route(path, saying(path), methods=[method])
    return served(app)


def saying(path: str) -> Callable[..., object]:
    async def say(request: Request) -> object:
        return [path, request.path_params]

    return say


def guard(level: str) -> object:
    async def refuse(request: Request) -> None:
        if request.headers.get("X-Refuse") == level:
            raise Forbidden(f"Not past the {level}.")

    return Depends(refuse)


@pytest.fixture
def guarded() -> TestClient:
    """A route with a guard on each level, all of which let through whom nobody refuses."""
    router = APIRouter(dependencies=[guard("router")])
    router.add_api_route("/{thing_id}", saying("thing"), methods=["GET", "POST"], dependencies=[guard("route")])
    api = APIRouter()
    api.include_router(router, prefix="/things", dependencies=[guard("nested include")])
    app = FastAPI(redirect_slashes=False, dependencies=[guard("app")])
    app.include_router(api, prefix="/v1", dependencies=[guard("include")])
    app.include_router(api, prefix="/latest")
    return served(app)


@pytest.mark.parametrize("path", ["/v1/things/1", "/v1/things/1/"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("level", LEVELS)
def test_a_guard_holds_on_each_level(guarded: TestClient, level: str, method: str, path: str):
    refused = guarded.request(method, path, headers={"X-Refuse": level})
    assert refused.status_code == 403
    assert method == "HEAD" or refused.json()["detail"] == f"Not past the {level}."
    assert guarded.request(method, path).status_code == 200


def test_a_guard_stands_only_where_it_was_put(guarded: TestClient):
    statuses = [guarded.get("/latest/things/1", headers={"X-Refuse": level}).status_code for level in LEVELS]
    assert dict(zip(LEVELS, statuses, strict=True)) == dict.fromkeys(LEVELS, 403) | {"include": 200}


@pytest.mark.parametrize("paths", [("/items/me", "/items/{item_id}"), ("/items/{item_id}", "/items/me")])
def test_a_literal_comes_before_a_parameter_whatever_the_order(paths: tuple[str, str]):
    client = said(*paths)
    assert client.get("/items/me").json() == ["/items/me", {}]
    assert client.get("/items/you").json() == ["/items/{item_id}", {"item_id": "you"}]


def test_a_literal_that_leads_nowhere_gives_way_to_a_parameter():
    client = said("/me/y", "/{who}/x", "/{who}/x/{what}/z", "/me/x/1/w", "/{a}/{b}/1/v")
    assert client.get("/me/y").json() == ["/me/y", {}]
    assert client.get("/me/x").json() == ["/{who}/x", {"who": "me"}]
    assert client.get("/me/x/1/w").json() == ["/me/x/1/w", {}]
    assert client.get("/me/x/1/z").json() == ["/{who}/x/{what}/z", {"who": "me", "what": "1"}]
    # What was tried in vain leaves no parameter behind.
    assert client.get("/me/x/1/v").json() == ["/{a}/{b}/1/v", {"a": "me", "b": "x"}]
    assert client.get("/you/y").status_code == client.get("/me/x/2/w").status_code == 404


def test_a_parameter_may_have_another_name_for_each_method():
    app = FastAPI(redirect_slashes=False)
    for method, name in (("GET", "one"), ("POST", "other")):
        app.add_api_route(f"/items/{{{name}}}", saying(method), methods=[method])
    client = served(app)
    assert client.get("/items/1").json() == ["GET", {"one": "1"}]
    assert client.post("/items/1").json() == ["POST", {"other": "1"}]
    assert client.delete("/items/1").headers["Allow"] == "GET, HEAD, OPTIONS, POST"


def test_of_two_routes_for_the_same_the_first_answers():
    assert said("/items/{one}", "/items/{other}").get("/items/1").json() == ["/items/{one}", {"one": "1"}]


def test_converters_mounts_and_websockets_work_behind_the_table():
    async def hello(_request: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(await socket.receive_text())
        await socket.close()

    app = FastAPI(redirect_slashes=False)
    for path in ("/files/{name:path}", "/files/index", "/numbers/{number:int}", "/{name}.txt"):
        app.add_api_route(path, saying(path))
    app.router.routes.append(Mount("/mounted", routes=[Route("/hello", hello)]))
    app.add_api_websocket_route("/echo", echo)
    client = served(app)

    assert client.get("/files/a/b.txt").json() == ["/files/{name:path}", {"name": "a/b.txt"}]
    assert client.get("/files/index").json() == ["/files/index", {}]
    assert client.get("/numbers/7").json() == ["/numbers/{number:int}", {"number": 7}]
    assert client.get("/numbers/x").status_code == 404
    assert client.get("/a.txt").json() == ["/{name}.txt", {"name": "a"}]
    assert client.get("/mounted/hello").text == "hello"
    assert client.get("/mounted/none").status_code == 404
    with client.websocket_connect("/echo") as socket:
        socket.send_text("ann")
        assert socket.receive_text() == "ann"


@pytest.mark.parametrize("path", ["/", "/none", "/items", "/items/1/2", "/items//", "//items/1", "/Items/1"])
def test_what_no_route_answers_is_missing_in_the_common_shape(path: str):
    client = said("/items/{item_id}", "/files/{name:path}")
    response = client.get(f"http://testserver{path}")
    assert (response.status_code, response.headers["Content-Type"]) == (404, "application/problem+json")
    assert (response.json()["type"], response.json()["status"]) == ("about:blank", 404)


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        *(("a%20b", "a b"), ("%C3%A9", "é"), ("%25", "%"), ("a%3Fb%23c", "a?b#c"), ("%5C", "\\")),
        *(("%7B%7D", "{}"), ("%7Bitem_id%7D", "{item_id}"), ("*", "*"), ("a;b=c", "a;b=c"), ("%2E%2E%2E", "...")),
    ],
)
def test_a_parameter_arrives_as_it_was_meant(sent: str, received: str):
    assert said("/items/{item_id}").get(f"/items/{sent}").json() == ["/items/{item_id}", {"item_id": received}]


def test_a_slash_within_a_parameter_is_a_slash_however_it_is_written():
    client = said("/items/{item_id}", "/items/{item_id}/parts/{part}")
    assert client.get("/items/1%2F2").status_code == 404
    assert client.get("/items/1%2Fparts%2F2").json() == ["/items/{item_id}/parts/{part}", {"item_id": "1", "part": "2"}]


def test_behind_a_proxy_that_serves_a_folder_the_rest_of_the_path_counts():
    app = said("/items/{item_id}").app
    client = TestClient(app, root_path="/cadre")
    for path in ("/cadre/items/1", "/cadre/items/1/"):
        assert client.get(path).json() == ["/items/{item_id}", {"item_id": "1"}]
    assert client.get("/cadre/none").status_code == client.get("/cadre").status_code == 404


def test_of_twenty_routers_the_table_finds_every_route_and_the_last():
    api = APIRouter()
    for number in range(20):
        router = APIRouter()
        for path in ("", "/{row_id}", "/{row_id}/parts", "/mine"):
            router.add_api_route(path, saying(f"{number}{path}"), methods=["GET"])
        api.include_router(router, prefix=f"/entities{number}")
    app = FastAPI(redirect_slashes=False)
    app.include_router(api, prefix="/api/v1")
    client = served(app)
    for number in range(20):
        found = [client.get(f"/api/v1/entities{number}{path}").json() for path in ("", "/7", "/7/parts", "/mine")]
        assert found == [
            [f"{number}", {}],
            [f"{number}/{{row_id}}", {"row_id": "7"}],
            [f"{number}/{{row_id}}/parts", {"row_id": "7"}],
            [f"{number}/mine", {}],
        ]
