"""A session is a login that lasts: what an access token belongs to, and what its refresh token prolongs.

security.py says how it ends. Only hashes of its refresh token are stored.
"""

from datetime import datetime
from typing import ClassVar

from sqlalchemy import Index
from sqlmodel import Field, SQLModel

from app.models.base import BigId, Entity, Line, Row, utcnow
from app.security import new_stamp


class SessionBase(SQLModel):
    client: Line | None = Field(default=None, max_length=200, description="What logged in, as it calls itself.")
    address: Line | None = Field(default=None, max_length=45, description="From where.")
    scope: str | None = Field(default=None, max_length=2000, description="What it may do. None: all that you may.")
    last_used_at: datetime = Field(default_factory=utcnow, description="When it was last refreshed.")
    expires_at: datetime


class SessionRead(SessionBase, Row):
    owner_id: int = Field(foreign_key="users.id", ondelete="CASCADE", sa_type=BigId)


class LoginSession(Entity, SessionRead, table=True):
    __tablename__ = "sessions"
    __table_args__ = (Index(None, "owner_id", "id"), Index(None, "expires_at"), {"sqlite_autoincrement": True})
    __recorded__: ClassVar = ()  # the history would be full of them

    # Part of its access tokens: whoever holds the signing key alone cannot make one up.
    stamp: int = Field(default_factory=new_stamp, sa_type=BigId)
    # The first part of its refresh token stays, and finds it; the second is spent with each use.
    hashed_family: str = Field(max_length=64, unique=True)
    hashed_refresh: str = Field(max_length=64)
