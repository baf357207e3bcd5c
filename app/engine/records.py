"""What the engine keeps for itself: every change of every entity, and the answers to requests that had a key."""

from datetime import UTC, datetime

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, String, Table, Text, cast
from sqlmodel import SQLModel
from sqlmodel.sql.sqltypes import UTCDateTime

from app.models.base import BigId
from app.models.types import JsonColumn

#: One row for each change of a row of an entity: what it became, or what it was when it was deleted. See history.py.
changes = Table(
    "changes",
    SQLModel.metadata,
    Column("id", BigId, primary_key=True),
    # All that one transaction changed has one number. Whoever has seen all below a number has missed nothing.
    Column("transaction_id", BigInteger, nullable=False),
    Column("at", UTCDateTime, nullable=False, default=lambda: datetime.now(UTC)),
    Column("entity", String(64), nullable=False),  # its table's name
    Column("row_id", BigInteger, nullable=False),
    Column("whose", BigInteger),  # the row's owner, or its team: who may see this
    Column("action", String(8), nullable=False),  # created, changed, deleted or restored
    Column("user_id", BigInteger),  # who did it; empty for the application itself, and for whom it does not know
    Column("request_id", String(32)),
    Column("image", JsonColumn, nullable=False),
    Index(None, "entity", "row_id", "id"),
    Index(None, "entity", "whose", "transaction_id", "id"),
    Index(None, "transaction_id", "id"),
    sqlite_autoincrement=True,
)

#: As it is read: an image is text on both databases then, with all digits of its numbers.
recorded = [*(column for column in changes.c if column.name != "image"), cast(changes.c.image, Text).label("image")]

#: The first answer to each request that came with an Idempotency-Key. See http/idempotency.py.
keys = Table(
    "idempotency_keys",
    SQLModel.metadata,
    Column("user_id", BigInteger, primary_key=True, autoincrement=False),
    Column("key", String(255), primary_key=True),
    Column("fingerprint", String(64), nullable=False),  # of what was asked
    Column("status", Integer),
    Column("headers", JsonColumn),
    Column("body", LargeBinary),
    Column("expires_at", UTCDateTime, nullable=False),
    Index(None, "expires_at"),
)
