"""Requests as bytes, handed to the app as a server does, and what must hold for every answer to any of them."""

import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, get_args
from urllib.parse import urlencode

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient
from pydantic import BaseModel

from app.models.base import CLEAN, SINGLE
from tests import asgi, bodies
from tests.conftest import PASSWORD, Person
from tests.entities import kinds

MARK = "hailhydra"  # in what is sent, and in no refusal
HASH = re.compile(r"\$bcrypt-sha256\$v=")
INNER = re.compile(rf"bcrypt|Traceback|sqlite|psycopg|asyncio|/app/|SELECT |INSERT |{PASSWORD}")
ROWS = 4  # of every entity, to begin with
# What begins with a mail, or ends with the link in one: tests/test_links.py shows that.
OF_MAIL = ("/confirm", "/password-reset", "/me/verification", "/invitations")
LOGIN = {"username": "root", "password": PASSWORD}
SHOWN_ONCE = {"token", "password"}


@dataclass
class Operation:
    """One of the OpenAPI document's."""

    method: str
    path: str
    about: dict[str, Any]
    schemas: dict[str, Any]
    model: type[BaseModel]  # of its body

    @property
    def name(self) -> str:
        return str(self.about["operationId"])

    @property
    def media_type(self) -> str:
        return next(iter(self.about.get("requestBody", {}).get("content", {})), "")

    @property
    def is_json(self) -> bool:
        return self.media_type == "application/json"

    @property
    def is_bulk(self) -> bool:
        """Whether its body is a list of such objects."""
        return "/bulk" in self.path

    @property
    def deletes(self) -> bool:
        return self.method == "DELETE" or self.path.endswith("/bulk/delete")

    @property
    def fields(self) -> dict[str, Any]:
        """Those of its body."""
        return dict(self.schemas[self.model.__name__]["properties"]) if self.media_type else {}

    def kinds(self, name: str) -> list[dict[str, Any]]:
        """What that field may be, `null` for one."""
        schema = self.fields.get(name, {})
        return [kind for kind in schema.get("anyOf", [schema]) if "type" in kind]

    def keeps_text(self, name: str) -> bool:
        """Whether it is text that must come back as it was sent."""
        return any(kind.get("pattern") in (CLEAN["pattern"], SINGLE["pattern"]) for kind in self.kinds(name))

    def keeps_numbers(self, name: str) -> bool:
        """Whether it is a number, and any will do. Of references only some lead anywhere."""
        is_number = {kind["type"] for kind in self.kinds(name)} - {"null"} in ({"integer"}, {"number"})
        return is_number and not bodies.target(self.model.model_fields[name])

    def good(self, number: int) -> dict[str, Any]:
        """A body as its schema wants it. No two with the same `number`: names and addresses are unique."""
        form = {"token": "none"} if self.path.endswith("/revoke") else LOGIN
        body = bodies.valid(self.model, number, rows_for(number)) if self.is_json else form
        body = {**body, "scope": "items:read"} if "scope" in body else body
        return {**body, "id": number % ROWS + 1, "version": None} if self.is_bulk and "id" in body else body

    def encode(self, body: object, *, ascii_only: bool = True) -> str:
        if self.is_json or not isinstance(body, dict):
            return json.dumps([body] if self.is_bulk else body, ensure_ascii=ascii_only)
        form = {name: value if isinstance(value, str) else json.dumps(value) for name, value in body.items()}
        return urlencode(form, errors="surrogatepass")


def rows_for(number: int) -> bodies.Refer:
    """Of each table one of the first rows, and other pairs for the next numbers. The last one is free to be deleted."""
    place = itertools.count()
    return lambda _table, _number: number // (ROWS - 1) ** next(place) % (ROWS - 1) + 1


def fill(app: FastAPI, post: Callable[[str, Any], Any]) -> None:
    """Have `ROWS` rows made of every entity, by `post(path, body)`, those first that others refer to."""
    for kind in kinds(app):
        numbers, made = itertools.count(), 0
        while made < ROWS:
            number = next(numbers)
            answer = post(kind.path, bodies.valid(kind.create, number, rows_for(number), whole=False))
            assert answer.status_code in (201, 409), answer.text  # 409: that pair of rows is taken
            made += answer.status_code == 201


@dataclass
class Exchange:
    """A request, and what came back."""

    operation: Operation
    address: str
    body: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    misses: bool = False  # the operation, perhaps: the address is odd
    status: int = 0
    answered: list[tuple[bytes, bytes]] = field(default_factory=list)
    content: bytes = b""

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:  # what hypothesis prints
        printer.text(f"{self.operation.method} {self.address} {self.headers} {self.body!r}")

    @property
    def succeeds(self) -> bool:
        return self.status < 300


@dataclass
class Target:
    """The app, and a root who stays what they are."""

    client: TestClient
    root: Person
    restore: Callable[[], None]

    @property
    def operations(self) -> list[Operation]:
        document = self.client.app.openapi()  # type: ignore[attr-defined]
        schemas = document["components"]["schemas"]
        bodies_of = {
            (method, context.path): model_in(context.body_field.field_info.annotation)  # type: ignore[attr-defined]  # an APIRoute's
            for context in iter_route_contexts(self.client.app.routes)  # type: ignore[attr-defined]
            for method in context.methods or ()
            if getattr(context, "body_field", None)
        }
        return [
            Operation(verb.upper(), path, about, schemas, bodies_of.get((verb.upper(), path), BaseModel))
            for path, of in document["paths"].items()
            for verb, about in of.items()
            if not any(kind in str(about) for kind in ("text/csv", "text/event-stream"))  # these have their own tests
        ]

    def send(self, exchange: Exchange) -> None:
        """By the root, and with the media type of the operation, unless its headers say otherwise."""
        headers = list(exchange.headers)
        if not any(name == b"authorization" for name, _ in headers):
            headers.append((b"authorization", (self.root.headers or {})["Authorization"].encode()))
        if exchange.operation.media_type and not any(name == b"content-type" for name, _ in headers):
            headers.append((b"content-type", exchange.operation.media_type.encode()))
        receive = asgi.whole(exchange.body)
        answer = asgi.ask(self.client, exchange.operation.method, exchange.address, headers, receive)
        exchange.status, exchange.answered, exchange.content = answer.status, answer.fields, answer.body

    def assert_kept(self, exchange: Exchange) -> None:
        """What a write answered is read again, and the text and the numbers in it are those that were sent."""
        got, sent = strictly(exchange.content), json.loads(exchange.body or b"{}")
        if exchange.operation.is_bulk:
            for one, of in zip(got, sent, strict=True):
                self._assert_row_is_kept(
                    exchange, one, of, f"{exchange.operation.path.removesuffix('bulk')}{one['id']}"
                )
        else:
            where = dict(exchange.answered).get(b"location", exchange.address.encode()).decode()
            where = re.sub(r"/admin(/users/\d+)/reset.*", r"\1", where)  # an act on a row, which is read elsewhere
            self._assert_row_is_kept(exchange, got, sent, where)

    def _assert_row_is_kept(self, exchange: Exchange, got: Any, sent: Any, where: str) -> None:
        for name in got.keys() & sent.keys() - {"version", *SHOWN_ONCE}:  # the version is the one before
            value, is_text = sent[name], exchange.operation.keeps_text(name) and isinstance(sent[name], str)
            if is_text or {type(value), type(got[name])} <= {int, float}:
                assert (name, got[name]) == (name, type(got[name])(value))  # 5.0 is an int, 2^53 + 1 no float
        read = self.client.get(where, headers=self.root.headers).json()
        told = {name: of for name, of in got.items() if name not in SHOWN_ONCE}
        assert {name: read.get(name) for name in told} == told


def model_in(annotation: Any) -> type[BaseModel]:
    """A body's model, or that of each object in a list."""
    while parts := get_args(annotation):
        annotation = parts[0]
    model: type[BaseModel] = annotation
    return model


def assert_sound(exchange: Exchange) -> None:
    """What holds for every answer."""
    answered, text = dict(exchange.answered), exchange.content.decode()
    assert exchange.status < 500
    assert exchange.misses or str(exchange.status) in exchange.operation.about["responses"]
    assert len(answered) == len(exchange.answered)  # none twice
    assert re.fullmatch(rb"[0-9a-f]{16}", answered[b"x-request-id"])
    assert (answered[b"x-content-type-options"], b"cache-control" in answered) == (b"nosniff", True)
    assert not HASH.search(text)
    if exchange.status == 304:
        assert (text, exchange.operation.method, b"etag" in answered) == ("", "GET", True)
        return
    if exchange.succeeds:
        assert len(text) < 1_000_000
        assert exchange.status == 204 or not text or strictly(exchange.content) is not None
        return
    assert MARK not in text + repr(exchange.answered)
    assert not INNER.search(text)
    assert len(text) < 10_000
    problem = strictly(exchange.content)
    if exchange.operation.name in ("log_in", "revoke_token") and exchange.status == 400:
        assert answered[b"content-type"] == b"application/json"
        assert set(problem) == {"error", "error_description", "detail"}
    else:
        assert answered[b"content-type"] == b"application/problem+json"
        assert (set(problem), problem["status"]) == ({"type", "title", "status", "detail"}, exchange.status)


def strictly(content: bytes) -> Any:
    """JSON, which has no NaN."""
    return json.loads(content.decode(), parse_constant=pytest.fail)
