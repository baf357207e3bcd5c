"""Which web pages may call the API from a browser: those that the settings name, and on every kind of answer."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from app.engine.http import dispatch
from app.main import create_app
from app.settings import Settings
from tests.conftest import sign_up

pytestmark = pytest.mark.once

OUR_PAGE, OUR_OTHER_PAGE, PREVIEW = "https://app.example.com", "http://localhost:5173", "https://pr-7.preview.example"
OURS = {"cors_origins": (OUR_PAGE, OUR_OTHER_PAGE), "cors_origin_regex": r"https://[a-z0-9-]+\.preview\.example"}
FOREIGN = [
    *("https://evil.example", "null", "", "*", "http://app.example.com", "https://app.example.com:444"),
    *(
        "https://app.example.com.evil.example",
        "https://evil.example/https://app.example.com",
        "https://APP.example.com",
    ),
    *("https://preview.example", "https://a.preview.example.evil.example", "https://evil.example#.preview.example"),
]
EXPOSED = {"Link", "X-Total-Count", "ETag", "Location", "Retry-After", "X-Request-Id", "X-Process-Time"}
EXPOSED |= {"Content-Disposition", "Idempotency-Replayed"}


@pytest.fixture
def serve(start: Callable[..., TestClient], settings: Settings) -> Callable[..., TestClient]:
    """Start the app under other CORS settings, with a defect at /broken."""

    def serve_with(**changed: Any) -> TestClient:
        app = create_app(settings.model_copy(update=changed))

        @app.get("/broken")
        async def broken() -> None:
            raise RuntimeError

        dispatch.install(app)
        return start(app)

    return serve_with


def answers(client: TestClient, origin: str) -> dict[str, Any]:
    """What a page of `origin` gets, by status; Ann is logged in there."""
    ann = sign_up(client, "ann")
    client.headers["Origin"] = origin
    return {
        "200": ann.get("/items"),
        "201": ann.post("/items", {"title": "Foo"}),
        "401": client.get("/api/v1/items"),
        "404": client.get("/none"),
        "405": client.put("/api/v1/items"),
        "413": client.post("/api/v1/items", content=b"x" * 200_000),
        "415": client.post("/api/v1/items", content=b"x"),
        "422": ann.post("/items", {}),
        "500": client.get("/broken"),
    }


def ask_first(client: TestClient, origin: str, method: str = "PATCH", headers: str = "authorization") -> Any:
    """A preflight, as a browser sends it."""
    asked = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
    return client.options("/api/v1/items/1", headers={"Origin": origin, **asked})


def words(response: Any, header: str) -> set[str]:
    return {word.strip() for word in response.headers[header].split(",")}


@pytest.mark.promise("H15", "H16")
@pytest.mark.parametrize("origin", [OUR_PAGE, OUR_OTHER_PAGE, PREVIEW])
def test_a_page_that_the_settings_name_may_read_every_kind_of_answer(serve: Callable[..., TestClient], origin: str):
    for status, response in answers(serve(**OURS), origin).items():
        assert response.status_code == int(status)
        assert (status, response.headers.get_list("Access-Control-Allow-Origin")) == (status, [origin])
        assert "Origin" in words(response, "Vary")
        assert words(response, "Access-Control-Expose-Headers") == EXPOSED


@pytest.mark.promise("H14")
@pytest.mark.parametrize("origin", FOREIGN)
@pytest.mark.parametrize("is_credentialed", [False, True])
def test_any_other_page_gets_nothing(serve: Callable[..., TestClient], origin: str, is_credentialed: bool):
    client = serve(**OURS, cors_credentials=is_credentialed)
    for status, response in {**answers(client, origin), "preflight": ask_first(client, origin)}.items():
        assert (status, response.headers.get("Access-Control-Allow-Origin")) == (status, None)
        # Or a cache would hand this answer to a page that may read it, and the other way round.
        assert "Origin" in words(response, "Vary")


@pytest.mark.promise("H14")
def test_unless_the_settings_say_so_no_page_may_call(serve: Callable[..., TestClient]):
    client = serve()
    for response in (*answers(client, OUR_PAGE).values(), ask_first(client, OUR_PAGE)):
        assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.promise("H15")
def test_a_preflight_says_what_such_a_page_may_do_and_for_how_long(serve: Callable[..., TestClient]):
    response = ask_first(serve(**OURS), OUR_PAGE)
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == OUR_PAGE
    assert words(response, "Access-Control-Allow-Methods") == {"GET", "HEAD", "POST", "PATCH", "DELETE"}
    ours = {"Authorization", "Content-Type", "Idempotency-Key", "If-Match", "If-None-Match", "X-Token"}
    always = {"Accept", "Accept-Language", "Content-Language", "Content-Type"}  # which any page may send
    assert words(response, "Access-Control-Allow-Headers") == ours | always
    assert response.headers["Access-Control-Max-Age"] == "600"
    assert "Origin" in words(response, "Vary")


def test_what_a_preflight_says_is_for_the_settings_to_choose(serve: Callable[..., TestClient]):
    chosen = {"cors_methods": ("GET", "PUT"), "cors_headers": ("X-Mine",), "cors_max_age": 7}
    response = ask_first(serve(**OURS, **chosen), OUR_PAGE, "PUT", "x-mine")
    assert response.status_code == 200
    assert words(response, "Access-Control-Allow-Methods") == {"GET", "PUT"}
    assert "X-Mine" in words(response, "Access-Control-Allow-Headers")
    assert response.headers["Access-Control-Max-Age"] == "7"


@pytest.mark.parametrize(("method", "header"), [("PUT", "authorization"), ("TRACE", "x-token"), ("GET", "x-foreign")])
def test_a_preflight_for_what_no_page_may_do_is_refused(serve: Callable[..., TestClient], method: str, header: str):
    refused = ask_first(serve(**OURS), OUR_PAGE, method, header)
    assert (refused.status_code, refused.headers["Content-Type"]) == (400, "application/problem+json")
    assert (refused.json()["status"], refused.headers["Access-Control-Allow-Origin"]) == (400, OUR_PAGE)


def test_cookies_are_let_through_only_when_the_settings_say_so(serve: Callable[..., TestClient]):
    without, with_them = serve(**OURS), serve(**OURS, cors_credentials=True)
    for client, expected in ((without, None), (with_them, "true")):
        simple = client.get("/api/v1/items", headers={"Origin": OUR_PAGE})
        for response in (simple, ask_first(client, OUR_PAGE)):
            assert response.headers.get("Access-Control-Allow-Credentials") == expected
            assert response.headers["Access-Control-Allow-Origin"] == OUR_PAGE


@pytest.mark.promise("H14")
def test_a_star_lets_every_page_call_without_cookies(serve: Callable[..., TestClient]):
    client = serve(cors_origins=("*",))
    for response in (client.get("/api/v1/items", headers={"Origin": "https://a.example"}), ask_first(client, "null")):
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in response.headers


@pytest.mark.promise("H14")
@pytest.mark.parametrize("origins", ["*", f"{OUR_PAGE}, *", ("*",)])
def test_a_star_with_cookies_stops_the_start(origins: object):
    with pytest.raises(ValidationError, match=r"CORS_ORIGINS=\* with CORS_CREDENTIALS=true .* name the pages"):
        Settings(cors_origins=origins, cors_credentials=True)


@pytest.mark.parametrize("regex", [".*", ".+", "https?://.*", r"[\s\S]*"])
def test_a_regex_that_every_page_matches_stops_the_start_with_cookies(regex: str):
    with pytest.raises(ValidationError, match=r"CORS_ORIGIN_REGEX with CORS_CREDENTIALS=true .* name yours"):
        Settings(cors_origin_regex=regex, cors_credentials=True)
    assert Settings(cors_origin_regex=regex).cors_credentials is False
