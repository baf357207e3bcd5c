"""A user: somebody who can log in. The password is stored hashed, and leaves in no answer."""

import unicodedata
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, EmailStr, SecretStr, StringConstraints
from pydantic import Field as Constraint
from sqlalchemy import Index, text
from sqlmodel import Field, SQLModel

from app.models.base import CLEAN, Closed, Entity, Line, Partial, Row, clean, listed, utcnow
from app.settings import get_settings


def fold(value: str) -> str:
    """One spelling for what is the same to a person, whatever its case and width."""
    # Once more: what is folded can be composed of several characters.
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", clean(value)).casefold())


# No "@" in a name, so that a login can be either and never means two people.
Username = Annotated[
    str,
    StringConstraints(strip_whitespace=True, to_lower=True, pattern=r"^[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?$"),
]


def as_address(value: object) -> object:
    if not isinstance(value, str):
        return value
    if len(value) > 254:  # before anything else: 60,000 combining characters take Unicode three seconds
        raise ValueError("must not be longer than 254 characters")
    if "<" in value:  # pydantic would read "Ann <ann@example.com>", and drop the name
        raise ValueError("must be an e-mail address and nothing else")
    name, at, domain = unicodedata.normalize("NFKC", clean(value)).rpartition("@")
    # Domains have rules of their own (IDNA), which EmailStr applies: there "straße.de" is not "strasse.de".
    return fold(name) + at + domain


# Of any language: RFC 6531.
Email = Annotated[EmailStr, BeforeValidator(as_address), Constraint(json_schema_extra={"format": "idn-email"})]


def as_typed(value: SecretStr) -> SecretStr:
    clean(value.get_secret_value())
    return value


def tell_of_passwords(schema: dict[str, Any]) -> None:
    schema.update(CLEAN, minLength=get_settings().password_min_length)


# A passphrase beats composition rules (NIST SP 800-63B). How long it must be, and what else is asked of it, is said by
# accounts/passwords.py. Bounded as typed, for the hash's sake: 60,000 combining characters take Unicode seconds.
Password = Annotated[
    SecretStr,
    Constraint(max_length=1000, examples=["four plain words together"], json_schema_extra=tell_of_passwords),
    AfterValidator(as_typed),
]


class UserBase(SQLModel):
    username: Username = Field(
        min_length=2,
        max_length=64,
        unique=True,
        sa_column_kwargs=listed("filter", "sort", "search"),
        schema_extra={"examples": ["ann"]},
    )
    email: Email = Field(
        max_length=254,
        unique=True,
        sa_column_kwargs=listed("sort", "search"),
        schema_extra={"examples": ["ann@example.com"]},
    )
    full_name: Line | None = Field(
        default=None, max_length=255, sa_column_kwargs=listed("search"), schema_extra={"examples": ["Ann Archer"]}
    )


class UserCreate(Closed, UserBase):
    password: Password


class AccountCreate(Closed, UserBase):
    """What superusers create, for others."""

    password: Password | None = Field(default=None, description="None: one is generated, and answered.")
    is_superuser: bool = False


class Invitation(Closed, UserBase):
    """An account whose password its user chooses."""


class AccountReset(Closed):
    email: Email | None = Field(
        default=None, max_length=254, description="A new address, if a thief has changed it: mails are a way in."
    )


class UserUpdate(Partial, UserBase):
    """What users may change about themselves. The e-mail is the way back into an account, so it takes the password."""

    current_password: SecretStr = Field(max_length=1000)


class UserRead(UserBase, Row):
    is_active: bool = True
    is_superuser: bool = False
    is_verified: bool = Field(default=False, description="Whether they have shown that the address is theirs.")
    # Not "password_": what holds that word looks like what no answer holds.
    credentials_changed_at: datetime = Field(default_factory=utcnow, description="The last new password.")


class UserWithPassword(UserRead):
    """Shown this once."""

    password: str | None = Field(description="The one that was generated. None: it was given.")


class User(Entity, UserRead, table=True):
    __tablename__ = "users"
    __table_args__ = (
        # Few of many: who is left is asked whenever one goes.
        Index(
            "ix_users_superusers", "id", postgresql_where=text("is_superuser"), sqlite_where=text("is_superuser = 1")
        ),
        {"sqlite_autoincrement": True},
    )
    __owner__ = "id"

    hashed_password: str = Field(max_length=255)


class PasswordProof(Closed):
    current_password: SecretStr = Field(max_length=1000)


class PasswordChange(PasswordProof):
    new_password: Password
