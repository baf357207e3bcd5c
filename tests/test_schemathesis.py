"""The OpenAPI document tells the truth: schemathesis makes requests from it, and holds every answer against it."""

import asyncio
import json
import secrets
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
import schemathesis
from fastapi.testclient import TestClient
from pydantic import SecretStr
from schemathesis.checks import CHECKS
from schemathesis.engine import events, from_schema
from sqlalchemy import Engine

from app import accounts
from app.engine import migrations
from app.engine.http.idempotency import KEY
from app.engine.sessions import create_session_engine
from app.extras.bulk import MOST_ROWS
from app.main import create_app
from app.models import MachineTokenCreate, UserCreate
from app.models.base import Access
from app.settings import Settings
from app.start import opened
from tests.conftest import PASSWORD
from tests.entities import VERBS, kinds
from tests.exchanges import OF_MAIL, ROWS, fill
from tests.scratch import empty_database
from tests.servers import Server, keeper, settings_for

NO_CURSOR = "That cursor is none of this list in this order."
PEOPLE = ("root", "ann", "bob")
# What no schema can say: passwords, versions, and which names and addresses are not taken yet.
WORDS = {
    "passwords": [PASSWORD],
    "logins": ["root", "ann@example.com"],
    "grants": ["password"],
    "scopes": ["", "items:read"],
    "versions": ["*", '"1-0123456789abcdef"'],
    "names": [f"new-{number}" for number in range(99)],
    "addresses": [f"new-{number}@example.com" for number in range(99)],
    "ids": list(range(1, ROWS + 1)),
}
KNOWN = {
    "POST /api/v1/token": {
        **{"body.username": "logins", "body.password": "passwords"},
        **{"body.grant_type": "grants", "body.scope": "scopes"},
    },
    "POST /api/v1/users": {"body.username": "names", "body.email": "addresses"},
    "POST /api/v1/admin/users": {"body.username": "names", "body.email": "addresses", "body.password": "passwords"},
    "PATCH /api/v1/users/me": {"body.current_password": "passwords"},
    "PATCH /api/v1/users/me/password": {"body.current_password": "passwords"},
}
# 410 and 412: valid, but no position that the feed of changes has, and not for the version that the row has by now.
FOR_VALID = ["2xx", "3xx", "401", "403", "404", "409", "410", "412", "429", "5xx"]
APP = create_app(Settings())
KINDS = kinds(APP)
# What pydantic calls them. That they are refused is shown in tests/test_contract.py, of text in test_generated.py.
UNSAYABLE = {
    "value_error",
    "less_than",
    "greater_than_equal",
    "decimal_parsing",
    "decimal_max_digits",
    "decimal_max_places",
}
PHASES = ("examples", "coverage", "fuzzing", "stateful")


def is_about_an_address(check: str, answer: Any) -> bool:
    """Not every address of the right form is one that mail could reach: JSON Schema has no words for that."""
    wrong = answer.json()["detail"] if (check, answer.status_code) == ("positive_data_acceptance", 422) else []
    return isinstance(wrong, list) and [each["loc"] for each in wrong] == [["body", "email"]]


def is_about_a_cursor(check: str, answer: Any) -> bool:
    """A cursor is what the page before said it is; and it stands for `skip`."""
    wrong = answer.json()["detail"] if (check, answer.status_code) == ("positive_data_acceptance", 422) else ""
    return wrong == NO_CURSOR or (isinstance(wrong, list) and [each["loc"] for each in wrong] == [["query", "cursor"]])


def is_about_a_scope(check: str, answer: Any) -> bool:
    """Which scopes there are is told at the login, and not for every field."""
    detail = str(answer.json()["detail"]) if (check, answer.status_code) == ("positive_data_acceptance", 422) else ""
    return detail.endswith(("is no scope here.", "is more than was granted."))


def is_about_somebody_else(check: str, answer: Any) -> bool:
    """Who signs somebody up does not see them."""
    return (check, answer.status_code) == ("ensure_resource_availability", 404) and "/users/" in answer.request.url


def is_about_other_rows(check: str, answer: Any) -> bool:
    """Whether a row is there to be referred to, or comes twice; and whether fields or rows stand against each other."""
    told = answer.json()["detail"] if (check, answer.status_code) == ("positive_data_acceptance", 422) else ""
    sentences = [each["msg"] for each in told] if isinstance(told, list) else [told]
    known = {sentence for kind in KINDS for sentence in kind.rules} | {"That row comes twice."}
    return all(sentence.endswith("that you can see.") or sentence in known for sentence in sentences)


def is_about_a_kind_of_value(check: str, answer: Any) -> bool:
    """JSON Schema has no words for base64, for what is within JSON, or for the exact ends of 64 bits.

    And pydantic takes false for 0, and 0 for false, where the document speaks of one kind only.
    """
    if (check, answer.status_code) == ("positive_data_acceptance", 422):
        wrong = answer.json()["detail"]
        return isinstance(wrong, list) and {each["type"] for each in wrong} <= UNSAYABLE
    # 412: so far it was accepted, and the version that came with it is not the row's.
    return check == "negative_data_rejection, Incorrect type" and (
        answer.status_code < 300 or answer.status_code == 412
    )


EXCEPTIONS = [is_about_an_address, is_about_a_cursor, is_about_somebody_else, is_about_other_rows]
EXCEPTIONS += [is_about_a_kind_of_value, is_about_a_scope]


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    # What it sends where any header will do, whatever the pattern says: nothing else of the request would be tried.
    if case.headers.get("If-Match") == "0":
        del case.headers["If-Match"]
    # No good key a second time: the second request would not be looked at.
    if KEY.fullmatch(case.headers.get("Idempotency-Key", "")):
        case.headers["Idempotency-Key"] = secrets.token_hex(16)


@dataclass
class Report:
    """How often each operation gave which status, and what the checks complained of."""

    answered: Counter[tuple[str, int]] = field(default_factory=Counter)
    phases: dict[str, str] = field(default_factory=dict)
    checks: set[str] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)

    def add(self, event: Any) -> None:
        if isinstance(event, events.PhaseFinished):
            self.phases[event.phase.name.value] = event.status.value
        elif isinstance(event, events.NonFatalError | events.FatalError):
            self.failures.append(str(vars(event) if isinstance(event, events.FatalError) else event.value))
        elif isinstance(event, events.ScenarioFinished):
            for case_id, sent in event.recorder.interactions.items():
                label = event.recorder.cases[case_id].value.operation.label
                assert sent.response is not None, f"{label} was not answered"
                if label.startswith(f"{sent.request.method} "):  # other methods are tried there too, as OPTIONS
                    self.answered[label, sent.response.status_code] += 1
                for check in event.recorder.checks.get(case_id, ()):
                    self._note(check, sent.request, sent.response)

    def _note(self, check: Any, request: Any, answer: Any) -> None:
        self.checks.add(check.name)
        name = check.name
        if check.failure_info and "Incorrect type" in check.failure_info.failure.message:
            name += ", Incorrect type"
        if check.failure_info and not any(excepts(name, answer) for excepts in EXCEPTIONS):
            sent = f"{request.method} {request.uri} {request.body!r}"
            got = f"{answer.status_code} {answer.content[:300]!r}"
            self.failures.append(f"{check.name}: {sent} gives {got}: {check.failure_info.failure.message}")

    @property
    def succeeded(self) -> set[str]:
        """The operations that did at least once what they are for."""
        return {label for label, status in self.answered if status < 300}


@dataclass
class Running:
    """A real server, and everybody's machine token: schemathesis cannot take away an OAuth2 token to see what then."""

    port: int
    engine: Engine
    tokens: dict[str, str]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """Root is a superuser, ann and bob are not."""
    with empty_database(tmp_path, "generated") as url:
        migrations.upgrade(url)
        tokens = asyncio.run(sign_up(Settings(database_url=url, environment="test", bcrypt_rounds=4)))
        server, engine = Server(tmp_path, settings_for(url)), create_session_engine(url)
        try:
            yield Running(server.is_up().port, engine, tokens)
        finally:
            server.close()
            engine.dispose()


async def sign_up(settings: Settings) -> dict[str, str]:
    tokens = {}
    async with opened(settings) as (application, hasher):
        for name in PEOPLE:
            data = UserCreate(username=name, email=f"{name}@example.com", password=SecretStr(PASSWORD))
            await accounts.register(application, hasher, data, is_superuser=name == "root")
            tokens[name] = (
                await accounts.create_machine_token_for(application, name, MachineTokenCreate(name="tests"))
            ).token
    return tokens


def schema_for(running: Running, person: str, folder: Path, examples: int, *, random: bool) -> Any:
    """What schemathesis knows: the document, who is who, and the words that it cannot guess."""
    people = [{"name": n, "fixedHeaders": [{"name": "X-Token", "value": t}]} for n, t in running.tokens.items()]
    (folder / "people.json").write_text(json.dumps({"auth": people}))
    told = httpx.get(f"http://127.0.0.1:{running.port}/openapi.json", trust_env=False).text
    # It would send lists of 10,001 rows, of megabytes: tests/test_bulk.py does that once.
    document = json.loads(told.replace(f'"maxItems":{MOST_ROWS},', ""))
    # What is in a file no schema can say, and a stream has no end: they have tests of their own.
    document["paths"] = {
        path: of for path, of in document["paths"].items() if not path.endswith(("/import", "/stream"))
    }
    known = [
        {
            "include-name": operation,
            "parameters": {name: {"dictionary": words, "probability": 0.9} for name, words in of.items()},
        }
        for operation, of in known_in(document).items()
    ]
    config = {
        "base-url": f"http://127.0.0.1:{running.port}",
        "auth": {"wfc": {"path": str(folder / "people.json"), "user": person, "peers": ["ann", "bob"]}},
        "dictionaries": {name: {"values": values} for name, values in WORDS.items()},
        "operations": known,
        "checks": {"positive_data_acceptance": {"expected-statuses": FOR_VALID}},
        "continue-on-failure": True,
        "generation": {"max-examples": examples, "deterministic": not random, "no-shrink": True, "database": "none"},
    }
    if not random:
        config["seed"] = 1
    schema = schemathesis.openapi.from_dict(document, config=schemathesis.Config.from_dict(config))
    restore = keeper(running.engine)

    @schema.hook
    def after_call(_context: Any, case: Any, response: Any) -> None:
        # Whoever is logged in may have been renamed, shut out, demoted, or given another password.
        ends = ("users", "sessions", "logout", "revoke", "machine_tokens")
        if case.method != "GET" and any(word in case.path for word in ends) and response.status_code < 300:
            restore()

    return schema


def known_in(document: dict[str, Any]) -> dict[str, dict[str, str]]:
    """By operation: which words it may be given, as where the id of a row is asked for, or its version."""
    found = dict(KNOWN)
    for path, of in document["paths"].items():
        for verb, operation in of.items():
            asked = {f"{each['in']}.{each['name']}": each["schema"] for each in operation.get("parameters", ())}
            for content in operation.get("requestBody", {}).get("content", {}).values():
                if "$ref" in content["schema"]:  # of lists it takes no words
                    body = document["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
                    asked |= {f"body.{name}": schema for name, schema in body["properties"].items()}
            ids = {
                where: "ids"
                for where, schema in asked.items()
                if where.endswith("_id") and not where.startswith("path.") and "integer" in str(schema)
            }
            versions = {"header.If-Match": "versions"} if "header.If-Match" in asked else {}
            label = f"{verb.upper()} {path}"
            found |= {label: {**found.get(label, {}), **ids, **versions}} if ids or versions else {}
    return found


def fill_for(running: Running, person: str) -> None:
    """Rows of every entity: theirs, or where they cannot make any the root's."""

    def post(path: str, body: Any) -> httpx.Response:
        for token in (running.tokens[person], running.tokens["root"]):
            address = f"http://127.0.0.1:{running.port}/api/v1{path}"
            answer = httpx.post(address, json=body, headers={"X-Token": token}, trust_env=False)
            if answer.status_code not in (403, 422):
                break
        return answer

    fill(APP, post)


@pytest.mark.promise("S01", "S02")
@pytest.mark.parametrize("person", ["root", pytest.param("ann", marks=pytest.mark.once)])
def test_every_answer_to_a_generated_request_is_as_documented(
    running: Running, tmp_path: Path, person: str, full: bool
):
    fill_for(running, person)
    report, schema = Report(), schema_for(running, person, tmp_path, 300 if full else 5, random=full)
    for event in from_schema(schema).execute():
        report.add(event)
    assert report.failures == []
    # It proves nothing unless all was tried, and unless what can be done was done.
    assert {phase for phase in PHASES if report.phases[phase] == "skip"} == set()
    assert report.checks == {check.__name__ for check in CHECKS.get_all()}
    operations = {found.ok().label for found in schema.get_all_operations()}
    for_superusers = {label for label in operations if "/admin/" in label} | {"GET /api/v1/users"}
    for_superusers |= {
        f"{VERBS[verb][0]} {route.path}"
        for kind in KINDS
        for verb, route in kind.routes.items()
        if kind.access is Access.RESTRICTED
    }
    # Rows that refer to others may have gone with them, by chance all; tests/test_contract.py has some that are there.
    of_rows = {f"{VERBS[verb][0]} {kind.routes[verb].path}" for kind in KINDS for verb in VERBS if kind.references}
    # And the ids in a list it finds by chance only, or a row that is gone.
    of_rows |= {label for label in operations if label.endswith(("/bulk", "/bulk/delete", "/restore"))}
    # Who comes with a machine token has no session to end.
    of_rows |= {"DELETE /api/v1/sessions/{session_id}", "POST /api/v1/logout"}
    # And a name, its password and a scope that is one come together by chance.
    of_rows |= {"POST /api/v1/token"}
    # No mail is sent here.
    of_rows |= {label for label in operations if label.endswith(OF_MAIL)}
    # Who is gone could ask nothing more: nobody tells it the password there.
    of_rows |= {"POST /api/v1/users/me/delete"}
    assert operations - report.succeeded - of_rows == (set() if person == "root" else for_superusers - of_rows)


@pytest.mark.promise("S02")
def test_of_addresses_the_schema_still_cannot_say_all(client: TestClient):
    """While this holds, is_about_an_address is needed."""
    body = {"username": "ann", "email": "ann@nowhere.test", "password": PASSWORD}
    document = {"$ref": "#/components/schemas/UserCreate", "components": client.app.openapi()["components"]}
    assert jsonschema_rs.validator_for(document, validate_formats=True).is_valid(body)
    answer = client.post("/api/v1/users", json=body)
    assert is_about_an_address("positive_data_acceptance", answer)
    assert not is_about_an_address("positive_data_acceptance", client.post("/api/v1/users", json={**body, "x": 1}))
