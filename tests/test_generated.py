"""Whatever hypothesis sends to whatever operation: no 5xx, a refusal repeats nothing, and what is accepted is kept.

It walks the OpenAPI document, so a new entity is covered by itself: that of tests/samples.py, with every type, is.
"""

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import jsonschema_rs
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, note
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from app.engine.http import dispatch
from app.engine.sessions import create_session_engine
from app.extras.bulk import MAX_BODY_SIZE
from app.main import create_app
from app.settings import Settings
from tests.conftest import sign_up
from tests.entities import kinds
from tests.exchanges import MARK, OF_MAIL, ROWS, Exchange, Operation, Target, assert_sound, fill
from tests.samples import Sample, router
from tests.scratch import tables
from tests.servers import keeper

# JSON of every kind, and what only looks like it: NaN, half of a surrogate pair, numbers beyond all bounds.
ODD_TEXTS = ["\x00", "\ud800", "\ufeff", " ", "' OR 1=1 --", "x" * 2000, "../../etc/passwd", "1", "null"]
ODD_NUMBERS = [2**31, 2**53 + 1, 2**63, -(2**63), -(2**64), 10**400, 1e308, -0.0]
keys = st.text(max_size=40) | st.text(st.characters(categories=["Cc", "Cs", "Cf", "Zs", "So"]), max_size=9)
texts = keys | st.sampled_from(ODD_TEXTS)
texts |= texts.map(lambda text: f"{MARK}{text}")  # keys have no mark: a refusal names those that it does not know
lengths = st.builds(lambda letter, length: letter * length, st.sampled_from("x\U0001f600"), st.integers(250, 1001))
numbers = st.integers() | st.floats() | st.sampled_from(ODD_NUMBERS)
scalars = st.none() | st.booleans() | numbers | texts
values = scalars | st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=9
)

# Games with percent signs, slashes, dots and digits: each a segment of a path, or the value of a parameter.
ODD_SEGMENTS = """
% %zz %00 %ff %c0%af %ed%a0%80 %2f %2F1 1%2f2 %2e%2e .. . %252e {} 0 01 +1 -1 1.0 1e0 0x1 1_0 1%20 %201 %EF%BC%91
NaN 1;x=1 1,2 me %0d%0aX:%20y null true 1%00 %25%32%66 1&2 [] *
"""
ODD_TAILS = ["/", "//", "%2f", "/.", "/%2e%2e", ";", "%00"]
segments = st.sampled_from([*ODD_SEGMENTS.split(), "", "9" * 16, "9" * 5000, f"{MARK}%0a"])
segments |= texts.map(lambda text: quote(text, safe="", errors="surrogatepass"))

HEADERS = """
accept accept-encoding accept-language authorization content-encoding content-type cookie expect host if-match
if-modified-since if-none-match origin range te upgrade x-forwarded-for x-forwarded-host x-forwarded-proto
x-http-method-override x-request-id x-token
"""
ODD_VALUES = """
* null text/plain multipart/form-data application/x-www-form-urlencoded application/json bytes=0-1 gzip;q=x Bearer
application/json;charset=utf-16 " \xff ;
"""
junk = st.binary(max_size=30) | keys.map(lambda text: text.encode(errors="replace"))
raw = junk | texts.map(lambda text: text.encode(errors="replace"))
headers = st.tuples(
    st.sampled_from(HEADERS.split()).map(str.encode),
    raw.map(lambda value: value.translate(None, b"\r\n\x00")) | st.sampled_from(ODD_VALUES.split()).map(str.encode),
)


@st.composite
def requests(draw: Any, operation: Operation) -> Exchange:
    address, misses = operation.path, False
    for name in re.findall(r"{\w+}", address):
        is_odd = draw(st.integers(0, 4)) == 4
        address, misses = address.replace(name, draw(segments if is_odd else st.integers(1, ROWS).map(str))), is_odd
    if draw(st.integers(0, 19)) == 19:
        address, misses = address + draw(st.sampled_from(ODD_TAILS)), True
    known = [parameter["name"] for parameter in operation.about.get("parameters", ())]
    pairs = draw(st.lists(st.tuples(st.sampled_from([*known, "x", "%ff", ""]), segments), max_size=2))
    query = "&".join(f"{name}={value}" for name, value in pairs)
    body = draw(bodies_for(operation) if operation.media_type else st.binary(max_size=9))
    return Exchange(operation, f"{address}?{query}", body, draw(st.just([]) | st.lists(headers, max_size=4)), misses)


@st.composite
def bodies_for(draw: Any, operation: Operation) -> bytes:
    """A good body, or something near it, or something else altogether; and then perhaps damaged."""
    body: Any = operation.good(draw(st.integers(1, 10**6)))
    for name in draw(st.lists(st.sampled_from([*body, "id", "owner_id", "is_superuser", "__proto__"]), max_size=2)):
        body = {**body, name: draw(values)} if draw(st.booleans()) else {**body, name: body.get(name)}
    if draw(st.integers(0, 9)) == 9:
        body = draw(values)
    text = operation.encode(body, ascii_only=draw(st.booleans()))
    cut = draw(st.integers(0, len(text)))
    damages: list[Callable[[], bytes]] = [
        lambda: text[:cut].encode(errors="replace"),
        lambda: text[:cut].encode(errors="replace") + draw(junk) + text[cut:].encode(errors="replace"),
        lambda: text.replace("{", '{"title": 1, "words": 1, "username": 1, ', 1).encode(errors="replace"),
        lambda: text.encode(draw(st.sampled_from(["utf-16", "utf-32-le", "utf-8-sig", "utf-7"])), "replace"),
        lambda: b"[" * 10 ** draw(st.integers(1, 5)) + b"]" * draw(st.integers(0, 1000)),
        lambda: draw(raw),
    ]
    damage = draw(st.integers(0, 3 * len(damages)))
    return damages[damage]() if damage < len(damages) else text.encode(errors="surrogatepass")


@pytest.fixture
def target(database_url: str, settings: Settings, start: Callable[..., TestClient]) -> Iterator[Target]:
    app = create_app(settings.model_copy(update={"sign_up_attempts": 10**6}))
    app.include_router(router)
    dispatch.install(app)
    engine = create_session_engine(database_url)
    with tables(database_url, [Sample.__table__]):
        client = start(app)
        root = sign_up(client, "root", is_superuser=True)
        for number in range(1, ROWS):
            sign_up(client, f"user-{number}")
        fill(app, root.post)
        for number in range(ROWS):
            assert root.post("/machine_tokens", {"name": f"machine {number}"}).status_code == 201
        yield Target(client, root, keeper(engine))
    engine.dispose()


@pytest.fixture
def often(full: bool) -> Callable[[Any, Callable[[Any], None]], None]:
    """`often(strategy, test)`. Not shrunk, since what was written stays; and the same in every run but a full one."""
    how = hypothesis(
        max_examples=1000 if full else 40,
        derandomize=not full,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    return lambda strategy, test: how(given(strategy)(test))()


@pytest.mark.promise("S01", "V01", "V02", "V03", "V04", "V08", "V09", "V10", "V11", "V13", "V15", "V16", "V18", "V20")
def test_whatever_is_sent_is_refused_soundly_or_kept(target: Target, often: Any):
    def hold(exchange: Exchange) -> None:
        target.send(exchange)
        note(f"answered: {exchange.status} {exchange.answered} {exchange.content[:500]!r}")
        assert_sound(exchange)
        if exchange.status in (200, 201) and exchange.operation.is_json and not exchange.misses:
            target.assert_kept(exchange)
        if exchange.operation.method != "GET" and exchange.succeeds:
            target.restore()

    numbers = itertools.count(ROWS)
    deleted = [f"/api/v1{kind.path}/" for kind in reversed(kinds(target.client.app))]  # type: ignore[arg-type]
    # Rows are deleted last, and of those what refers to others before them.

    def turn(operation: Operation) -> int:
        of = re.split("{|bulk", operation.path)[0]
        return operation.deletes and 1 + (deleted.index(of) if of in deleted else 0)

    for operation in sorted(target.operations, key=turn):
        if operation.path.endswith(("/restore", "/bulk/delete", "/me/delete")):
            continue  # of rows that are gone, or to which none refers: by then there may be none. See test_contract.py
        if operation.path.endswith(OF_MAIL):
            continue  # no mail is sent here
        row = ROWS if operation.method == "DELETE" else 2
        for _ in range(ROWS**2):  # some pairs of rows are taken, and some rows are gone
            body = operation.encode(operation.good(next(numbers))).encode() if operation.media_type else b""
            good = Exchange(operation, re.sub(r"{\w+}", str(row), operation.path), body)
            often(st.just(good), hold)
            if good.status not in (404, 409):
                break
        assert (operation.name, good.succeeds) == (operation.name, True)  # or all else would prove nothing
    for operation in target.operations:
        often(requests(operation), hold)
        # Whatever that was, the app is still there.
        assert target.client.get("/ready").status_code == target.root.get("/users/me").status_code == 200


@pytest.mark.promise("V01", "V02", "V08", "V14", "V15")
def test_text_and_numbers_are_kept_where_the_schema_allows_them_and_else_refused(target: Target, often: Any):
    seen: Counter[tuple[str, bool]] = Counter()
    count = itertools.count(ROWS)
    rules = [sentence for kind in kinds(target.client.app) for sentence in kind.rules]  # type: ignore[arg-type]

    def holds(operation: Operation, field: str) -> Callable[[Any], None]:
        def hold(value: object) -> None:
            body = json.dumps({**operation.good(next(count)), field: value})
            exchange = Exchange(operation, operation.path.replace("{user_id}", "1"), body.encode())
            target.send(exchange)
            note(f"answered: {exchange.status} {exchange.content[:500]!r}")
            assert_sound(exchange)
            meant = json.loads(body)[field]  # of the two halves of a surrogate pair JSON makes one character
            if exchange.status == 409 or (exchange.status == 422 and json.loads(exchange.content)["detail"] in rules):
                return  # it fits, but not beside the other fields, or not beside another row
            assert exchange.succeeds is any(allows(kind, meant) for kind in operation.kinds(field))
            seen[f"{operation.name} {field}", exchange.succeeds] += 1
            if exchange.succeeds:
                target.assert_kept(exchange)
                made = dict(exchange.answered)[b"location"].decode()
                assert target.client.delete(made, headers=target.root.headers).status_code in (204, 405)

        return hold

    creating = [each for each in target.operations if "201" in each.about["responses"] and not each.is_bulk]
    for operation in [each for each in creating if not each.path.endswith(OF_MAIL)]:
        for field in operation.fields:
            if operation.keeps_text(field):
                often(texts | lengths, holds(operation, field))
            elif operation.keeps_numbers(field):
                ends = [of[end] for of in operation.kinds(field) for end in ("minimum", "maximum") if end in of]
                often(numbers | st.sampled_from(ends) if ends else numbers, holds(operation, field))
    tried = {where for where, _ in seen}
    assert {
        "create_item title",
        "create_user full_name",
        "create_user password",
        "create_scratch_sample number",
    } <= tried
    assert seen.keys() == set(itertools.product(tried, (True, False)))  # each was accepted, and refused, at times


def allows(schema: dict[str, Any], value: Any) -> bool:
    # A bound of 2^63 is a float in the document, and would be compared as one.
    exact = {name: int(bound) if isinstance(bound, float) else bound for name, bound in schema.items()}
    with suppress(ValueError, OverflowError):  # half of a surrogate pair, or a number beyond all that a double can be
        return bool(jsonschema_rs.is_valid(exact, value if isinstance(value, str) or float(value) else 0))
    return False


@pytest.mark.promise("V07")
@pytest.mark.parametrize("is_announced", [True, False], ids=["announced", "not announced"])
def test_a_body_over_the_limit_is_refused_as_documented(target: Target, is_announced: bool):
    for operation in [each for each in target.operations if each.media_type]:
        most = MAX_BODY_SIZE if operation.is_bulk else 2 * 2**20
        exchange = Exchange(operation, re.sub(r"{\w+}", "1", operation.path), b"x" * (most + 1))
        exchange.headers += [(b"content-length", b"%d" % len(exchange.body))] if is_announced else []
        target.send(exchange)
        assert (operation.name, exchange.status) == (operation.name, 413)
        assert_sound(exchange)
