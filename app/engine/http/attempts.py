"""One attempt at a request that has a key: its transaction, from when the caller is known until the answer is whole."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import replace
from hashlib import sha256

from sqlalchemy import Dialect
from starlette.types import Message, Receive, Scope, Send

from app.engine import keys
from app.engine.caller import Caller, Standing
from app.engine.statement import Begun, Row, Runs, Statement, Values

Begins = Callable[[], AbstractAsyncContextManager[Begun]]


class Attempt:
    """It is where its caller's statements run: in its transaction for as long as that lasts, else on the database."""

    caller: Caller
    standing: Standing

    def __init__(self, scope: Scope, key: str, *, begins_later: bool) -> None:
        state = scope["app"].state
        self.stack = AsyncExitStack()  # holds the transaction
        self.begins_later = begins_later
        self.failure: Exception | None = None  # of the commit
        self._key, self._hours = key, state.settings.idempotency_hours
        self._database: Runs = state.database
        self._db: Runs = state.database
        self._hash = sha256(b"%b %b?%b\n" % (scope["method"].encode(), scope["raw_path"], scope["query_string"]))

    @property
    def dialect(self) -> Dialect:
        return self._db.dialect

    async def run(self, statement: Statement, values: Values) -> list[Row]:
        return await self._db.run(statement, values)

    def transaction(self, *, limit: float | None = None) -> AbstractAsyncContextManager[Begun]:
        return self._db.transaction(limit=limit)

    @property
    def is_open(self) -> bool:
        return self._db is not self._database

    async def begin(self, transaction: Begins) -> None:
        """Raises Answered if the request was answered before, and what `recognise` and `claim` raise."""
        if self.is_open:
            return
        self._db = await self.stack.enter_async_context(transaction())
        # Before any answer is shown to somebody who was shut out since.
        await self.standing.recognise(replace(self.caller, db=self._db))
        if self.caller.identity and self.caller.identity.scopes is not None:
            # A token that may do less is not shown what another was answered.
            self._hash.update(" ".join(sorted(self.caller.identity.scopes)).encode())
        asked = self._hash.hexdigest()
        answer = await keys.claim(self._db, self.caller.id, self._key, asked, hours=self._hours)
        if answer:
            raise Answered(answer)

    def hashing(self, receive: Receive) -> Receive:
        """What is received is part of what is asked."""

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
            with suppress(Undone):
                async with self.stack:
                    if not 200 <= status < 300:
                        raise Undone
                    await keys.keep(self._db, self.caller.id, self._key, keys.Answer(status, pairs, body))
        except Exception as error:
            self.failure = error
            raise
        finally:
            self._db = self._database


class Undone(Exception):
    """Roll back."""


class Answered(Exception):
    """It was done before. No Refusal, so that nobody makes an answer of it on its way."""

    def __init__(self, answer: keys.Answer) -> None:
        self.answer = answer
