"""The pages for people: they work with no internet, show only what is meant to be shown, and repeat nothing."""

import base64
import hashlib
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.accounts.letters import link_to
from app.models import Purpose
from app.pages import STATIC
from tests.conftest import PASSWORD, Person
from tests.test_http import ask

DOCS = ("/docs", "/redoc")
PAGES = ("/", "/account", *DOCS)


@pytest.fixture
def hidden(tmp_path: Path) -> Iterator[None]:
    """In the folder that is served: files that begin with a dot, and links that lead out of it."""
    (tmp_path / "secret.css").write_text("hailhydra")
    with ExitStack() as stack:
        for name in (".env", ".hidden.css", ".git/config"):
            file = STATIC / name
            assert not file.exists()
            if file.parent != STATIC:
                file.parent.mkdir()
                stack.callback(file.parent.rmdir)
            file.write_text("hailhydra")
            stack.callback(file.unlink)
        for name, target in (("link.css", tmp_path / "secret.css"), ("link", tmp_path)):
            (STATIC / name).symlink_to(target)
            stack.callback((STATIC / name).unlink)
        yield


def directives(client: TestClient, path: str) -> dict[str, list[str]]:
    policy = client.get(path).headers["Content-Security-Policy"]
    return {words[0]: words[1:] for words in (directive.split() for directive in policy.split(";"))}


def references(page: str) -> list[str]:
    """Whatever a page loads, and where its links lead."""
    return re.findall(
        r"""<(?:script|link|img|a|iframe|form|source)\b[^>]*?\b(?:src|href|action)=["']?([^"'\s>]*)""", page
    )


def inline_scripts(page: str) -> list[str]:
    return re.findall(r"<script(?![^>]*\bsrc=)[^>]*>(.*?)</script>", page, re.DOTALL)


def test_the_front_page_is_a_page(client: TestClient):
    response = client.get("/")
    assert (response.status_code, response.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert response.content == (STATIC / "index.html").read_bytes()
    assert directives(client, "/")["default-src"] == ["'none'"]
    assert {"/docs", "/redoc", "/openapi.json"} <= set(references(response.text))


@pytest.mark.parametrize(("name", "kind"), [("style.css", "text/css; charset=utf-8"), ("favicon.svg", "image/svg+xml")])
def test_static_serves_the_folder(client: TestClient, name: str, kind: str):
    response = client.get(f"/static/{name}")
    assert (response.status_code, response.headers["Content-Type"]) == (200, kind)
    assert response.content == (STATIC / name).read_bytes()
    again = client.get(f"/static/{name}", headers={"If-None-Match": response.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.promise("H17")
@pytest.mark.usefixtures("hidden")
@pytest.mark.parametrize(
    "path",
    [
        *(".env", ".hidden.css", ".git/config", "%2eenv", "./.env", "%2e/.env", "x/../.env", "%2fx/%2e%2e/.env"),
        *("link.css", "link/secret.css", "link", "link/"),
    ],
)
def test_static_shows_no_dot_file_and_follows_no_link_that_leads_out(client: TestClient, path: str):
    status, _, body = ask(client, "GET", f"/static/{path}")
    assert (status, b"hailhydra" in body) == (404, False)


WAYS_OUT = [
    *(
        "../pyproject.toml",
        "..%2fpyproject.toml",
        "..%2Fpyproject.toml",
        "%2e%2e/pyproject.toml",
        "%2e%2e%2fpyproject.toml",
    ),
    *("x/../../pyproject.toml", "x%2f..%2f..%2fpyproject.toml", "./../pyproject.toml", "..//pyproject.toml"),
    *(
        "..\\pyproject.toml",
        "..%5cpyproject.toml",
        "%2e%2e%5cpyproject.toml",
        "....//pyproject.toml",
        "..;/pyproject.toml",
    ),
    *("%252e%252e/pyproject.toml", "..%252fpyproject.toml", "%c0%ae%c0%ae/pyproject.toml", "..%c0%afpyproject.toml"),
    *(
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "//etc/passwd",
        "%2f%2fetc/passwd",
        "../" * 20 + "etc/passwd",
        "file:///etc/passwd",
    ),
    *("..%00/pyproject.toml", "%00", "style.css%00", "style.css%00.html", "style.css%0a", "style.css/.."),
    *("a" * 300, "a/" * 3000, "%ff%fe", "~root", "CON", "C:\\windows\\win.ini", "", ".", "..", "../static"),
]


@pytest.mark.promise("H17")
@pytest.mark.parametrize("folder", ["/static", "/docs/files"])
def test_no_way_leads_out_of_a_folder_and_no_folder_is_listed(client: TestClient, folder: str):
    statuses = {}
    for way in WAYS_OUT:
        status, _, body = ask(client, "GET", f"{folder}/{way}")
        statuses[way] = status
        assert b"[project]" not in body
        assert b"root:" not in body
        assert b"style.css" not in body
    assert statuses == dict.fromkeys(WAYS_OUT, 404)
    assert ask(client, "GET", folder)[0] == 404


@pytest.mark.promise("H21")
@pytest.mark.parametrize("path", PAGES)
def test_a_page_loads_nothing_from_elsewhere_and_all_it_loads_is_there(client: TestClient, path: str):
    page = client.get(path).text
    found = references(page)
    assert [reference for reference in found if not re.match(r"/(?!/)", reference)] == []
    assert {reference: client.get(reference).status_code for reference in found} == dict.fromkeys(found, 200)
    assert re.findall(r"@import|url\(|\son\w+=", page) == []


@pytest.mark.parametrize("path", PAGES)
def test_a_page_has_an_icon(client: TestClient, path: str):
    (icon,) = re.findall(r"""<link\b[^>]*rel="(?:shortcut )?icon"[^>]*>""", client.get(path).text)
    response = client.get(references(icon)[0])
    assert (response.status_code, response.headers["Content-Type"]) == (200, "image/svg+xml")


@pytest.mark.promise("H08", "H21")
@pytest.mark.parametrize(("path", "scripts"), [("/", 0), ("/account", 0), ("/docs", 1), ("/redoc", 0)])
def test_a_page_runs_those_scripts_that_are_in_it_now_and_no_others(client: TestClient, path: str, scripts: int):
    digests = [hashlib.sha256(script.encode()).digest() for script in inline_scripts(client.get(path).text)]
    policy = directives(client, path)
    hashes = [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
    assert len(hashes) == scripts
    assert policy.get("script-src", []) == ([] if path == "/" else ["'self'", *hashes])
    assert [policy[name] for name in ("default-src", "base-uri", "form-action", "frame-ancestors")] == [["'none'"]] * 4
    elsewhere = {word for name in policy for word in policy[name] if re.search(r"\*|https?:|unsafe-eval", word)}
    assert elsewhere == set()


@pytest.mark.promise("H22")
@pytest.mark.parametrize("path", PAGES)
def test_a_page_repeats_nothing_of_what_was_sent(client: TestClient, path: str):
    evil = '"><script>hailhydra</script>'
    plain = client.get(path)
    asked = client.get(f"{path}?url=https://evil.example/hailhydra.json&x={evil}", headers={"X-Forwarded-Prefix": evil})
    _, headers, body = ask(client, "GET", path, {"Host": f"evil.example{evil}", "X-Forwarded-Host": "evil.example"})
    assert plain.content == asked.content == body
    assert headers["content-security-policy"] == plain.headers["Content-Security-Policy"]


@pytest.mark.promise("H22")
@pytest.mark.parametrize("path", [f"{page}/%3Cscript%3Ehailhydra%3C/script%3E" for page in DOCS])
def test_what_is_below_a_page_is_no_page(client: TestClient, path: str):
    status, headers, body = ask(client, "GET", path)
    assert (status, headers["content-type"], b"hailhydra" in body) == (404, "application/problem+json", False)


@pytest.mark.promise("H20")
def test_the_schema_says_where_a_password_gets_a_token_and_there_it_does(client: TestClient, ann: Person):
    (flow,) = [
        scheme["flows"]["password"]
        for scheme in client.get("/openapi.json").json()["components"]["securitySchemes"].values()
        if scheme["type"] == "oauth2"
    ]
    answer = client.post(flow["tokenUrl"], data={"username": ann.username, "password": PASSWORD})
    assert (answer.status_code, answer.json()["token_type"]) == (200, "bearer")


def test_the_links_in_mails_are_used_where_the_api_takes_them(client: TestClient):
    script = (STATIC / "account.js").read_text(encoding="utf-8")
    paths = client.get("/openapi.json").json()["paths"]
    used = re.findall(r'post\("(.*?)"', script)
    assert used == ["/api/v1/users/password-reset/confirm", "/api/v1/users/confirm"]
    assert [path for path in used if "post" not in paths.get(path, {})] == []
    kinds = {
        link_to("https://app.example.com", purpose, "x").partition("#")[2].partition("=")[0] for purpose in Purpose
    }
    assert kinds == {"reset", "confirm"}
    assert all(f'id="{kind}"' in client.get("/account").text for kind in kinds)
