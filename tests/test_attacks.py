"""What somebody tried from outside, and what came of it."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import text

from app import accounts
from app.crud import machine_tokens, transaction, users
from app.models import MachineTokenCreate
from app.models.base import utcnow
from app.security import Identity
from tests.conftest import PASSWORD, Person, sign_up
from tests.test_admin import two_superusers

MAIL_URL = SecretStr("smtp://127.0.0.1:9")


def log_in(client: TestClient, username: str, password: str = PASSWORD) -> int:
    return client.post("/api/v1/token", data={"username": username, "password": password}).status_code


@pytest.mark.promise("A35", "A38")
def test_a_clock_that_was_wrong_locks_nobody_out(client: TestClient):
    def end_in(time: timedelta) -> None:
        with client.app.state.session_engine.begin() as connection:  # type: ignore[attr-defined]
            connection.execute(text("UPDATE attempts SET ends_at = :then"), {"then": str(utcnow() + time)[:26]})

    assert [log_in(client, "nobody") for _ in range(11)] == [400] * 10 + [429]
    # One that is a little ahead, on another machine, begins nothing anew.
    end_in(timedelta(seconds=100))
    assert log_in(client, "nobody") == 429
    end_in(timedelta(days=9))
    assert [log_in(client, "nobody") for _ in range(11)] == [400] * 10 + [429]


@pytest.mark.promise("A32")
def test_who_is_being_demoted_keeps_no_admin_in_a_machine_token(database_url: str, tmp_path: Path):
    with two_superusers(database_url, tmp_path) as (runner, application, (_root, ann)):

        async def race() -> list[str | None]:
            caller = replace(application, identity=Identity(ann, True))
            data = MachineTokenCreate(name="for later", scope="admin items:read")
            async with transaction(application) as tx:
                attempt = asyncio.create_task(accounts.create_machine_token(caller, data))
                await users.update(tx, ann, is_superuser=False)
                await asyncio.sleep(0.2)
            await attempt
            return [each.scope for each in await machine_tokens.page(application)]

        assert runner.run(race()) == ["items:read"]


def test_no_machine_token_makes_one_that_outlives_it(client: TestClient, ann: Person):
    made = ann.post("/machine_tokens", {"name": "for a day", "days": 1}).json()
    machine = Person(client, "ann", headers={"X-Token": made["token"]})
    ends = [machine.post("/machine_tokens", {"name": "more", "days": days}).json()["expires_at"] for days in (None, 90)]
    assert ends == [made["expires_at"]] * 2
    assert ann.post("/machine_tokens", {"name": "for ever", "days": None}).json()["expires_at"] is None
    # What it may shorten, it shortens.
    endless = Person(
        client, "ann", headers={"X-Token": ann.post("/machine_tokens", {"name": "x", "days": None}).json()["token"]}
    )
    short = endless.post("/machine_tokens", {"name": "short", "days": 2}).json()["expires_at"]
    assert abs(datetime.fromisoformat(short) - utcnow() - timedelta(days=2)) < timedelta(minutes=1)


def test_whatever_a_proxy_calls_an_address_who_is_right_gets_in(client: TestClient, ann: Person):
    transport: Any = client._transport
    transport.client = ("x" * 300, 50000)
    assert log_in(client, "ann") == 200
    assert "x" * 45 in {each["address"] for each in ann.get("/sessions").json()}


@pytest.mark.parametrize("kind", ["reset", "sign-up", "verify"])
def test_nobody_buries_somebody_in_mails(start: Callable[..., TestClient], kind: str):
    client = start(mail_url=MAIL_URL, jobs_in_server=False, sign_up_attempts=1000)
    ann = sign_up(client, "ann")
    numbers = iter(range(100))

    def ask(kind: str) -> Any:
        if kind == "verify":
            return ann.post("/users/me/verification")
        if kind == "reset":
            return client.post("/api/v1/users/password-reset", json={"email": "ann@example.com"})
        body = {"username": f"eve{next(numbers)}", "email": "ann@example.com", "password": PASSWORD}
        return client.post("/api/v1/users", json=body)

    answers = [ask(kind) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [202] * 5 + [429]
    # Until a link that was sent has ended: meanwhile there is one that works.
    assert 1790 <= int(answers[-1].headers["Retry-After"]) <= 1800
    # And one kind does not take the place of another: a stranger who signs her up keeps her from no reset.
    assert {other: ask(other).status_code for other in ("reset", "sign-up", "verify") if other != kind} == {
        other: 202 for other in ("reset", "sign-up", "verify") if other != kind
    }


@pytest.mark.promise("U06")
def test_nobody_tries_one_address_after_the_other_for_their_own(client: TestClient, ann: Person, bob: Person):
    def take(email: str) -> int:
        return ann.patch("/users/me", {"email": email, "current_password": PASSWORD}).status_code

    assert [take(f"ann{number}@example.com") for number in range(4)] == [200] * 4
    assert [take("bob@example.com"), take("nobody@example.com")] == [409, 429]
    # Only what takes a mail: she can change the rest, and others can go on.
    assert ann.patch("/users/me", {"full_name": "Ann"}).status_code == 200
    assert bob.patch("/users/me", {"email": "b@example.com", "current_password": PASSWORD}).status_code == 200
