"""What is asked of the database about an account, before it is known who is calling."""

from contextlib import suppress
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import bindparam, select

from app.engine.caller import Caller
from app.engine.logs import safe
from app.engine.statement import Statement
from app.errors import Missing
from app.models import User
from app.models.user import Email, fold
from app.security import Identity

_ADDRESS: TypeAdapter[str] = TypeAdapter(Email)
_user = User.__table__.c
_account = select(_user.id, _user.username, _user.email, _user.is_superuser, _user.is_active, _user.hashed_password)
_BY = {name: Statement(_account.where(_user[name] == bindparam("value"))) for name in ("id", "username", "email")}


class Account(NamedTuple):
    """What logging in asks of the database."""

    id: int
    username: str
    email: str
    is_superuser: bool
    is_active: bool
    hashed_password: str


async def find(caller: Caller, by: str, value: object) -> Account | None:
    """The account with that `id`, `username` or `email`, folded."""
    rows = await caller.db.run(_BY[by], {"value": value})
    return Account(*rows[0]) if rows else None


async def find_login(caller: Caller, login: str) -> Account | None:
    """The account with that username or e-mail, however it is written."""
    return await find(caller, *as_stored(login))


def as_stored(login: str) -> tuple[str, str]:
    """Whether somebody typed a `username` or an `email`, and its one spelling."""
    name = fold(login.strip())
    if "@" not in name:
        return "username", name
    with suppress(ValidationError):  # what is no address is nobody's
        return "email", _ADDRESS.validate_python(login)
    return "email", name


async def identify(application: Caller, username: str) -> Identity:
    """Who is called that, vouched for by our own code: no login is behind it. Raises Missing."""
    name = ""
    with suppress(ValueError):  # what holds control characters is no name
        name = fold(username)
    account = await find(application, "username", name)
    if not account:
        raise Missing(f"Nobody is called {safe(username)}.")
    return Identity(account.id, bool(account.is_superuser))
