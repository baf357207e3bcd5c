"""The same questions to every contender. Who answers otherwise is not compared.

Of a success the status, the body and the names of the headers must be the same; of a refusal the status.
"""

from typing import Any

import httpx

from benchmarks.seed import ITEMS, USERS

UNCOMPARED = {"date", "server", "connection", "keep-alive", "content-length", "vary"}
NEW = {"id", "created_at", "updated_at", "version"}
BODY = {"title": "Order the paint", "description": "Two tins, white. ✓ \U0001f3a8"}


def answers(base_url: str, tokens: list[str]) -> dict[str, Any]:
    """What this contender says to each question. It has changed its database afterwards, by a row."""
    said: dict[str, Any] = {}
    with httpx.Client(base_url=f"{base_url}/api/v1", trust_env=False, timeout=10) as client:

        def ask(
            question: str, method: str, path: str, user: int | None = 1, forget: set[str] = frozenset(), **options: Any
        ) -> Any:
            headers = {"Authorization": f"Bearer {tokens[user - 1]}"} if user else {}
            answer = client.request(method, path, headers=headers, **options)
            said[question] = told(answer, forget)
            return answer

        ask("me", "GET", "/users/me")
        ask("another me", "GET", "/users/me", 2)
        ask("one", "GET", f"/items/{USERS + 1}")
        ask("the last one", "GET", f"/items/{ITEMS}", USERS)
        ask("a list of 100", "GET", "/items?limit=100")
        ask("a page further down", "GET", "/items?limit=3&skip=490")
        ask("beyond the end", "GET", "/items?skip=5000")
        new = ask("create", "POST", "/items", USERS, NEW, json=BODY)
        row = f"/items/{new.json()['id']}"
        said["it is at"] = new.headers["location"] == f"/api/v1{row}"
        ask("create without a description", "POST", "/items", USERS, NEW, json={"title": "Bare"})
        ask("change", "PATCH", row, USERS, {"id", "created_at", "updated_at"}, json={"title": "Changed"})
        said["it was changed"] = told(client.get(row, headers={"Authorization": f"Bearer {tokens[-1]}"}), NEW)
        ask("delete", "DELETE", row, USERS)
        ask("what was deleted", "GET", row, USERS)
        ask("delete it again", "DELETE", row, USERS)
        ask("somebody else's", "GET", "/items/2")
        ask("change somebody else's", "PATCH", "/items/2", json={"title": "Mine"})
        ask("delete somebody else's", "DELETE", "/items/2")
        ask("no token", "GET", "/users/me", None)
        ask("no title", "POST", "/items", json={"description": "?"})
        ask("an unknown key", "POST", "/items", json=BODY | {"owner_id": 2})
        ask("too long a title", "POST", "/items", json={"title": "x" * 256})
        ask("too long a list", "GET", "/items?limit=101")
        forged = tokens[0][:-4] + ("AAAA" if tokens[0][-4:] != "AAAA" else "BBBB")
        said["a forged token"] = client.get("/users/me", headers={"Authorization": f"Bearer {forged}"}).status_code
    return said


def told(answer: httpx.Response, forget: set[str]) -> Any:
    if not answer.is_success:
        return answer.status_code
    body = answer.json() if answer.content else None
    if isinstance(body, dict):
        body = {name: value for name, value in body.items() if name not in forget}
    unasked = UNCOMPARED if answer.content else UNCOMPARED | {"content-type"}
    return answer.status_code, body, sorted(set(answer.headers) - unasked)


def refuse_if_different(said: dict[str, dict[str, Any]]) -> None:
    """Raise SystemExit that shows every difference."""
    first, *others = said
    differences = [
        f"{question}:\n  {first}: {answer}\n  {other}: {said[other][question]}"
        for other in others
        for question, answer in said[first].items()
        if said[other][question] != answer
    ]
    if differences:
        raise SystemExit("\n".join(["The contenders answer differently, so nothing is measured.", *differences]))
