"""The limit of what Python can do here: bare ASGI, HMAC by hand, the bare driver, orjson. The verbs' own SQL.

Nobody should write an application like this. It shows how much of Cadre's time is Cadre's.
"""

import hmac
import os
import secrets
import time
from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qsl

import orjson

from benchmarks.contenders.drivers import ITEM, USER, connect

KEY, URL = os.environ["SECRET_KEY"].encode(), os.environ["DATABASE_URL"]
HEADER = {"alg": "HS256", "typ": "JWT"}
TOKENS = 10_000  # verified ones kept
HEADERS = [
    (b"content-type", b"application/json"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
]
ONE = "/api/v1/items/"

Me = tuple[int, bool, int]  # id, is_superuser, session
Answer = tuple[int, Any]  # status, and what becomes JSON
verified: dict[str, tuple[float, Me]] = {}
database: Any = None


class Refused(Exception):
    """Answered with this status and no more."""


def caller(scope: Any) -> Me:
    token = next((value for name, value in scope["headers"] if name == b"authorization"), b"")[7:].decode()
    known = verified.get(token)
    if known is None or known[0] < time.time():
        known = verify(token)
        if len(verified) >= TOKENS:
            verified.clear()
        verified[token] = known
    return known[1]


def verify(token: str) -> tuple[float, Me]:
    try:
        signed, _, signature = token.rpartition(".")
        header, claims = (orjson.loads(decoded(part)) for part in signed.split("."))
        right = hmac.compare_digest(decoded(signature), hmac.digest(KEY, signed.encode(), sha256))
        if not right or header != HEADER or claims["exp"] < time.time() or claims["aud"] != "cadre":
            raise Refused(401)
        return claims["exp"], (
            int(claims["sub"].removeprefix("user:")),
            claims["role"] == "superuser",
            int(claims["sid"]),
        )
    except (ValueError, KeyError, TypeError):
        raise Refused(401) from None


def decoded(part: str) -> bytes:
    return urlsafe_b64decode(part + "=" * (-len(part) % 4))


async def read_me(me: Me, _scope: Any, _receive: Any) -> Answer:
    user = dict(zip(USER, await only("me", me), strict=True))
    return 200, user | {"is_active": bool(user["is_active"]), "is_superuser": bool(user["is_superuser"])}


async def list_items(me: Me, scope: Any, _receive: Any) -> Answer:
    query = dict(parse_qsl(scope["query_string"].decode()))
    limit, skip = int(query.get("limit", 100)), int(query.get("skip", 0))
    if not 1 <= limit <= 100 or skip < 0:
        raise Refused(422)
    return 200, [item(row) for row in await database.run("page", (*me, limit, skip))]


async def read_item(me: Me, scope: Any, _receive: Any) -> Answer:
    return 200, item(await only("get", (*me, row_id(scope))))


async def create_item(me: Me, _scope: Any, receive: Any) -> Answer:
    data = await body(receive)
    if "title" not in data:
        raise Refused(422)
    return 201, item(await only("create", (*me, database.now(), data["title"], data.get("description"))))


async def update_item(me: Me, scope: Any, receive: Any) -> Answer:
    changes = await body(receive)
    if changes.keys() != {"title"}:
        raise Refused(422)  # the one change that is written out
    return 200, item(await only("update", (*me, database.now(), changes["title"], row_id(scope))))


async def delete_item(me: Me, scope: Any, _receive: Any) -> Answer:
    await only("delete", (*me, row_id(scope)))
    return 204, None


async def only(name: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
    rows = await database.run(name, values)
    if rows:
        return rows[0]
    raise Refused(404 if await database.run("standing", values[:3]) else 401)


def item(row: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(ITEM, row, strict=True))


def row_id(scope: Any) -> int:
    text = scope["path"][len(ONE) :]
    if not text.isdecimal():
        raise Refused(422)
    return int(text)


async def body(receive: Any) -> dict[str, Any]:
    sent, more = b"", True
    while more:
        message = await receive()
        sent, more = sent + message["body"], message.get("more_body", False)
    try:
        data = orjson.loads(sent)
    except ValueError:
        raise Refused(422) from None
    if not isinstance(data, dict) or data.keys() - {"title", "description"}:
        raise Refused(422)
    if "title" in data and not (is_text(data["title"], 255) and data["title"].strip()):
        raise Refused(422)
    if data.get("description") is not None and not is_text(data["description"], 1000):
        raise Refused(422)
    return data


def is_text(value: Any, most: int) -> bool:
    return isinstance(value, str) and len(value) <= most and "\0" not in value


ROUTES: dict[tuple[str, str], Callable[[Me, Any, Any], Awaitable[Answer]]] = {
    ("GET", "/api/v1/users/me"): read_me,
    ("GET", "/api/v1/items"): list_items,
    ("POST", "/api/v1/items"): create_item,
    ("GET", ONE): read_item,
    ("PATCH", ONE): update_item,
    ("DELETE", ONE): delete_item,
}


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    start, method, path = time.perf_counter(), scope["method"], scope["path"]
    route = ROUTES.get((method, path)) or ROUTES.get((method, path[: len(ONE)]))
    headers, content = [*HEADERS], b""
    try:
        if route is None:
            raise Refused(404)
        status, data = await route(caller(scope), scope, receive)
        if data is not None:
            content = orjson.dumps(data, option=orjson.OPT_UTC_Z)
        if status == 201:
            headers.append((b"location", b"/api/v1/items/%d" % data["id"]))
    except Refused as refused:
        status = refused.args[0]
    headers += [
        (b"content-length", b"%d" % len(content)),
        (b"x-request-id", secrets.token_hex(8).encode()),
        (b"cache-control", b"private, no-cache" if method == "GET" else b"no-store"),
        (b"x-process-time", b"%.6f" % (time.perf_counter() - start)),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


async def lifespan(receive: Any, send: Any) -> None:
    global database
    await receive()
    database = await connect(URL)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
