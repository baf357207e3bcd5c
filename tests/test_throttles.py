"""Whoever guesses is slowed down, by all processes together; whoever is right is not, nor locked out by others."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from app.accounts.limits import network
from app.engine import throttles
from app.engine.throttles import attempt, limit
from app.errors import Forbidden, TooMany, Unavailable
from app.models.base import utcnow
from tests.conftest import PASSWORD, Person, sign_up
from tests.servers import SERVE, Server, servers_on_one_database

WRONG = "four plain words apart"
UVICORN = ("-m", "uvicorn", "app.main:app", "--port", "{port}")


def log_in(client: TestClient, username: str = "ann", password: str = WRONG, **headers: str) -> Any:
    return client.post("/api/v1/token", data={"username": username, "password": password}, headers=headers)


def statuses(answers: list[Any]) -> list[int]:
    return [answer.status_code for answer in answers]


@contextmanager
def coming_from(client: TestClient, address: str) -> Iterator[None]:
    """The address of what `client` sends meanwhile."""
    transport: Any = client._transport
    before, transport.client = transport.client, (address, 50000)
    try:
        yield
    finally:
        transport.client = before


@contextmanager
def busy_lane(client: TestClient) -> Iterator[None]:
    """Nothing is hashed meanwhile: who waits for that, waits for long."""
    gate = threading.Event()
    client.app.state.hasher._executor.submit(gate.wait, 5)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        gate.set()


def wait_a_window(client: TestClient) -> None:
    with client.app.state.session_engine.begin() as connection:  # type: ignore[attr-defined]
        connection.execute(text("UPDATE attempts SET ends_at = :now"), {"now": str(utcnow())[:26]})


# One account


@pytest.mark.promise("A35")
def test_after_ten_wrong_passwords_even_the_right_one_must_wait(client: TestClient, ann: Person, bob: Person):
    assert statuses([log_in(client) for _ in range(10)]) == [400] * 10
    answer = log_in(client, password=PASSWORD)
    assert (answer.status_code, answer.headers["Content-Type"]) == (429, "application/problem+json")
    seconds = int(answer.headers["Retry-After"])
    assert 55 <= seconds <= 60
    assert answer.json()["detail"] == f"Too many attempts. Try again in {seconds} seconds."
    # It is about her alone, and who is in stays in.
    assert bob.log_in().status_code == ann.get("/users/me").status_code == 200
    wait_a_window(client)
    assert ann.log_in().status_code == 200


@pytest.mark.promise("A35")
def test_when_it_says_again_is_when_it_goes_on(client: TestClient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(throttles, "WINDOW", timedelta(seconds=1))
    ann = sign_up(client, "ann")
    answer = [log_in(client) for _ in range(11)][-1]
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
    time.sleep(1)
    assert ann.log_in().status_code == 200


@pytest.mark.promise("A35", "A03")
def test_a_name_that_nobody_has_is_counted_alike(client: TestClient, ann: Person):
    for name in ("nobody", "nobody@example.com", "ann@example.com", "ann"):
        with coming_from(client, f"{name}.test"):
            answers = [log_in(client, name) for _ in range(12)]
        assert (name, statuses(answers)) == (name, [400] * 10 + [429] * 2)


def test_what_is_refused_is_not_hashed(client: TestClient, ann: Person):
    for _ in range(10):
        log_in(client)
    with busy_lane(client):
        assert statuses([log_in(client), log_in(client, password=PASSWORD)]) == [429, 429]


@pytest.mark.promise("A36", "U02")
def test_another_spelling_of_the_name_is_the_same_name(client: TestClient, ann: Person):
    names = ["ann", "ANN", "Ann", " ann ", "\uff41\uff4e\uff4e", "\uff21NN\u3000", "ann\n", "\u2002aNn", "anN", "aNN"]
    assert statuses([log_in(client, name) for name in names]) == [400] * 10
    assert statuses([log_in(client, name) for name in names]) == [429] * 10
    mails = ["ann@example.com", "ANN@example.com", " ann@EXAMPLE.com", "ann@example.com ", "\uff41nn@example.com"]
    assert statuses([log_in(client, mail) for mail in mails * 3]) == [400] * 10 + [429] * 5


@pytest.mark.promise("A36")
def test_it_holds_from_wherever_the_guesses_come(client: TestClient, ann: Person):
    answers = []
    for number in range(12):
        with coming_from(client, f"10.0.{number}.1"):
            answers.append(log_in(client, **{"X-Forwarded-For": f"192.0.2.{number}", "X-Real-IP": f"192.0.2.{number}"}))
    assert statuses(answers) == [400] * 10 + [429] * 2


@pytest.mark.promise("A35")
def test_of_many_at_once_no_more_are_tried(client: TestClient, ann: Person):
    with ThreadPoolExecutor(30) as pool:
        seen = Counter(statuses(list(pool.map(lambda _: log_in(client), range(30)))))
    assert seen[400] == 10
    assert set(seen) <= {400, 429, 503}


def test_who_is_right_is_never_slowed_down_and_clears_nothing(start: Callable[..., TestClient]):
    client = start(login_attempts=3)
    ann = sign_up(client, "ann")
    assert statuses([ann.log_in() for _ in range(20)]) == [200] * 20  # more than from one address may be wrong
    assert statuses([log_in(client), log_in(client), ann.log_in(), log_in(client)]) == [400, 400, 200, 400]
    assert statuses([log_in(client), ann.log_in()]) == [429, 429]


@pytest.mark.promise("A38")
def test_where_the_owner_is_logged_in_others_do_not_lock_them_out(client: TestClient, ann: Person):
    with coming_from(client, "10.0.0.1"):
        ann.log_in()
    with coming_from(client, "10.0.0.66"):
        assert statuses([log_in(client) for _ in range(11)]) == [400] * 10 + [429]
        assert log_in(client, password=PASSWORD).status_code == 429
    with coming_from(client, "10.0.0.1"):
        # There as many may be wrong, and no more.
        assert statuses([ann.log_in(), ann.log_in()]) == [200, 200]
        assert statuses([log_in(client) for _ in range(11)]) == [400] * 10 + [429]
    wait_a_window(client)
    # By the other name as well, and only as long as there is a session.
    with coming_from(client, "10.0.0.66"):
        assert statuses([log_in(client, "ann@example.com") for _ in range(11)])[-1] == 429
    with coming_from(client, "10.0.0.1"):
        assert log_in(client, "ann@example.com", PASSWORD).status_code == 200
        assert ann.delete("/sessions").status_code == 204
        assert log_in(client, "ann@example.com", PASSWORD).status_code == 429


@pytest.mark.promise("A35")
def test_guesses_at_the_current_password_are_counted_too(client: TestClient, ann: Person):
    def guess(number: int, password: str = WRONG) -> Any:
        if number % 3 == 0:
            return ann.patch("/users/me", {"email": "other@example.com", "current_password": password})
        if number % 3 == 1:
            return ann.post("/users/me/delete", {"current_password": password})
        return ann.patch("/users/me/password", {"current_password": password, "new_password": "four other words here"})

    assert statuses([guess(number) for number in range(10)]) == [403] * 10
    answers = [guess(number, PASSWORD) for number in range(3)]
    assert statuses(answers) == [429] * 3
    assert {answer.headers["Retry-After"].isdecimal() for answer in answers} == {True}
    assert ann.patch("/users/me", {"full_name": "Ann"}).status_code == ann.log_in().status_code == 200


# One address


@pytest.mark.promise("A39")
def test_who_tries_many_accounts_is_slowed_down_and_others_are_not(start: Callable[..., TestClient]):
    client = start(login_attempts=2)
    ann = sign_up(client, "ann")
    with coming_from(client, "2001:db8:1:2:a::1"):
        assert statuses([log_in(client, f"person{number}") for number in range(10)]) == [400] * 10
        assert statuses([log_in(client, "person10"), ann.log_in()]) == [429, 429]
    with coming_from(client, "2001:db8:1:2:b:c:d:e"):  # all of that is one customer's
        assert log_in(client, "person11", **{"X-Forwarded-For": "192.0.2.1"}).status_code == 429
    with coming_from(client, "2001:db8:1:3::1"):
        assert ann.log_in().status_code == 200


@pytest.mark.promise("A39")
def test_what_one_account_refuses_is_not_held_against_the_office(start: Callable[..., TestClient]):
    client = start(login_attempts=2)
    ann, bob = sign_up(client, "ann"), sign_up(client, "bob")
    # A program with an old password, that does not give up.
    assert set(statuses([log_in(client) for _ in range(30)])) == {400, 429}
    assert (ann.log_in().status_code, bob.log_in().status_code) == (429, 200)


@pytest.mark.once
@pytest.mark.parametrize(
    ("address", "counted"),
    [
        *[("192.0.2.7", "192.0.2.7"), ("::ffff:192.0.2.7", "192.0.2.7"), ("2001:db8:1:2:3::4", "2001:db8:1:2::/64")],
        *[("fe80::1%eth0", "fe80::/64"), ("testclient", "testclient"), (None, ""), ("", "")],
    ],
)
def test_an_address_is_counted_with_those_that_one_person_has(address: str | None, counted: str):
    assert network(address) == counted


@pytest.mark.promise("A36", "A39")
def test_an_address_that_may_be_invented_is_the_same_as_any_other(start: Callable[..., TestClient]):
    # Plain uvicorn believes every program on its machine. Where PROXIES names nobody, nothing vouches for that.
    client = start(login_attempts=2)
    answers = []
    for number in range(12):
        invented = f"192.0.2.{number}"
        with coming_from(client, invented):  # as uvicorn makes it
            answers.append(log_in(client, f"person{number}", **{"X-Forwarded-For": f"{invented}:4711"}))
    assert statuses(answers) == [400] * 10 + [429] * 2


def test_what_a_named_proxy_says_is_an_address(start: Callable[..., TestClient]):
    client = start(login_attempts=2, proxies=("10.0.0.1/32",))
    answers = []
    for number in range(12):
        told = f"192.0.2.{number}"
        with coming_from(client, told):
            answers.append(log_in(client, f"person{number}", **{"X-Forwarded-For": told}))
    assert statuses(answers) == [400] * 12


# Signing up


def ask_to_sign_up(client: TestClient, name: str, **changes: str) -> Any:
    body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
    return client.post("/api/v1/users", json=body | changes)


@pytest.mark.promise("A41")
def test_from_one_address_there_are_twenty_sign_ups_a_minute(client: TestClient):
    answers = [ask_to_sign_up(client, f"person{number % 15}") for number in range(20)]
    assert Counter(statuses(answers)) == {201: 15, 409: 5}
    with busy_lane(client):
        answer = ask_to_sign_up(client, "ann", **{"email": "ann@example.com"})
    assert (answer.status_code, answer.headers["Content-Type"]) == (429, "application/problem+json")
    assert 55 <= int(answer.headers["Retry-After"]) <= 60
    with coming_from(client, "10.0.0.2"):
        assert ask_to_sign_up(client, "ann").status_code == 201
    wait_a_window(client)
    assert ask_to_sign_up(client, "bob").status_code == 201


def test_what_has_no_sign_ups_shape_is_none(start: Callable[..., TestClient]):
    client = start(sign_up_attempts=1)
    assert statuses([ask_to_sign_up(client, "x"), ask_to_sign_up(client, "ann", email="ann")]) == [422, 422]
    assert statuses([ask_to_sign_up(client, "ann"), ask_to_sign_up(client, "bob")]) == [201, 429]


# What is kept


def test_no_word_of_what_was_typed_is_kept(client: TestClient, ann: Person):
    for name in (PASSWORD, "ann@example.com", "o'; DROP TABLE users", "\u9234\u6728" * 100):
        log_in(client, name)
    with client.app.state.session_engine.begin() as connection:  # type: ignore[attr-defined]
        keys = [str(row[0]) for row in connection.execute(text("SELECT key FROM attempts"))]
    assert len(keys) == 6  # theirs, hers, and where they came from
    assert [key for key in keys if len(key) != 64 or not set(key) <= set("0123456789abcdef")] == []


def test_what_was_not_tried_is_given_back(client: TestClient):
    db = client.app.state.database  # type: ignore[attr-defined]

    async def fail(error: Exception) -> str:
        try:
            async with attempt(db, limit(2, "doors")):
                raise error
        except type(error):
            return type(error).__name__

    def one(error: Exception) -> str:
        assert client.portal
        return str(client.portal.call(fail, error))

    for _ in range(3):
        one(Unavailable("Busy."))
    assert [one(Forbidden()), one(TooMany(retry_after=1)), one(Forbidden())] == ["Forbidden", "TooMany", "Forbidden"]
    with pytest.raises(TooMany):
        one(Forbidden())


def test_an_attempt_of_the_last_window_is_not_given_back_to_this_one(client: TestClient):
    db = client.app.state.database  # type: ignore[attr-defined]

    async def count() -> int:
        return (await throttles.count(db, limit(9, "doors"))).count

    async def succeed_late() -> list[int]:
        async with attempt(db, limit(9, "doors")):
            await wait()
            counts = [await count(), await count()]
        return [*counts, await count()]

    async def wait() -> None:
        wait_a_window(client)

    assert client.portal
    assert client.portal.call(succeed_late) == [1, 2, 3]


def test_what_has_ended_is_deleted(client: TestClient, ann: Person):
    db = client.app.state.database  # type: ignore[attr-defined]
    log_in(client)
    assert client.portal
    assert client.portal.call(throttles.prune, db, utcnow() + timedelta(seconds=50)) == 0
    assert client.portal.call(throttles.prune, db, utcnow() + timedelta(seconds=70)) == 3


def test_a_server_forgets_ended_attempts_sessions_and_links_by_itself(start: Callable[..., TestClient], ann: Person):
    log_in(ann.client)
    long_ago = {"then": "2001-01-01 00:00:00"}
    with ann.client.app.state.session_engine.begin() as connection:  # type: ignore[attr-defined]
        connection.execute(text("UPDATE attempts SET ends_at = :then"), long_ago)
        connection.execute(text("UPDATE sessions SET expires_at = :then"), long_ago)
    again = start(history_days=0)

    def left() -> int:
        with again.app.state.session_engine.begin() as connection:  # type: ignore[attr-defined]
            asked = "SELECT (SELECT count(*) FROM attempts) + (SELECT count(*) FROM sessions)"
            return int(connection.execute(text(asked)).scalar_one())

    for _ in range(100):
        if not left():
            break
        time.sleep(0.02)
    assert left() == 0


# Real servers


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Two on one database: one as it should be started, and one by plain uvicorn, which believes this machine."""
    folder = tmp_path_factory.mktemp("throttles")
    with servers_on_one_database(folder, "throttles", SERVE, UVICORN, LOGIN_ATTEMPTS="4") as (_url, started):
        yield started


def from_address(server: Server, address: str, **form: str) -> httpx.Response:
    transport = httpx.HTTPTransport(local_address=address)
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}/api/v1", transport=transport) as http:
        return http.post("/token", data=form)


@pytest.mark.promise("A35", "A36", "A38", "A39")
def test_two_processes_count_together_and_believe_no_forged_header(servers: list[Server]):
    for name in ("ann", "bob"):
        body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
        assert servers[0].http.post("/users", json=body).status_code == 201
    right = {"username": "ann", "password": PASSWORD}
    assert from_address(servers[0], "127.0.0.2", **right).status_code == 200

    def guess(number: int, name: str = "ann") -> int:
        forged = {"X-Forwarded-For": f"192.0.2.{number}:{number}", "X-Forwarded-Proto": "https"}
        form = {"username": name, "password": WRONG}
        return servers[number % 2].http.post("/token", data=form, headers=forged).status_code

    with ThreadPoolExecutor(6) as pool:
        assert Counter(pool.map(guess, range(12))) == {400: 4, 429: 8}
    # Where she is logged in she is not locked out, by either server.
    assert [from_address(server, "127.0.0.2", **right).status_code for server in servers] == [200, 200]
    # Who goes on to other names does not get far: twenty from their own address, and twenty from nobody knows where.
    others = Counter(guess(number, f"person{number}") for number in range(60))
    assert others[400] <= 2 * 20 - 4
    assert others[429] == 60 - others[400]
    assert from_address(servers[0], "127.0.0.3", username="bob", password=PASSWORD).status_code == 200
