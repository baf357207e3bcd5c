"""Sent again under its Idempotency-Key, a request is done once, and answered as it was the first time.

All that such a request does is one transaction, which holds the key and the answer too (keys.py): it begins when the
caller is known, and is committed before the answer leaves. Only what succeeds is kept, so what was refused may be tried
again under the same key. Of two at once, the second waits for the first.
"""

import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from inspect import iscoroutinefunction
from typing import Any, cast

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import RouteContext, iter_route_contexts
from fastapi.security.base import SecurityBase
from starlette.types import ASGIApp, Receive, Scope, Send

from app.engine.caller import Caller, Standing
from app.engine.http.attempts import Answered, Attempt, Begins, Undone
from app.engine.http.bodies import given_back
from app.engine.keys import Answer
from app.engine.statement import Runs
from app.errors import Invalid

MARK = "x-idempotent"
#: For a route that is no creation: `@router.post("/bulk", openapi_extra=IDEMPOTENT)`.
IDEMPOTENT: dict[str, Any] = {MARK: True}
#: For one that reads its body itself, bit by bit: it calls `begin_now` when it has all of it.
IDEMPOTENT_LATER: dict[str, Any] = {MARK: "later"}
#: For a creation whose answer must not be kept, as a secret that is shown once: it refuses a key.
NOT_IDEMPOTENT: dict[str, Any] = {MARK: False}

REFUSED = "Nothing is kept under an Idempotency-Key here. Send it without."

# A string as RFC 9651 has it (3.3.3), as the draft wants it, or bare, as everybody sends it.
BARE, QUOTED = r"[!#-~]{1,255}", r'"(?:[ !#-\[\]-~]|\\["\\]){1,255}"'
KEY = re.compile(rf"{BARE}|{QUOTED}")
PARAMETER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "A random text of your own, the same when you send the request again: it is done once.",
    "schema": {"type": "string", "title": "Idempotency-Key", "pattern": rf"^({BARE}|{QUOTED})$", "maxLength": 512},
}
REPLAYED = {
    "description": "`true` if that was answered before, under the same `Idempotency-Key`.",
    "schema": {"type": "string", "enum": ["true"]},
}


def takes_key(context: RouteContext) -> bool:
    """Whether that route looks at a key: creations that ask who is calling, and what is marked.

    Raises TypeError for a mark where nobody asks who is calling: whose would the key be?
    """
    asks = credentials(context) is not None
    if _mark(context) and not asks:
        raise TypeError(f"{context.path} cannot take an Idempotency-Key: it asks for no Caller.")
    is_creation = context.methods == {"POST"} and getattr(context, "status_code", None) == 201
    return asks and (is_creation or _mark(context) is not None)


def credentials(context: RouteContext) -> Callable[..., Awaitable[object]] | None:
    """The dependency by which that route asks who is calling."""
    pending = [getattr(context, "dependant", Dependant())]
    while pending:
        dependant = pending.pop()
        if isinstance(dependant.call, SecurityBase):
            return cast(Callable[..., Awaitable[object]], dependant.call)
        pending += dependant.dependencies
    return None


async def begin(scope: Scope, caller: Caller, standing: Standing) -> Caller:
    """The caller, and if the request has a key, in the transaction that keeps its answer too.

    Raises Unauthenticated if their token no longer holds, and Invalid if the key was another request's.
    """
    attempt: Attempt | None = scope.get("attempt")
    if attempt is None:
        return caller
    attempt.caller, attempt.standing = caller, standing
    if not attempt.begins_later:
        await attempt.begin(caller.db.transaction)
    return replace(caller, db=attempt)


async def begin_now(scope: Scope, transaction: Begins | None = None) -> None:
    """For an IDEMPOTENT_LATER route, when all of the body was read. What its caller does now, is in `transaction`."""
    attempt: Attempt | None = scope.get("attempt")
    if attempt:
        await attempt.begin(transaction or attempt.transaction)


def shared(scope: Scope, database: Runs) -> Runs:
    """Where a request's statements run: on `database`, unless it has a key, and so a transaction."""
    return scope.get("attempt") or database


def refuse_key(scope: Scope) -> None:
    """Raise Invalid if the request has a key: what follows cannot be in its transaction, and might be done twice."""
    if "attempt" in scope:
        raise Invalid(REFUSED)


def document_keys(app: FastAPI, schema: dict[str, Any]) -> None:
    """Tell in the OpenAPI document which operations take a key. Once more changes nothing."""
    for context in iter_route_contexts(app.routes):
        for method in context.methods or ():
            operation = schema["paths"].get(context.path, {}).get(method.lower(), {})
            operation.pop(MARK, None)
            # A plain `def` has a Session, and refuses the key.
            is_kept = _mark(context) is not False and iscoroutinefunction(context.endpoint)
            if operation and is_kept and takes_key(context):
                parameters = operation.setdefault("parameters", [])
                parameters[:0] = [] if PARAMETER in parameters else [PARAMETER]
                for status, answer in operation["responses"].items():
                    if status.startswith("2"):
                        answer.setdefault("headers", {})["Idempotency-Replayed"] = REPLAYED


class Once:
    """Answers as `app` does, which is the route `context`."""

    def __init__(self, app: ASGIApp, context: RouteContext) -> None:
        self._app, self._mark = app, _mark(context)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sent = [value for name, value in scope["headers"] if name == b"idempotency-key"]
        if not sent:
            await self._app(scope, receive, send)
            return
        if self._mark is False:
            raise Invalid(REFUSED)
        attempt = scope["attempt"] = Attempt(scope, _read_key(sent), begins_later=self._mark == "later")
        receive = attempt.hashing(receive)
        if not attempt.begins_later:
            receive = given_back((await receive())["body"], receive)  # dispatch.py has it whole
        try:
            with suppress(Undone):
                async with attempt.stack:
                    await self._app(scope, receive, attempt.holding(send))
                    raise Undone  # what is still open here was never answered
        except Answered as known:
            await _send_again(known.answer, send)
        except Exception:
            if attempt.failure:
                raise attempt.failure from None  # and not what was made of it on its way
            raise


async def _send_again(answer: Answer, send: Send) -> None:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    headers.append((b"idempotency-replayed", b"true"))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


def _read_key(sent: list[bytes]) -> str:
    """Quoted or bare, it is the same key. Raises 422 for what is none, or for two."""
    text = sent[0].decode("latin-1")
    if len(sent) > 1 or not KEY.fullmatch(text):
        wrong = "must be one key of 1 to 255 visible ASCII characters, bare or in double quotes"
        raise RequestValidationError([{"loc": ("header", PARAMETER["name"]), "msg": wrong, "type": "value_error"}])
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text


def _mark(context: RouteContext) -> object:
    return (getattr(context.original_route, "openapi_extra", None) or {}).get(MARK)
