"""The OpenAPI document says all that clients need, and the committed one is the app's."""

import json
import re
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts

from app.main import create_app
from app.routers import health
from app.settings import ROOT, Settings

COMMITTED = ROOT / "docs" / "openapi.json"
PATTERN = "x7f-"  # part of what CLEAN and SINGLE exclude
FILES = ("text/csv", "application/x-ndjson")
PROBLEM = {"schema": {"$ref": "#/components/schemas/Problem"}}


@pytest.fixture
def document() -> dict[str, Any]:
    return json.loads(json.dumps(create_app(Settings()).openapi()))


@pytest.fixture
def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every operation by its address: `GET /api/v1/items`."""
    return {f"{verb.upper()} {path}": each for path, of in document["paths"].items() for verb, each in of.items()}


def test_the_committed_document_is_the_apps(document: dict[str, Any]):
    renew = "docs/openapi.json is not what the API is now. Run: python3 -m app openapi"
    assert json.loads(COMMITTED.read_text(encoding="utf-8")) == document, renew


def test_an_operation_is_called_like_its_function(operations: dict[str, dict[str, Any]]):
    functions = {
        # What is alike for every entity is called after each.
        f"{method} {context.path}": context.name
        if "extras" in context.endpoint.__module__
        else context.endpoint.__name__
        for context in iter_route_contexts(create_app(Settings()).routes)
        for method in context.methods or ()
        if (context.path or "").startswith("/api/v1/") or context.path in health.PATHS
    }
    named = {address: operation["operationId"] for address, operation in operations.items()}
    assert named == functions
    assert len(set(named.values())) == len(named)


def test_every_operation_says_what_it_does_and_where_it_belongs(operations: dict[str, dict[str, Any]]):
    said = {address: operation.get("description", "").strip()[-1:] for address, operation in operations.items()}
    assert said == dict.fromkeys(operations, ".")
    tags = {address: set(operation.get("tags", ())) for address, operation in operations.items()}
    api = {address for address in operations if "/api/v1/" in address}
    first = {address: address.split("/")[3] if address in api else "health" for address in operations}
    of = {"revoke": "token", "logout": "sessions"}
    assert {address for address in operations if of.get(first[address], first[address]) not in tags[address]} == set()


def test_every_operation_says_what_it_answers(operations: dict[str, dict[str, Any]]):
    for address, operation in operations.items():
        status, *others = [status for status in operation["responses"] if status.startswith("2")]
        assert (address, others) == (address, ["202"] if address == "POST /api/v1/users" else [])
        content = operation["responses"][status].get("content", {})
        if status == "204":
            assert (address, content) == (address, {})
        else:
            of = next(iter(content.values()), {})
            is_text = address.endswith(("/stream", "/export", "/revoke"))
            assert (address, "$ref" in json.dumps(of)) == (address, not is_text)


THROTTLED = {"POST /api/v1/token", "PATCH /api/v1/users/me", "PATCH /api/v1/users/me/password"}
THROTTLED |= {f"POST /api/v1/users{path}" for path in ("", "/me/delete", "/me/verification", "/password-reset")}


def test_every_operation_says_how_it_refuses(operations: dict[str, dict[str, Any]]):
    tokens = {"POST /api/v1/token", "POST /api/v1/revoke"}
    for address, operation in operations.items():
        special = {"403", "409", "410"} | ({"404", "412"} if "/bulk" in address else set())
        parameters = {parameter["name"] for parameter in operation.get("parameters", ())}
        has_body, has_parameters = "requestBody" in operation, bool(parameters - {"If-None-Match"})
        told = {"421", "500", "503"} | ({"408", "413", "415"} if has_body else set())
        told |= ({"401"} if operation.get("security") else set()) | ({"404"} if "{" in address else set())
        told |= {"422"} if (has_body or has_parameters) and address not in tokens else set()
        told |= {"412"} if "If-Match" in parameters else set()
        told |= {"400"} if address in tokens else set()
        told |= {"429"} if address in THROTTLED else set()
        refusals = {status: answer for status, answer in operation["responses"].items() if int(status) >= 400}
        assert (address, refusals.keys() - special) == (address, told)
        for status, answer in refusals.items():
            if address not in tokens or status != "400":
                assert (address, status, answer["content"]) == (address, status, {"application/problem+json": PROBLEM})


def test_what_an_answer_tells_in_a_header_is_told_in_the_document(
    document: dict[str, Any], operations: dict[str, dict[str, Any]]
):
    told = {"401": ["WWW-Authenticate"], "429": ["Retry-After"], "503": ["Retry-After"]}
    rows = {
        f"#/components/schemas/{name}"
        for name, of in document["components"]["schemas"].items()
        if "version" in of.get("properties", {})
    }
    for address, operation in operations.items():
        answers = operation["responses"]
        contents = [answer.get("content", {}).get("application/json", {}) for answer in answers.values()]
        is_row = any(content.get("schema", {}).get("$ref") in rows for content in contents)
        is_list = any(parameter["name"] == "cursor" for parameter in operation.get("parameters", ()))
        takes_key = any(parameter["name"] == "Idempotency-Key" for parameter in operation.get("parameters", ()))
        for status, answer in answers.items():
            expected = told.get(status, []) + (["Location"] if is_row and status == "201" else [])
            expected += ["ETag"] if is_row and status in ("200", "201", "304") else []
            expected += ["Link", "X-Total-Count"] if is_list and status == "200" else []
            expected += ["Idempotency-Replayed"] if takes_key and status.startswith("2") else []
            assert (address, status, [*answer.get("headers", ())]) == (address, status, expected)


def test_who_can_get_a_row_can_say_that_they_have_it_and_who_changes_one_which(operations: dict[str, dict[str, Any]]):
    def taking(header: str) -> set[str]:
        return {a for a, of in operations.items() if any(p["name"] == header for p in of.get("parameters", ()))}

    items, me, user = "/api/v1/items/{item_id}", "/api/v1/users/me", "/api/v1/users/{user_id}"
    assert taking("If-None-Match") >= {f"GET {items}", f"GET {me}", f"GET {user}"}
    assert taking("If-None-Match") == {address for address, of in operations.items() if "304" in of["responses"]}
    assert taking("If-Match") >= {f"PATCH {items}", f"DELETE {items}", f"PATCH {me}"}


def test_the_document_is_the_same_however_often_it_is_asked_for():
    app = create_app(Settings())
    assert json.dumps(app.openapi()) == json.dumps(app.openapi())


def test_the_token_endpoint_refuses_in_the_words_of_oauth2(operations: dict[str, dict[str, Any]]):
    for address in ("POST /api/v1/token", "POST /api/v1/revoke"):
        refused = operations[address]["responses"]["400"]["content"]
        assert refused == {"application/json": {"schema": {"$ref": "#/components/schemas/TokenProblem"}}}


@pytest.mark.promise("U14")
def test_all_but_signing_up_logging_in_and_health_ask_for_a_token(operations: dict[str, dict[str, Any]]):
    free = {address for address, operation in operations.items() if not operation.get("security")}
    tokens = {"POST /api/v1/token", "POST /api/v1/revoke"}
    links = {f"POST /api/v1/users/{way}" for way in ("confirm", "password-reset", "password-reset/confirm")}
    assert free == {*tokens, *links, "POST /api/v1/users", "GET /health", "GET /ready"}
    others = [operation["security"] for address, operation in operations.items() if address not in free]
    assert [[*each] for security in others for each in security] == [["Login"], ["MachineToken"]] * len(others)


@pytest.mark.parametrize("word", ["hashed_password", "hashed_token", "hashed_refresh", "stamp"])
def test_what_is_secret_has_no_name_in_the_document(document: dict[str, Any], word: str):
    assert word not in json.dumps(document)


def test_a_field_that_is_always_there_is_promised(document: dict[str, Any]):
    for name in ("ItemRead", "UserRead", "UserWithItems", "Problem", "Counts"):
        schema = document["components"]["schemas"][name]
        assert (name, set(schema["required"])) == (name, set(schema["properties"]))


def test_every_text_has_an_example_that_a_person_can_read(document: dict[str, Any]):
    models = document["components"]["schemas"]
    fields = {
        f"{model}.{name}": field for model, of in models.items() for name, field in of.get("properties", {}).items()
    }
    texts = {name: field for name, field in fields.items() if PATTERN in json.dumps(field)}
    assert {"ItemCreate.title", "UserRead.full_name", "TokenForm.username"} <= texts.keys()
    assert [name for name, field in texts.items() if not re.search("[a-zA-Z]{3}", str(field.get("examples")))] == []
