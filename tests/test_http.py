"""HTTP as browsers, proxies and libraries expect it, whatever the path, the method and the answer."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.engine.http import dispatch
from app.main import create_app
from app.routers import health
from app.settings import Settings
from tests import asgi
from tests.conftest import PASSWORD, Person, sign_up
from tests.test_items import give_items

OUR_PAGE = "https://app.example.com"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW")
LOGIN = {"username": "ann", "password": PASSWORD}


def ask(client: TestClient, method: str, path: str, headers: dict[str, str] | None = None) -> Any:
    """Status, headers and body as the app sends them."""
    fields = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    answer = asgi.ask(client, method, path, fields)
    return answer.status, answer.headers, answer.body


def api(client: TestClient, *methods: str) -> list[tuple[str, str]]:
    """Every operation of the API, or those with these methods; whatever has a number is number 1."""
    paths = {path: of for path, of in client.app.openapi()["paths"].items() if path not in health.PATHS}
    operations = [(method.upper(), path) for path, of in paths.items() for method in of]
    wanted = [(method, re.sub(r"{\w+}", "1", path)) for method, path in operations]
    return [(method, path) for method, path in wanted if not methods or method in methods]


@pytest.fixture
def faulty(start: Callable[..., TestClient], settings: Settings) -> TestClient:
    """A client of the app with a defect in one route, and one web page that may call it."""
    app = create_app(settings.model_copy(update={"cors_origins": (OUR_PAGE,)}))

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("hailhydra in /srv/app/secret.py")

    dispatch.install(app)
    return start(app)


@pytest.mark.promise("H01", "H02")
def test_a_method_that_a_path_has_not_is_refused_with_those_it_has(client: TestClient):
    allowed: dict[str, set[str]] = {}
    for method, path in api(client):
        allowed.setdefault(path, {"OPTIONS"}).update({method, "HEAD"} if method == "GET" else {method})
    allowed |= {path: {"GET", "HEAD", "OPTIONS"} for path in ("/", "/docs", "/redoc")}
    allowed |= {path: {"GET", "HEAD"} for path in ("/openapi.json", "/static/style.css")}
    for path, methods in allowed.items():
        for method in set(METHODS) - methods:
            status, headers, _ = ask(client, method, path)
            assert (path, method, status) == (path, method, 405)
            assert (path, set(headers["allow"].split(", "))) == (path, methods)


@pytest.mark.promise("H01")
def test_options_says_which_methods_an_address_has(client: TestClient):
    for path, allow in (("/api/v1/items/1", "DELETE, GET, HEAD, OPTIONS, PATCH"), ("/docs", "GET, HEAD, OPTIONS")):
        status, headers, body = ask(client, "OPTIONS", path)
        assert (status, headers["allow"], body) == (204, allow, b"")
        assert "content-type" not in headers
    assert ask(client, "OPTIONS", "/api/v1/nothing")[0] == 404


@pytest.mark.promise("H11")
def test_where_hosts_are_named_no_other_is_answered(start: Callable[..., TestClient]):
    client = start(hosts=("api.example.com", "*.example.org", "[::1]"))
    known = ("api.example.com", "API.Example.com:8000", "a.b.example.org", "[::1]", "[::1]:80")
    foreign = ("example.com", "example.org", "xapi.example.com", "api.example.com.evil.example", "evil.example", "")
    for host in known:
        assert (host, ask(client, "GET", "/docs", {"Host": host})[0]) == (host, 200)
    foreign += ("api.example.com@evil.example", "api.example.com:x", "evil.example:80#api.example.com")
    for host in (*foreign, *(f"evil.example{odd}a.example.org" for odd in "/?#\t@:"), ".example.org"):
        status, headers, body = ask(client, "GET", "/docs", {"Host": host})
        assert (host, status, headers["content-type"]) == (host, 421, "application/problem+json")
        assert b"example" not in body
    # A load balancer asks by address.
    assert ask(client, "GET", "/health", {"Host": "10.0.0.7:8000"})[0] == 200


@pytest.mark.promise("H26")
def test_over_tls_a_browser_is_told_to_stay_with_it(client: TestClient):
    name = "Strict-Transport-Security"
    assert client.get("https://testserver/docs").headers.get_list(name) == ["max-age=31536000"]
    assert name not in client.get("/docs").headers
    # Only the server knows, and the proxies that it trusts: see test_wire.py.
    assert name not in client.get("/docs", headers={"X-Forwarded-Proto": "https"}).headers


def test_an_answer_without_content_has_no_type_of_it(ann: Person):
    ann.post("/items", {"title": "one"})
    deleted = ann.delete("/items/1")
    assert (deleted.status_code, deleted.content, "Content-Type" in deleted.headers) == (204, b"", False)


@pytest.mark.promise("H03")
def test_head_answers_like_get_without_a_body(ann: Person, root: Person):
    give_items(ann, 2)
    pages = ["/", "/docs", "/redoc", "/openapi.json", "/static/style.css", "/static/none", "/none", "/api/v1/items?x=1"]
    for path in [*pages, *(path for _, path in api(root.client, "GET"))]:
        for caller in (root.headers, None):
            got, head = ask(root.client, "GET", path, caller), ask(root.client, "HEAD", path, caller)
            for _, headers, _ in (got, head):
                del headers["x-request-id"], headers["x-process-time"]
            assert head == (got[0], got[1], b"")
            if "content-length" in got[1]:
                assert got[1]["content-length"] == str(len(got[2])) != "0"
            else:
                assert path.endswith(("/changes/stream", "/export"))  # whose end nobody knows


@pytest.mark.promise("H12")
def test_both_spellings_of_an_address_answer_alike_without_a_redirect(ann: Person):
    for path in ("/items", "/items/"):
        created = ann.post(path, {"title": path})
        assert (created.status_code, created.json()["title"]) == (201, path)
    assert [item["title"] for item in ann.get("/items/").json()] == ["/items/", "/items"]
    assert ann.patch("/items/2/", {"title": "changed"}).json()["title"] == "changed"
    assert (ann.delete("/items/2/").status_code, ann.get("/items/2").status_code) == (204, 404)
    assert ann.client.post("/api/v1/token/", data=LOGIN).status_code == 200
    for path in ("/items", "/items/1", "/users/me", "/users/me/items", "/items?limit=1"):
        address, _, query = path.partition("?")
        plain, slashed = ann.get(path), ann.get(f"{address}/?{query}")
        assert (slashed.status_code, slashed.content) == (200, plain.content)


@pytest.mark.parametrize(
    "path", ["//api/v1/items", "/api//v1/items", "/api/v1//items", "/api/v1/items//", "/API/v1/items"]
)
def test_an_address_with_other_slashes_or_letters_is_another(ann: Person, path: str):
    status, headers, _ = ask(ann.client, "GET", path, ann.headers)
    assert (status, headers.get("location")) == (404, None)


@pytest.mark.promise("H10")
def test_no_answer_leads_to_where_the_host_header_says(ann: Person):
    for path in ("/api/v1/items/", "/api/v1/items", "/docs/", "/static", "/static/", "//evil.example/", "/api/v1"):
        hostile = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", **(ann.headers or {})}
        _, headers, body = ask(ann.client, "GET", path, hostile)
        assert "location" not in headers
        assert b"evil.example" not in body


def test_latest_answers_like_v1_and_is_not_in_the_schema(ann: Person, root: Person):
    give_items(ann, 2)
    root.post("/machine_tokens", {"name": "one"})
    for _, path in api(root.client, "GET"):
        latest = path.replace("/api/v1/", "/api/latest/")
        answers = [root.client.get(path, headers=root.headers), root.client.get(latest, headers=root.headers)]
        assert (answers[0].status_code, answers[0].content) == (answers[1].status_code, answers[1].content)
        assert answers[0].status_code == 200 or is_a_teams_own(path)
        assert root.client.get(latest).status_code == 401
    assert {path[:8] for _, path in api(root.client)} == {"/api/v1/"}
    assert root.client.post("/api/latest/items", json={"title": "Foo"}, headers=root.headers).status_code == 201


@pytest.mark.promise("H04", "H24")
@pytest.mark.parametrize(
    "path",
    [
        "/none",
        "/api",
        "/api/v1",
        "/api/v2/items",
        "/api/v1/none",
        "/static/none",
        "/.env",
        "/.git/config",
        "/metrics",
        "/debug",
        "/admin",
    ],
)
def test_an_unknown_address_is_missing_in_the_common_shape(client: TestClient, path: str):
    response = client.get(path)
    assert (response.status_code, response.headers["Content-Type"]) == (404, "application/problem+json")
    assert (response.json()["type"], response.json()["status"]) == ("about:blank", 404)
    assert set(response.json()) == {"type", "title", "status", "detail"}


@pytest.mark.promise("H05")
def test_every_refusal_has_the_same_shape(client: TestClient, start: Callable[..., TestClient], ann: Person):
    bob = {"username": "ann", "email": "bob@example.com", "password": PASSWORD}
    refusals = {
        401: client.get("/api/v1/items"),
        403: ann.get("/users"),
        404: ann.get("/items/1"),
        405: client.put("/api/v1/items"),
        409: client.post("/api/v1/users", json=bob),
        422: ann.post("/items", {}),
        503: start(read_only=True).post("/api/v1/items", json={"title": "Foo"}, headers=ann.headers),
    }
    for status, response in refusals.items():
        assert (response.status_code, response.headers["Content-Type"]) == (status, "application/problem+json")
        problem = response.json()
        assert set(problem) == {"type", "title", "status", "detail"}
        assert (problem["type"], problem["status"]) == ("about:blank", status)
        assert isinstance(problem["title"], str)
        assert isinstance(problem["detail"], list if status == 422 else str)
        assert problem["title"]
        assert problem["detail"]


def kinds_of_answer(client: TestClient, ann: Person) -> dict[str, Any]:
    preflight = {"Access-Control-Request-Method": "GET"}
    return {
        "200": ann.get("/items"),
        "201": ann.post("/items", {"title": "Foo"}),
        "204": ann.delete("/items/1"),
        "401": client.get("/api/v1/items"),
        "404": client.get("/none"),
        "405": client.put("/api/v1/items"),
        "422": ann.post("/items", {}),
        "500": client.get("/broken"),
        "preflight": client.options("/api/v1/items", headers={"Origin": OUR_PAGE, **preflight}),
        "foreign preflight": client.options("/api/v1/items", headers={"Origin": "https://evil.example", **preflight}),
        "token": client.post("/api/v1/token", data=LOGIN),
        "no token": client.post("/api/v1/token", data=LOGIN | {"password": "wrong"}),
        "front page": client.get("/"),
        "docs": client.get("/docs"),
        "redoc": client.get("/redoc"),
        "schema": client.get("/openapi.json"),
        "static": client.get("/static/style.css"),
        "docs file": client.get("/docs/files/swagger-ui.css"),
        "no file": client.get("/static/none"),
    }


@pytest.mark.promise("H06", "H08", "H09", "H27")
def test_every_kind_of_answer_keeps_a_browser_careful(faulty: TestClient):
    for kind, response in kinds_of_answer(faulty, sign_up(faulty, "ann")).items():
        headers = response.headers
        assert (kind, headers.get_list("X-Content-Type-Options")) == (kind, ["nosniff"])
        assert (kind, headers.get_list("Referrer-Policy")) == (kind, ["no-referrer"])
        assert (kind, headers.get_list("X-Frame-Options")) == (kind, ["DENY"])
        (policy,) = headers.get_list("Content-Security-Policy")
        assert policy.startswith("default-src 'none'; ")
        assert "frame-ancestors 'none'" in policy
        assert not {"Server", "X-Powered-By", "Set-Cookie"} & {name.title() for name in headers}


def test_every_kind_of_answer_says_how_long_it_took_in_seconds(faulty: TestClient):
    for response in kinds_of_answer(faulty, sign_up(faulty, "ann")).values():
        (seconds,) = response.headers.get_list("X-Process-Time")
        assert 0 < float(seconds) < 5


@pytest.mark.promise("H13")
def test_every_answer_has_an_id_of_its_own_whatever_the_client_sends(faulty: TestClient):
    ann = sign_up(faulty, "ann")
    faulty.headers["X-Request-Id"] = "hailhydra"
    ids = [response.headers["X-Request-Id"] for response in kinds_of_answer(faulty, ann).values()]
    assert [one for one in ids if not re.fullmatch(r"[0-9a-f]{16}", one)] == []
    assert len(set(ids)) == len(ids)


@pytest.mark.promise("A02", "H07")
def test_what_is_read_is_private_and_what_is_written_is_stored_nowhere(faulty: TestClient):
    answers = kinds_of_answer(faulty, sign_up(faulty, "ann"))
    cache = {kind: response.headers.get_list("Cache-Control") for kind, response in answers.items()}
    assert cache["200"] == cache["401"] == cache["404"] == cache["500"] == ["private, no-cache"]
    assert [cache[kind] for kind in ("201", "204", "422", "token", "no token")] == [["no-store"]] * 5
    assert cache["static"] == ["public, no-cache"]


def is_a_teams_own(path: str) -> bool:
    """Of another entity than those that Cadre comes with, and so without a row here."""
    return path.split("/")[3] not in (
        "items",
        "users",
        "admin",
        "token",
        "revoke",
        "logout",
        "sessions",
        "machine_tokens",
    )


FREE = {"token", "revoke", "logout", "sessions"}


def test_read_only_refuses_every_write_for_a_while(start: Callable[..., TestClient]):
    client = start(read_only=True)
    root = sign_up(client, "root", is_superuser=True)
    give_items(root, 1)
    writes = [write for write in api(client, "POST", "PATCH", "DELETE", "PUT") if write[1].split("/")[3] not in FREE]
    assert len(writes) >= 11
    for method, path in writes:
        for prefix in ("/api/v1", "/api/latest"):
            response = client.request(
                method, path.replace("/api/v1", prefix), headers=root.headers, json={"title": "Bar"}
            )
            assert (path, response.status_code, response.headers["Retry-After"]) == (path, 503, "60")
    assert root.get("/items/1").json()["version"] == 1


def test_read_only_lets_everybody_read_and_log_in_and_out(start: Callable[..., TestClient]):
    client = start(read_only=True)
    root = sign_up(client, "root", is_superuser=True)
    give_items(root, 1)
    reads = {path: client.get(path, headers=root.headers).status_code for _, path in api(client, "GET")}
    assert reads.pop("/api/v1/machine_tokens/1") == 404
    assert {path: status for path, status in reads.items() if status != 200 and not is_a_teams_own(path)} == {}
    assert {*reads.values()} <= {200, 404}
    assert ask(client, "HEAD", "/api/v1/items", root.headers)[0] == 200
    for path in ("/api/v1/token", "/api/latest/token", "/token"):
        assert client.post(path, data={"username": "root", "password": PASSWORD}).status_code == 200
    assert [root.delete(f"/sessions{path}").status_code for path in ("/2", "")] == [204, 204]
    assert root.get("/users/me").status_code == 401


@pytest.mark.promise("H16")
def test_a_defect_is_logged_and_answered_without_a_word_about_it(faulty: TestClient, caplog: pytest.LogCaptureFixture):
    response = faulty.get("/broken", headers={"Origin": OUR_PAGE})
    assert (response.status_code, response.headers["Content-Type"]) == (500, "application/problem+json")
    assert response.json() == {
        **{"type": "about:blank", "title": "Internal Server Error", "status": 500},
        "detail": "Something went wrong on our side. The request id is in X-Request-Id.",
    }
    assert response.headers["Access-Control-Allow-Origin"] == OUR_PAGE
    (record,) = [record for record in caplog.records if record.name == "app"]
    assert record.getMessage() == "A request failed"
    assert "hailhydra in /srv/app/secret.py" in caplog.text


@pytest.mark.promise("V20")
def test_of_many_mistakes_the_first_twenty_are_listed_without_what_was_sent(ann: Person):
    response = ann.post("/items", {"title": "Foo"} | {f"key {n}": f"hailhydra {n}" for n in range(30)})
    assert (response.status_code, response.headers["Content-Type"]) == (422, "application/problem+json")
    assert [wrong["loc"] for wrong in response.json()["detail"]] == [["body", f"key {n}"] for n in range(20)]
    assert {frozenset(wrong) for wrong in response.json()["detail"]} == {frozenset({"loc", "msg", "type"})}
    assert "hailhydra" not in response.text


ODD_HEADERS = [
    *({"Accept": odd} for odd in ("image/png", "", "*/*;q=0", "text/html;q=nonsense,,;", "application/" + "x" * 9000)),
    *({"Accept-Encoding": odd} for odd in ("gzip;q=2", "identity;q=0, *;q=0", "br,gzip,\x7f", "")),
    *({"Accept-Language": odd} for odd in ("xx-" * 2000, "*;q=-1")),
    *({"Cookie": odd} for odd in ("", ";;;=", "a=b; a=c; =d", "$Version=1; \x01", "x=" + "y" * 9000)),
    *(
        {"Range": f"bytes={odd}"}
        for odd in ("0-1", "5-1", "-0", "-", "a-b", "9999999-", "0-" + "9" * 5000, "0-0," * 900)
    ),
    *({"Range": odd} for odd in ("", "lines=0-1", "bytes", "bytes=0-1\x00")),
    *({"If-None-Match": odd} for odd in ("*", "nonsense", '"' * 3)),
    *({"If-Modified-Since": odd} for odd in ("", "yesterday", "Tue, 99 Nov 9999 99:99:99 GMT")),
    *({"Authorization": odd} for odd in ("", "Bearer", "Bearer  ", "Basic \xff", "é" * 100)),
    *({"Content-Type": odd} for odd in ("", ";", "application/json; charset=klingon", "multipart/form-data")),
    *({"Content-Length": odd} for odd in ("-1", "abc")),
]


@pytest.mark.promise("H25")
@pytest.mark.parametrize("path", ["/api/v1/items", "/", "/docs", "/openapi.json", "/static/style.css"])
def test_odd_headers_are_no_reason_to_fail(ann: Person, path: str):
    for odd in ODD_HEADERS:
        status, headers, _ = ask(ann.client, "GET", path, {**(ann.headers or {}), **odd})
        assert (odd, status < 500) == (odd, True)
        # A refusal has the common shape, whoever refuses.
        assert (odd, headers.get("content-type")) == (odd, "application/problem+json") or status < 400


def test_a_file_is_sent_whole_when_a_range_is_in_a_unit_that_nobody_knows(client: TestClient):
    # RFC 9110, section 14.2: such a header must be ignored.
    response = client.get("/static/style.css", headers={"Range": "lines=0-1"})
    assert (response.status_code, response.content) == (200, client.get("/static/style.css").content)
