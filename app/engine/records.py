"""What the engine keeps for itself: changes, answers to requests that had a key, jobs, and counts of attempts."""

from datetime import UTC, datetime

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    Tuple,
    bindparam,
    cast,
    tuple_,
)
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
    # Two indexes, since every write of every entity pays for each. No AUTOINCREMENT: the newest change is never pruned.
    Index(None, "transaction_id", "id"),
)

#: As it is read: an image is text on both databases then, with all digits of its numbers.
recorded = [*(column for column in changes.c if column.name != "image"), cast(changes.c.image, Text).label("image")]

#: Where a change stands in the feed.
place = tuple_(changes.c.transaction_id, changes.c.id)


def position(name: str) -> Tuple:
    """A place that is given, as two bind parameters."""
    return tuple_(*(bindparam(f"{name}_{part}", type_=BigInteger) for part in ("transaction", "id")))


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

#: What is to be done later, by whichever process takes it first. See jobs.py.
jobs = Table(
    "jobs",
    SQLModel.metadata,
    Column("id", BigId, primary_key=True),
    Column("kind", String(64), nullable=False),
    Column("payload", JsonColumn, nullable=False),
    Column("created_at", UTCDateTime, nullable=False),
    # When it may be taken; while somebody has it, when their lease runs out. Empty: it is dead, and waits for a person.
    Column("due_at", UTCDateTime),
    Column("attempts", Integer, nullable=False),
    Column("lease", BigInteger),  # whose it is: a random number of the one who took it
    Column("handed_over_at", UTCDateTime),  # when something was begun that must not be begun twice
    Column("error", String(1000)),  # of the last attempt
    Index(None, "due_at", "id"),
    sqlite_autoincrement=True,
)

#: How often somebody has tried something in the window that ends at that instant. See throttles.py.
attempts = Table(
    "attempts",
    SQLModel.metadata,
    Column("key", String(64), primary_key=True),  # a hash of what is counted
    Column("count", Integer, nullable=False),
    Column("ends_at", UTCDateTime, nullable=False),
    Index(None, "ends_at"),
)
