"""A database that all contenders get a copy of: 200 users, 100 000 items, made by the checkout's own migrations.

Item 1 belongs to user 1, item 2 to user 2, and so on in turn, so that an owner follows from an id and a list's rows
lie scattered. Run in the checkout whose app shall use the database: `python seed.py URL` prints the users' tokens.
"""

import json
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))

from passlib.context import CryptContext
from sqlalchemy import NullPool, create_engine, insert, text

from app.engine import migrations
from app.models import Item, LoginSession, User
from app.security import Identity, create_access_token

USERS, ITEMS = 200, 100_000
PASSWORD, ROUNDS = "four plain words together", 12  # what a login costs is real
STAMP, DAY = 7, 24 * 60  # minutes: a token outlives the run
BEGAN = datetime(2026, 1, 1, 12, 0, 0, 123457, tzinfo=UTC)


def main(url: str) -> None:
    migrations.upgrade(url)
    hashed = CryptContext(["bcrypt_sha256"], bcrypt_sha256__rounds=ROUNDS).hash(PASSWORD)
    users = [
        {
            "id": number,
            "username": f"user{number}",
            "email": f"user{number}@example.com",
            "full_name": f"User Number {number}",
            "hashed_password": hashed,
            **stamps(number),
        }
        for number in range(1, USERS + 1)
    ]
    sessions = [
        {
            "owner_id": user["id"],
            "stamp": STAMP,
            "hashed_family": f"family {user['id']}",
            "hashed_refresh": "none",
            "expires_at": datetime(2100, 1, 1, tzinfo=UTC),
        }
        for user in users
    ]
    items = [
        {
            "id": number,
            "title": f"Item {number}",
            "description": f"What there is to say about item {number}.",
            "owner_id": (number - 1) % USERS + 1,
            **stamps(number),
        }
        for number in range(1, ITEMS + 1)
    ]
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(insert(User), users)
        connection.execute(insert(LoginSession), sessions)
        connection.execute(insert(Item), items)
        if connection.dialect.name == "postgresql":
            for table in ("users", "items"):
                connection.execute(
                    text(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table}")
                )
    key = os.environ["SECRET_KEY"]
    tokens = [
        create_access_token(Identity(user["id"], False, user["id"], STAMP), keys=[key], minutes=DAY)  # type: ignore[arg-type]
        for user in users
    ]
    sys.stdout.write(json.dumps(tokens))


def stamps(number: int) -> dict[str, object]:
    at = BEGAN + timedelta(seconds=number)
    return {"created_at": at, "updated_at": at}


if __name__ == "__main__":
    main(sys.argv[1])
