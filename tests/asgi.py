"""The app asked as a server asks it: a client library would tidy up the path, refuse odd headers, drop HEAD's body."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from fastapi.testclient import TestClient

Fields = Iterable[tuple[bytes, bytes]]
Receive = Callable[[], Awaitable[Any]]


@dataclass
class Answer:
    """As the app sends it; the status is 0 if it sends none."""

    status: int = 0
    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.fields}


def ask(client: TestClient, method: str, target: str, fields: Fields = (), receive: Receive | None = None) -> Answer:
    """What the app answers to a body that `receive` gives piece by piece: without it, an empty one."""
    answer = Answer()

    async def send(message: Any) -> None:
        answer.status = message.get("status", answer.status)
        answer.fields += message.get("headers", ())
        answer.body += message.get("body", b"")

    assert client.portal is not None
    client.portal.call(client.app, scope(method, target, fields), receive or whole(b""), send)
    return answer


def scope(method: str, target: str, fields: Fields = ()) -> dict[str, Any]:
    """A request's head."""
    path, _, query = target.partition("?")
    return {
        **{"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "method": method},
        **{"path": unquote(path), "raw_path": path.encode(), "query_string": query.encode(), "root_path": ""},
        **{"headers": list(fields), "server": ("testserver", 80), "client": ("testclient", 50000), "state": {}},
    }


def whole(body: bytes) -> Receive:
    """A client who sends `body` in one piece, and does not hang up."""
    pieces = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        return pieces.pop() if pieces else await asyncio.Event().wait()

    return receive
