"""The same questions to every contender. Who answers otherwise is not compared.

Of a success the status, the body and the names of the headers must be the same; of a refusal the status.
"""

from typing import Any

import httpx

from benchmarks.seed import ITEMS, USERS

UNCOMPARED = {"date", "server", "connection", "keep-alive", "content-length", "vary"}
UNCOMPARED |= {"etag", "link"}  # which the app gives, and nobody else
OF_NEW_ROWS = {"id", "created_at", "updated_at"}  # differ by nature
BODY = {"title": "Order the paint", "description": "Two tins, white. ✓ \U0001f3a8"}
NEW = "where the newest is"  # as Location said
# Who asks what, in this order: the first user reads, the last one writes.
QUESTIONS: list[tuple[str, str, str, Any]] = [
    ("reader", "GET", "/users/me", None),
    ("writer", "GET", "/users/me", None),
    ("reader", "GET", f"/items/{USERS + 1}", None),
    ("writer", "GET", f"/items/{ITEMS}", None),
    ("reader", "GET", "/items?limit=100", None),
    ("reader", "GET", "/items?limit=3&skip=490", None),
    ("reader", "GET", "/items?skip=5000", None),
    ("writer", "POST", "/items", {"title": "Bare"}),
    ("writer", "POST", "/items", BODY),
    ("writer", "GET", NEW, None),
    ("writer", "PATCH", NEW, {"title": "Changed"}),
    ("reader", "GET", NEW, None),
    ("reader", "PATCH", NEW, {"title": "Mine"}),
    ("reader", "DELETE", NEW, None),
    ("writer", "GET", NEW, None),
    ("writer", "DELETE", NEW, None),
    ("writer", "DELETE", NEW, None),
    ("writer", "GET", NEW, None),
    ("writer", "POST", "/items", {"description": "?"}),
    ("writer", "POST", "/items", {**BODY, "owner_id": 2}),
    ("writer", "POST", "/items", {"title": "x" * 256}),
    ("reader", "GET", "/items?limit=101", None),
    ("stranger", "GET", "/users/me", None),
    ("forger", "GET", "/users/me", None),
]


def answers(base_url: str, tokens: list[str]) -> list[Any]:
    """What this contender says to each question. It has a row more afterwards."""
    known = {"reader": tokens[0], "writer": tokens[-1], "forger": f"{tokens[0][:-4]}AAAA"}
    said, newest = [], "/items/0"
    with httpx.Client(base_url=base_url, trust_env=False, timeout=10) as client:
        for who, method, path, body in QUESTIONS:
            headers = {"Authorization": f"Bearer {known[who]}"} if who in known else {}
            path = newest if path is NEW else f"/api/v1{path}"
            answer = client.request(method, path, headers=headers, json=body)
            newest = answer.headers.get("location", newest)
            said.append(told(answer))
    return said


def told(answer: httpx.Response) -> Any:
    if not answer.is_success:
        return answer.status_code
    body = answer.json() if answer.content else None
    if isinstance(body, dict) and body["id"] > ITEMS:
        body = {name: value for name, value in body.items() if name not in OF_NEW_ROWS}
    unasked = UNCOMPARED if answer.content else UNCOMPARED | {"content-type"}
    return answer.status_code, body, sorted(set(answer.headers) - unasked)


def refuse_if_different(said: dict[str, list[Any]]) -> None:
    """Raise SystemExit that shows every difference."""
    first, *others = said
    differences = [
        f"{who} asks {method} {path} {body or ''}:\n  {first}: {mine}\n  {other}: {theirs}"
        for other in others
        for (who, method, path, body), mine, theirs in zip(QUESTIONS, said[first], said[other], strict=False)
        if mine != theirs
    ]
    if differences:
        raise SystemExit("\n".join(["The contenders answer differently, so nothing is measured.", *differences]))
