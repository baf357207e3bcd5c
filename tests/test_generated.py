"""Whatever hypothesis sends to whatever operation: no 5xx, a refusal repeats nothing, and what is accepted is kept.

It walks the OpenAPI document, so a new entity is covered by itself: that of tests/samples.py, with every type, is.
"""

import asyncio
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote, urlencode

import jsonschema_rs
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, note
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from app.engine import dispatch
from app.engine.sessions import create_session_engine
from app.main import create_app
from app.models.base import CLEAN, SINGLE
from app.settings import Settings
from tests.conftest import PASSWORD, Person, sign_up
from tests.samples import Sample, router
from tests.scratch import tables
from tests.servers import keeper
from tests.test_types import LARGE

MARK = "hailhydra"  # in what is sent, and in no refusal
SECRET = re.compile(rf"\$2[aby]\$|bcrypt|Traceback|sqlite|psycopg|asyncio|/app/|SELECT |INSERT |{PASSWORD}", re.ASCII)
FIRST_ROWS = 4  # of every entity
GOOD = {**json.loads(LARGE.model_dump_json()), "current_password": PASSWORD, "password": PASSWORD}
Pairs = list[tuple[bytes, bytes]]

# JSON of every kind, and what only looks like it: NaN, half of a surrogate pair, numbers beyond all bounds.
texts = st.text(max_size=40) | st.text(st.characters(categories=["Cc", "Cs", "Cf", "Zs", "So"]), max_size=9)
texts |= st.sampled_from(["\x00", "\ud800", "\ufeff", " ", "' OR 1=1 --", "x" * 2000, "../../etc/passwd", "1", "null"])
keys = texts  # a refusal names the keys that it does not know
texts |= texts.map(lambda text: f"{MARK}{text}")
lengths = st.builds(lambda letter, length: letter * length, st.sampled_from("x\U0001f600"), st.integers(250, 1001))
numbers = (
    st.integers() | st.floats() | st.sampled_from([2**31, 2**53 + 1, 2**63, -(2**63), -(2**64), 10**400, 1e308, -0.0])
)
scalars = st.none() | st.booleans() | numbers | texts
values = scalars | st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=9
)

# Games with percent signs, slashes, dots, digits; each a segment of a path, or the value of a parameter.
odd = st.sampled_from(
    [
        *(
            "",
            "%",
            "%zz",
            "%00",
            "%ff",
            "%c0%af",
            "%ed%a0%80",
            "%2f",
            "%2F1",
            "1%2f2",
            "%2e%2e",
            "..",
            ".",
            "%252e",
            "{}",
        ),
        *("0", "01", "+1", "-1", "1.0", "1e0", "0x1", "1_0", "1%20", "%201", "%EF%BC%91", "9" * 16, "9" * 5000, "NaN"),
        *("1;x=1", "1,2", "me", "%0d%0aX:%20y", "null", "true", "1%00", f"{MARK}%0a", "%25%32%66", "1&2", "[]", "*"),
    ]
) | texts.map(lambda text: quote(text, safe="", errors="surrogatepass"))
names = st.sampled_from(
    [
        *(
            "accept",
            "accept-encoding",
            "accept-language",
            "authorization",
            "content-encoding",
            "content-type",
            "cookie",
        ),
        *("expect", "host", "if-match", "if-modified-since", "if-none-match", "origin", "range", "te", "upgrade"),
        *(
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-http-method-override",
            "x-request-id",
            "x-token",
        ),
    ]
)
field_values = (st.binary(max_size=30) | texts.map(lambda text: text.encode(errors="replace"))).map(
    lambda value: value.translate(None, b"\r\n\x00")
) | st.sampled_from(
    [
        *(
            b"*",
            b"bytes=0-1",
            b"gzip;q=x",
            b"application/json; charset=utf-16",
            b"text/plain",
            b"Bearer",
            b"Bearer a.b.c",
        ),
        *(
            b"multipart/form-data",
            b"application/x-www-form-urlencoded",
            b"application/json",
            b"null",
            b'"' * 3,
            b"\xff",
        ),
    ]
)
headers = st.lists(st.tuples(names.map(str.encode), field_values), max_size=4)


@dataclass
class Operation:
    """One of the document's, and the app's schemas."""

    method: str
    path: str
    about: dict[str, Any]
    schemas: dict[str, Any]

    @property
    def operation_id(self) -> str:
        return str(self.about["operationId"])

    @property
    def media_type(self) -> str:
        return next(iter(self.about.get("requestBody", {}).get("content", {})), "")

    @property
    def is_json(self) -> bool:
        return self.media_type == "application/json"

    @property
    def fields(self) -> dict[str, Any]:
        """Those of its body."""
        if not self.media_type:
            return {}
        reference = self.about["requestBody"]["content"][self.media_type]["schema"]["$ref"]
        return dict(self.schemas[reference.rpartition("/")[2]]["properties"])

    def good(self, number: int) -> dict[str, Any]:
        """A body as its schema wants it; of accounts the one with this `number`."""
        body = {name: GOOD.get(name, of.get("examples", [of.get("default")])[0]) for name, of in self.fields.items()}
        if self.path.endswith("/token"):
            return {"username": "root", "password": PASSWORD}
        return {**body, "username": f"new-{number}", "email": f"new-{number}@example.com"} if "email" in body else body

    def keeps(self, name: str) -> bool:
        """Whether it is text that must come back as it was sent."""
        return any(each.get("pattern") in (CLEAN["pattern"], SINGLE["pattern"]) for each in self.kinds(name))

    def has_number(self, name: str) -> bool:
        return {each["type"] for each in self.kinds(name)} - {"null"} in ({"integer"}, {"number"})

    def kinds(self, name: str) -> list[dict[str, Any]]:
        schema = self.fields.get(name, {})
        return [each for each in schema.get("anyOf", [schema]) if "type" in each]


@dataclass
class Exchange:
    """A request as bytes, and what came back."""

    operation: Operation
    address: str
    body: bytes = b""
    headers: Pairs = field(default_factory=list)
    misses: bool = False  # the operation, perhaps
    status: int = 0
    answered: Pairs = field(default_factory=list)
    content: bytes = b""

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:  # what hypothesis prints
        printer.text(f"{self.operation.method} {self.address} {self.headers} {self.body!r}")


@st.composite
def requests(draw: Any, operation: Operation) -> Exchange:
    address, misses = operation.path, False
    for name in re.findall(r"{\w+}", address):
        segment = str(draw(st.integers(1, FIRST_ROWS)))
        if draw(st.integers(0, 4)) == 4:
            segment, misses = draw(odd), True
        address = address.replace(name, segment)
    if draw(st.integers(0, 19)) == 19:
        address, misses = address + draw(st.sampled_from(["/", "//", "%2f", "/.", "/%2e%2e", ";", "%00"])), True
    known = [each["name"] for each in operation.about.get("parameters", ())]
    pairs = draw(st.lists(st.tuples(st.sampled_from([*known, "x", "%ff", ""]), odd), max_size=2))
    address += "".join(["?", *(f"{name}={value}&" for name, value in pairs)]) if pairs else ""
    body = draw(bodies(operation)) if operation.media_type else draw(st.just(b"") | st.binary(max_size=9))
    more = draw(headers) if draw(st.booleans()) else []
    media_type = [(b"content-type", operation.media_type.encode())] if operation.media_type else []
    return Exchange(operation, address, body, [*media_type, *more], misses)


@st.composite
def bodies(draw: Any, operation: Operation) -> bytes:
    """A good body, or something near it, or something else altogether; and then perhaps damaged."""
    good = operation.good(draw(st.integers(1, 10**6)))
    body: Any = dict(good)
    for name in draw(st.lists(st.sampled_from([*good, "id", "owner_id", "is_superuser", "__proto__"]), max_size=2)):
        if draw(st.booleans()):
            body[name] = draw(values)
        else:
            body.pop(name, None)
    if not operation.is_json:
        form = {name: value if isinstance(value, str) else json.dumps(value) for name, value in body.items()}
        text = urlencode(form, errors="surrogatepass")
    else:
        text = json.dumps(body if draw(st.integers(0, 9)) else draw(values), ensure_ascii=draw(st.booleans()))
    cut = draw(st.integers(0, len(text)))
    damages: list[Callable[[], bytes]] = [
        lambda: text[:cut].encode(errors="replace"),
        lambda: text[:cut].encode(errors="replace") + draw(st.binary(max_size=5)) + text[cut:].encode(errors="replace"),
        lambda: text.replace("{", '{"title": 1, "words": 1, "username": 1, ', 1).encode(errors="replace"),
        lambda: text.encode(draw(st.sampled_from(["utf-16", "utf-32-le", "utf-8-sig", "utf-7"])), "replace"),
        lambda: b"[" * 10 ** draw(st.integers(1, 5)) + b"]" * draw(st.integers(0, 1000)),
        lambda: draw(st.binary(max_size=50)),
    ]
    damage = draw(st.integers(0, 3 * len(damages)))
    return damages[damage]() if damage < len(damages) else text.encode(errors="surrogatepass")


@dataclass
class Target:
    """The app, with what a request needs to reach it, and a root who stays what they are."""

    client: TestClient
    root: Person
    restore: Callable[[], None]

    @property
    def operations(self) -> list[Operation]:
        document = self.client.app.openapi()  # type: ignore[attr-defined]
        schemas = document["components"]["schemas"]
        of = {path: operations.items() for path, operations in document["paths"].items()}
        return [Operation(verb.upper(), path, about, schemas) for path in of for verb, about in of[path]]

    def send(self, exchange: Exchange) -> None:
        """As the server hands it to the app: a client library would tidy up the path, and refuse odd headers."""
        raw, _, query = exchange.address.partition("?")
        token = (self.root.headers or {})["Authorization"].encode()
        credentials = [] if any(n == b"authorization" for n, _ in exchange.headers) else [(b"authorization", token)]
        scope = {
            **{"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "state": {}},
            **{"method": exchange.operation.method, "path": unquote(raw), "raw_path": raw.encode(), "root_path": ""},
            **{"query_string": query.encode(), "headers": [*credentials, *exchange.headers]},
            **{"server": ("testserver", 80), "client": ("testclient", 50000)},
        }
        events = [{"type": "http.request", "body": exchange.body, "more_body": False}]
        sent: list[Any] = []

        async def receive() -> Any:
            return events.pop() if events else await asyncio.Event().wait()  # it does not hang up

        async def send(message: Any) -> None:
            sent.append(message)

        assert self.client.portal is not None
        self.client.portal.call(self.client.app, scope, receive, send)
        exchange.status, exchange.answered = sent[0]["status"], sent[0]["headers"]
        exchange.content = b"".join(message.get("body", b"") for message in sent)


@pytest.fixture
def target(database_url: str, settings: Settings, start: Callable[..., TestClient]) -> Iterator[Target]:
    app = create_app(settings)
    app.include_router(router)
    dispatch.install(app)
    engine = create_session_engine(database_url)
    with tables(database_url, [Sample.__table__]):
        client = start(app)
        root = sign_up(client, "root", is_superuser=True)
        for number in range(1, FIRST_ROWS):
            sign_up(client, f"user-{number}")
        for path, row in (("/items", {"title": "Foo"}), ("/samples", json.loads(LARGE.model_dump_json()))):
            assert [root.post(path, row).status_code for _ in range(FIRST_ROWS)] == [201] * FIRST_ROWS
        yield Target(client, root, keeper(engine))
    engine.dispose()


def strictly(content: bytes) -> Any:
    return json.loads(content.decode(), parse_constant=pytest.fail)


def assert_sound(exchange: Exchange) -> None:
    """What holds for every answer."""
    answered = dict(exchange.answered)
    text = exchange.content.decode()
    assert exchange.status < 500
    if not exchange.misses:
        assert str(exchange.status) in exchange.operation.about["responses"]
    assert re.fullmatch(rb"[0-9a-f]{16}", answered[b"x-request-id"])
    assert (answered[b"x-content-type-options"], b"cache-control" in answered) == (b"nosniff", True)
    assert len(answered) == len(exchange.answered)  # none twice
    assert not SECRET.search(text)
    if exchange.status < 300:
        assert len(text) < 1_000_000
        assert exchange.status == 204 or strictly(exchange.content) is not None
        return
    assert MARK not in text + repr(exchange.answered)
    assert len(text) < 10_000
    problem = strictly(exchange.content)
    if exchange.operation.path.endswith("/token") and exchange.status == 400:
        assert (answered[b"content-type"], set(problem)) == (
            b"application/json",
            {"error", "error_description", "detail"},
        )
    else:
        assert answered[b"content-type"] == b"application/problem+json"
        assert (set(problem), problem["status"]) == ({"type", "title", "status", "detail"}, exchange.status)


def assert_kept(target: Target, exchange: Exchange) -> None:
    """What a write answered is read again, and the text and the numbers in it are those that were sent."""
    got, sent = strictly(exchange.content), json.loads(exchange.body)
    for name, value in sent.items():
        is_text = isinstance(value, str) and exchange.operation.keeps(name)
        if name in got and (is_text or {type(value), type(got[name])} <= {int, float}):
            assert (name, got[name]) == (name, type(got[name])(value))  # 5.0 is an int, 2^53 + 1 no float
    where = dict(exchange.answered).get(b"location", exchange.address.encode()).decode()
    read = target.client.get(where, headers=target.root.headers).json()
    assert {name: read.get(name) for name in got} == got


@pytest.fixture
def often(full: bool) -> Any:
    """The same examples in every run, unless it is a full one; not shrunk, since what was written stays."""
    return hypothesis(
        max_examples=1000 if full else 60,
        derandomize=not full,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.promise("S01", "V01", "V02", "V03", "V04", "V08", "V09", "V10", "V11", "V13", "V15", "V16", "V18", "V20")
def test_whatever_is_sent_is_refused_soundly_or_kept(target: Target, often: Any):
    succeeded: Counter[str] = Counter()

    def hold(exchange: Exchange) -> None:
        target.send(exchange)
        note(f"answered: {exchange.status} {exchange.answered} {exchange.content[:500]!r}")
        assert_sound(exchange)
        succeeded[exchange.operation.operation_id] += exchange.status < 300
        if exchange.status in (200, 201) and exchange.operation.is_json and not exchange.misses:
            assert_kept(target, exchange)
        if exchange.operation.method != "GET" and exchange.status < 300:
            target.restore()

    for operation in target.operations:
        often(given(requests(operation))(hold))()
        # Whatever that was, the app is still there.
        assert target.client.get("/ready").status_code == target.root.get("/users/me").status_code == 200
    assert [name for name, times in succeeded.items() if not times] == []


@pytest.mark.promise("V01", "V02", "V08", "V14", "V15")
def test_text_and_numbers_are_kept_where_the_schema_allows_them_and_else_refused(target: Target, often: Any):
    accepted: Counter[tuple[str, bool]] = Counter()

    count = itertools.count(10**6 + 1)  # of accounts, that none is taken

    def holds(operation: Operation, name: str) -> Callable[[Any], None]:
        def hold(value: object) -> None:
            exchange = Exchange(operation, operation.path.replace("{user_id}", "1"))
            exchange.headers.append((b"content-type", b"application/json"))
            exchange.body = json.dumps({**operation.good(next(count)), name: value}).encode()
            target.send(exchange)
            note(f"answered: {exchange.status} {exchange.content[:500]!r}")
            assert_sound(exchange)
            is_accepted = exchange.status == 201
            assert is_accepted is any(allows(kind, value) for kind in operation.kinds(name))
            accepted[f"{operation.operation_id} {name}", is_accepted] += 1
            if is_accepted:
                assert_kept(target, exchange)

        return hold

    for operation in [each for each in target.operations if "201" in each.about["responses"]]:
        for name in operation.fields:
            wanted = texts | lengths if operation.keeps(name) else numbers if operation.has_number(name) else None
            if wanted is not None:
                often(given(wanted)(holds(operation, name)))()
    assert {where for where, _ in accepted} >= {"create_item title", "create_sample number", "create_user password"}
    assert [where for where, _ in accepted if not accepted[where, True] or not accepted[where, False]] == []


def allows(schema: dict[str, Any], value: Any) -> bool:
    # A bound of 2^63 is a float in the document, and would be compared as one.
    exact = {name: int(bound) if isinstance(bound, float) else bound for name, bound in schema.items()}
    with suppress(ValueError, OverflowError):  # half of a surrogate pair, or a number beyond all that a double can be
        return bool(jsonschema_rs.is_valid(exact, value if isinstance(value, str) or float(value) else 0))
    return False
