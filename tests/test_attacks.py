"""What somebody tried from outside, and what came of it."""

from datetime import timedelta

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import text

from app.models.base import utcnow
from tests.conftest import PASSWORD

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
