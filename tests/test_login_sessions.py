"""Sessions: staying logged in by refresh tokens, and every way in which that ends, at the very next request."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from jose import jwt
from sqlalchemy import text

from app import accounts
from app.accounts import logins
from app.engine.caller import Caller
from app.errors import NoToken
from app.models.base import utcnow
from app.security import key_id
from app.settings import Settings
from tests.conftest import PASSWORD, Person, sign_up

ENDED = "That refresh token is not valid, or no longer. Log in again."
OTHER = "four other words together"


class Login:
    """One of somebody's, somewhere: what its client keeps."""

    def __init__(self, client: TestClient, username: str = "ann", **form: str) -> None:
        self.client = client
        self.take(self.ask(username=username, password=PASSWORD, **form))

    def ask(self, **form: str) -> Any:
        return self.client.post("/api/v1/token", data=form)

    def take(self, answer: Any) -> Any:
        if answer.status_code == 200:
            self.access, self.refresh_token = answer.json()["access_token"], answer.json()["refresh_token"]
        return answer

    def refresh(self, token: str = "", **form: str) -> Any:
        return self.ask(grant_type="refresh_token", refresh_token=token or self.refresh_token, **form)

    def revoke(self, token: str, **form: str) -> Any:
        return self.client.post("/api/v1/revoke", data={"token": token, **form})

    def call(self, method: str, path: str, **options: Any) -> Any:
        return self.client.request(
            method, f"/api/v1{path}", headers={"Authorization": f"Bearer {self.access}"}, **options
        )

    @property
    def is_in(self) -> tuple[bool, bool]:
        """Whether its access token holds, and its refresh token."""
        holds = self.call("GET", "/users/me").status_code == 200
        return holds, self.take(self.refresh()).status_code == 200


IN, OUT = (True, True), (False, False)


@pytest.fixture
def here(client: TestClient, ann: Person) -> Login:
    return Login(client)


@pytest.fixture
def elsewhere(client: TestClient, ann: Person) -> Login:
    return Login(client)


# Refreshing


@pytest.mark.promise("A27", "A02")
def test_a_refresh_gives_new_tokens_and_spends_the_old_one(here: Login):
    first = here.refresh_token
    answer = here.take(here.refresh())
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    assert {*answer.json()} == {"access_token", "token_type", "expires_in", "refresh_token", "scope"}
    assert here.refresh_token != first
    assert here.call("GET", "/users/me").json()["username"] == "ann"
    assert here.take(here.refresh()).status_code == 200


@pytest.mark.promise("A28")
def test_a_refresh_token_that_is_used_twice_ends_the_whole_session(here: Login, elsewhere: Login):
    spent = here.refresh_token
    here.take(here.refresh())
    refused = here.refresh(spent)
    assert (refused.status_code, refused.json()["error"], refused.json()["detail"]) == (400, "invalid_grant", ENDED)
    assert (here.is_in, elsewhere.is_in) == (OUT, IN)


def test_somebody_who_guesses_ends_nobodys_session(here: Login):
    once = here.refresh_token.partition(".")[2]
    garbage = (f"cadre-refresh_x.{once}", "cadre-refresh_", "cadre-refresh_.", f".{once}", once, "x" * 1000, "\x00")
    answers = [here.refresh(token) for token in garbage]
    assert [(answer.status_code, answer.json()["error"]) for answer in answers] == [(400, "invalid_grant")] * 7
    assert here.is_in == IN


@pytest.mark.promise("A29")
def test_of_ten_refreshes_at_once_one_succeeds_at_most(here: Login):
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: here.refresh(), range(10)))
    won = [answer for answer in answers if answer.status_code == 200]
    assert [answer.status_code for answer in answers if answer not in won] == [400] * (10 - len(won))
    assert len(won) <= 1
    # Nine of them were replays, so the session has ended.
    for answer in won:
        here.take(answer)
    assert here.is_in == OUT


@pytest.mark.promise("A29")
def test_what_spends_a_refresh_token_is_one_statement(client: TestClient, here: Login):
    """Ten at once on the database itself, past all that could put them in a row."""

    async def at_once() -> list[bool]:
        family, once = logins._parts(here.refresh_token)
        given = {"family": logins.hashed(family), "spent": logins.hashed(once), "now": utcnow()}
        db = client.app.state.database  # type: ignore[attr-defined]
        tries = (db.run(logins._ROTATE, {**given, "next": str(number)}) for number in range(10))
        return [bool(rows) for rows in await asyncio.gather(*tries)]

    assert client.portal
    assert sum(client.portal.call(at_once)) == 1


@pytest.mark.promise("A30")
def test_a_refresh_token_is_no_access_token_and_the_other_way_round(here: Login, client: TestClient):
    kept, here.access = here.access, here.refresh_token
    assert here.call("GET", "/users/me").status_code == 401
    assert client.get("/api/v1/users/me", headers={"X-Token": here.refresh_token}).status_code == 401
    here.access = kept
    assert here.refresh(here.access).status_code == 400
    assert here.is_in == IN


def test_a_session_ends_after_its_days_whatever_is_refreshed(
    start: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
):
    client = start(session_days=2)
    sign_up(client, "ann")
    here, later = Login(client), utcnow() + timedelta(days=1)
    monkeypatch.setattr(logins, "utcnow", lambda: later)
    assert here.take(here.refresh()).status_code == 200
    later += timedelta(days=1)
    assert here.refresh().status_code == 400


def test_expired_sessions_are_forgotten(client: TestClient, here: Login, elsewhere: Login):
    state = client.app.state  # type: ignore[attr-defined]
    with state.session_engine.execution_options(begin="BEGIN IMMEDIATE").begin() as connection:
        connection.execute(text("UPDATE sessions SET expires_at = '2026-01-01' WHERE id = 2"))
    assert client.portal
    client.portal.call(logins.forget_expired, Caller(state.database))
    with state.session_engine.begin() as connection:
        assert [id_ for (id_,) in connection.execute(text("SELECT id FROM sessions ORDER BY id"))] == [1, 3]


def test_of_a_refresh_token_only_hashes_are_stored(client: TestClient, here: Login):
    state = client.app.state  # type: ignore[attr-defined]
    with state.session_engine.begin() as connection:
        stored = " ".join(str(row) for row in connection.execute(text("SELECT * FROM sessions")))
    parts = logins._parts(here.refresh_token)
    assert [part for part in parts if part in stored] == []
    assert [logins.hashed(part) in stored for part in parts] == [True, True]


# Ending


@pytest.mark.promise("A26")
def test_logging_out_ends_the_session_at_the_server(here: Login, elsewhere: Login):
    assert here.call("POST", "/logout").status_code == 204
    assert (here.is_in, elsewhere.is_in) == (OUT, IN)


@pytest.mark.promise("A26")
@pytest.mark.parametrize("kind", ["access", "refresh_token"])
@pytest.mark.parametrize("hint", [{}, {"token_type_hint": "refresh_token"}, {"token_type_hint": "nonsense"}], ids=str)
def test_a_revoked_token_ends_its_session(here: Login, elsewhere: Login, kind: str, hint: dict[str, str]):
    answer = here.revoke(getattr(here, kind), **hint)
    assert (answer.status_code, answer.content, answer.headers["Cache-Control"]) == (200, b"", "no-store")
    assert (here.is_in, elsewhere.is_in) == (OUT, IN)


def test_what_is_no_token_or_has_ended_is_revoked_already(here: Login, settings: Settings):
    claims = jwt.get_unverified_claims(here.access) | {"stamp": "1"}
    key = settings.keys[0]
    forged = jwt.encode(claims, key, headers={"kid": key_id(key)})
    for token in ("garbage", "cadre-refresh_x", "cadre-refresh_x.y", "cadre_x", here.access + "x", forged):
        assert (token[:20], here.revoke(token).status_code) == (token[:20], 200)
    assert here.is_in == IN
    assert [here.revoke(here.access).status_code for _ in range(2)] == [200, 200]


@pytest.mark.parametrize(
    "request_", [{}, {"json": {"token": "x"}}, {"data": {"token": ""}}, {"params": {"token": "x"}}]
)
def test_a_revocation_without_a_token_is_refused_in_the_words_of_oauth2(client: TestClient, request_: dict[str, Any]):
    answer = client.post("/api/v1/revoke", **request_)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
    assert answer.json()["detail"] == "Send a form (application/x-www-form-urlencoded) with the token."


def test_logging_out_everywhere_ends_every_session_of_ones_own(here: Login, elsewhere: Login, bob: Person):
    assert here.call("DELETE", "/sessions").status_code == 204
    assert (here.is_in, elsewhere.is_in, bob.get("/users/me").status_code) == (OUT, OUT, 200)
    assert here.call("DELETE", "/sessions").status_code == 401


def test_ones_sessions_are_listed_and_each_can_be_ended(client: TestClient, ann: Person, bob: Person):
    client.headers["User-Agent"] = "Netscape\t4"
    here, there = Login(client), Login(client, scope="users:read")
    listed = here.call("GET", "/sessions").json()
    assert [(each["scope"], each["is_current"]) for each in listed] == [
        ("users:read", False),
        (None, True),
        (None, False),
    ]
    assert {(each["client"], each["address"]) for each in listed[:2]} == {("Netscape4", "testclient")}
    assert "stamp" not in str(listed)
    assert here.call("DELETE", f"/sessions/{listed[0]['id']}").status_code == 204
    assert (here.is_in, there.is_in) == (IN, OUT)
    # Somebody else's does not exist.
    assert bob.delete(f"/sessions/{listed[1]['id']}").status_code == 404
    assert [each["owner_id"] for each in bob.get("/sessions").json()] == [bob.id]
    assert here.is_in == IN


def test_a_superuser_ends_anybodys_session_and_lists_their_own(here: Login, root: Person):
    assert [each["owner_id"] for each in root.get("/sessions").json()] == [root.id]
    (_, mine) = here.call("GET", "/sessions").json()[-2:]
    newest = here.call("GET", "/sessions").json()[0]["id"]
    assert mine["id"] < newest
    assert root.delete(f"/sessions/{newest}").status_code == 204
    assert here.is_in == OUT


@pytest.mark.promise("A31", "A25")
def test_a_new_password_ends_every_session(here: Login, elsewhere: Login, client: TestClient):
    change = {"current_password": PASSWORD, "new_password": OTHER}
    assert here.call("PATCH", "/users/me/password", json=change).status_code == 204
    assert (here.is_in, elsewhere.is_in) == (OUT, OUT)


@pytest.mark.promise("A31")
def test_a_login_that_is_overtaken_by_a_new_password_begins_nothing(client: TestClient, ann: Person):
    state = client.app.state  # type: ignore[attr-defined]
    application, hasher = Caller(state.database), state.hasher

    class Overtaken:
        """Between the check of the old password and the session that it shall begin."""

        place, attempts = hasher.place, hasher.attempts

        async def verify(self, *asked: Any) -> Any:
            verified = await hasher.verify(*asked)
            await accounts.set_password(application, ann.id, "another hash")
            return verified

    assert client.portal
    overtaken: Any = Overtaken()
    with pytest.raises(NoToken):
        client.portal.call(accounts.log_in, application, overtaken, "ann", PASSWORD)


@pytest.mark.promise("A31", "A23")
def test_a_deactivation_ends_every_session_for_good(here: Login, ann: Person, root: Person):
    assert root.post(f"/admin/users/{ann.id}/deactivate").status_code == 200
    assert here.call("GET", "/users/me").status_code == 401
    assert root.post(f"/admin/users/{ann.id}/activate").status_code == 200
    assert here.is_in == OUT


def test_who_is_demoted_stays_logged_in_as_an_ordinary_user(client: TestClient, root: Person, ann: Person):
    root.post(f"/admin/users/{ann.id}/promote")
    here = Login(client)
    assert here.call("GET", "/admin/counts").status_code == 200
    root.post(f"/admin/users/{ann.id}/demote")
    assert here.call("GET", "/admin/counts").status_code == 403
    assert here.is_in == IN
    assert here.call("GET", "/admin/counts").status_code == 403


# Keys


def test_after_a_change_of_the_key_old_tokens_hold_until_they_end(start: Callable[..., TestClient], settings: Settings):
    sign_up(start(), "ann")
    old, new = settings.keys[0], "abcdefghij" * 5
    before = Login(start())
    secret = type(settings.secret_key)
    rotated = start(secret_key=secret(new), old_secret_keys=secret(old))
    after = Login(rotated)
    for login, key in ((before, old), (after, new)):
        assert jwt.get_unverified_header(login.access)["kid"] == key_id(key)
        login.client = rotated
        assert login.is_in == IN
        assert jwt.get_unverified_header(login.access)["kid"] == key_id(new)
    # Without the old key what it signed holds no longer; the session does, which no key has signed.
    first = Login(start())
    first.client = start(secret_key=secret(new))
    assert first.is_in == (False, True)


def test_a_key_id_does_not_tell_the_key():
    assert key_id("a") != key_id("b")
    assert len(key_id("a")) == 16
