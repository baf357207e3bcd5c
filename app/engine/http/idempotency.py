"""Sent again under its Idempotency-Key, a request is done once, and answered as it was the first time.

All that such a request does is one transaction, which holds the key and the answer too (keys.py): it begins when the
caller is known, and is committed before the answer leaves. Only what succeeds is kept, so what was refused may be tried
again under the same key. Of two at once, the second waits for the first.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import replace
from hashlib import sha256
from inspect import iscoroutinefunction
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import RouteContext, iter_route_contexts
from fastapi.security.base import SecurityBase
from sqlalchemy import Dialect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.engine import keys
from app.engine.caller import Caller, Standing
from app.engine.http.bodies import given_back
from app.engine.statement import Row, Runs, Statement, Values
from app.errors import Invalid

MARK = "x-idempotent"
#: For a route that is no creation: `@router.post("/bulk", openapi_extra=IDEMPOTENT)`.
IDEMPOTENT: dict[str, Any] = {MARK: True}
#: For one that reads its body itself, bit by bit: it calls `begin_now` when it has all of it.
IDEMPOTENT_LATER: dict[str, Any] = {MARK: "later"}

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
    """Whether a request of that route may have a key: creations that ask who is calling, and what is marked."""
    is_creation = context.methods == {"POST"} and getattr(context, "status_code", None) == 201
    return (is_creation or _mark(context) is not None) and _asks_who(getattr(context, "dependant", Dependant()))


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


async def begin_now(scope: Scope, transaction: Callable[[], AbstractAsyncContextManager[Runs]] | None = None) -> None:
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
        raise Invalid("Nothing is kept under an Idempotency-Key here. Send it without.")


def document_keys(app: FastAPI, schema: dict[str, Any]) -> None:
    """Tell in the OpenAPI document which operations take a key. Once more changes nothing."""
    for context in iter_route_contexts(app.routes):
        for method in context.methods or ():
            operation = schema["paths"].get(context.path, {}).get(method.lower(), {})
            operation.pop(MARK, None)
            # A plain `def` has a Session, and refuses the key.
            if operation and takes_key(context) and iscoroutinefunction(context.endpoint):
                parameters = operation.setdefault("parameters", [])
                parameters += [] if PARAMETER in parameters else [PARAMETER]
                for status, answer in operation["responses"].items():
                    if status.startswith("2"):
                        answer.setdefault("headers", {})["Idempotency-Replayed"] = REPLAYED


class Once:
    """Answers as `app` does, which is the route `context`."""

    def __init__(self, app: ASGIApp, context: RouteContext) -> None:
        self._app, self._begins_later = app, _mark(context) == "later"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sent = [value for name, value in scope["headers"] if name == b"idempotency-key"]
        if not sent:
            await self._app(scope, receive, send)
            return
        attempt = scope["attempt"] = Attempt(scope, _read_key(sent), begins_later=self._begins_later)
        receive = attempt.hashing(receive)
        if not self._begins_later:
            receive = given_back((await receive())["body"], receive)  # dispatch.py has it whole
        try:
            with suppress(_Undone):
                async with attempt.stack:
                    await self._app(scope, receive, attempt.holding(send))
                    raise _Undone  # what is still open here was never answered
        except _Answered as known:
            await _send_again(known.answer, send)
        except Exception:
            if attempt.failure:
                raise attempt.failure from None  # and not what was made of it on its way
            raise


class Attempt:
    """A request with a key. It is where its caller's statements run: in its transaction, for as long as that lasts."""

    caller: Caller
    standing: Standing

    def __init__(self, scope: Scope, key: str, *, begins_later: bool) -> None:
        self.stack = AsyncExitStack()  # holds the transaction
        self.begins_later = begins_later
        self.failure: Exception | None = None  # of the commit
        state = scope["app"].state
        self._key, self._hours = key, state.settings.idempotency_hours
        self._database: Runs = state.database
        self._db: Runs = state.database
        self._hash = sha256(b"%b %b?%b\n" % (scope["method"].encode(), scope["raw_path"], scope["query_string"]))

    @property
    def dialect(self) -> Dialect:
        return self._db.dialect

    async def run(self, statement: Statement, values: Values) -> list[Row]:
        return await self._db.run(statement, values)

    def transaction(self) -> AbstractAsyncContextManager[Runs]:
        return self._db.transaction()

    @property
    def is_open(self) -> bool:
        return self._db is not self._database

    async def begin(self, transaction: Callable[[], AbstractAsyncContextManager[Runs]]) -> None:
        if self.is_open:
            return
        self._db = await self.stack.enter_async_context(transaction())
        # Before any answer is shown to somebody who was shut out since.
        await self.standing.recognise(replace(self.caller, db=self._db))
        asked = self._hash.hexdigest()
        answer = await keys.claim(self._db, self.caller.id, self._key, asked, hours=self._hours)
        if answer:
            raise _Answered(answer)

    def hashing(self, receive: Receive) -> Receive:
        async def receive_hashed() -> Message:
            message = await receive()
            self._hash.update(message.get("body", b""))
            return message

        return receive_hashed

    def holding(self, send: Send) -> Send:
        """An answer is held back until the transaction has ended: committed for a success, else undone."""
        held: list[Message] = []

        async def send_held(message: Message) -> None:
            if not self.is_open:
                await send(message)
                return
            held.append(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                await self._end(held)
                for each in held:
                    await send(each)

        return send_held

    async def _end(self, messages: Sequence[Message]) -> None:
        # Now, and not when the app returns: what it does after its answer must not be part of this, nor come before.
        status, headers = messages[0]["status"], messages[0]["headers"]
        body = b"".join(message.get("body", b"") for message in messages)
        pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
        try:
            with suppress(_Undone):
                async with self.stack:
                    if not 200 <= status < 300:
                        raise _Undone
                    await keys.keep(self._db, self.caller.id, self._key, keys.Answer(status, pairs, body))
        except Exception as error:
            self.failure = error
            raise
        finally:
            self._db = self._database


class _Undone(Exception):
    """Roll back."""


class _Answered(Exception):
    """No refusal, so that nobody but Once makes an answer of it."""

    def __init__(self, answer: keys.Answer) -> None:
        self.answer = answer


async def _send_again(answer: keys.Answer, send: Send) -> None:
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


def _asks_who(dependant: Dependant) -> bool:
    return any(isinstance(each.call, SecurityBase) or _asks_who(each) for each in dependant.dependencies)
