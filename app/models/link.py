"""A link in a mail proves that somebody reads what is sent to an address: once, for one purpose, and not for long.

Only the hash of the secret in it is stored.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from pydantic import SecretStr
from sqlalchemy import Table
from sqlmodel import Field, SQLModel

from app.models.base import BigId, Closed, utcnow
from app.models.types import JsonColumn, by_value
from app.models.user import Email, Password


class Purpose(StrEnum):
    SIGN_UP = "sign-up"  # makes the account
    VERIFY = "verify"  # the address is theirs
    RESET = "reset"  # a new password
    INVITE = "invite"  # a first password, for an account that a superuser made


class Link(SQLModel, table=True):
    """No Entity: no caller ever sees one."""

    __tablename__ = "links"
    __table_args__ = ({"sqlite_autoincrement": True},)
    __table__: ClassVar[Table]

    id: int = Field(default=None, primary_key=True, sa_type=BigId)
    created_at: datetime = Field(default_factory=utcnow)
    purpose: Purpose = Field(sa_type=by_value(Purpose))
    user_id: int | None = Field(default=None, foreign_key="users.id", ondelete="CASCADE", index=True, sa_type=BigId)
    email: str = Field(max_length=254)  # where it was sent
    data: dict[str, Any] | None = Field(default=None, sa_type=JsonColumn)  # of a sign-up: what the account will be
    hashed_secret: str = Field(max_length=64, unique=True)
    expires_at: datetime = Field(index=True)


class ResetRequest(Closed):
    email: Email = Field(max_length=254, schema_extra={"examples": ["ann@example.com"]})


class Confirmation(Closed):
    token: SecretStr = Field(min_length=1, max_length=100, description="What stands behind `=` in the link.")


class PasswordReset(Confirmation):
    new_password: Password
