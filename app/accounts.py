"""Accounts: signing up, logging in, and who is a superuser. One of them always is."""

import secrets
from contextlib import suppress
from typing import NamedTuple

from pydantic import BaseModel, SecretStr
from sqlalchemy import bindparam, func, select

from app.crud import machine_tokens, standing, transaction, users
from app.engine.caller import Caller
from app.engine.hashing import Hasher
from app.engine.statement import Statement
from app.engine.waiting import retried
from app.errors import CannotStart, Clash, Forbidden, Missing, NoToken, Stale, Unauthenticated, Unavailable
from app.models import (
    Item,
    MachineToken,
    MachineTokenCreate,
    MachineTokenRead,
    PasswordChange,
    User,
    UserCreate,
    UserRead,
    UserUpdate,
)
from app.models.user import fold
from app.security import Identity, hash_machine_token, new_machine_token, new_security_stamp

# Every statement of this file: compiled once, run on whichever database is asked.
_user, _token = User.__table__.c, MachineToken.__table__.c
_account = select(
    _user.id, _user.is_superuser, _user.security_stamp, _user.is_active, _user.hashed_password, _user.version
)
_BY = {name: Statement(_account.where(_user[name] == bindparam("value"))) for name in ("id", "username", "email")}
_BY["machine token"] = Statement(
    _account.join_from(User, MachineToken).where(_token.hashed_token == bindparam("value"), _user.is_active)
)
# Locked, so that two superusers who demote each other at the same moment cannot both succeed.
_SUPERUSERS = Statement(
    select(_user.id).where(_user.is_superuser, _user.is_active).order_by(_user.id).with_for_update()
)
_COUNTS = Statement(
    select(
        select(func.count()).select_from(User).scalar_subquery(),
        select(func.count()).select_from(User).where(_user.is_active).scalar_subquery(),
        select(func.count()).select_from(User).where(_user.is_superuser).scalar_subquery(),
        select(func.count()).select_from(Item).scalar_subquery(),
    ),
    unbounded=True,
)


class Account(NamedTuple):
    """What logging in asks of the database."""

    id: int
    is_superuser: bool
    security_stamp: int
    is_active: bool
    hashed_password: str
    version: int

    @property
    def identity(self) -> Identity:
        return Identity(self.id, bool(self.is_superuser), self.security_stamp)


class Counts(BaseModel):
    users: int
    active_users: int
    superusers: int
    items: int


async def register(application: Caller, hasher: Hasher, data: UserCreate, *, is_superuser: bool = False) -> UserRead:
    """A new account. Raises Clash if its name or address is taken."""
    # Hashed before the database is asked for anything: nobody waits for a lock meanwhile.
    with hasher.place():
        hashed = await hasher.hash(data.password.get_secret_value())
    return await users.create(application, data, hashed_password=hashed, is_superuser=is_superuser)


async def log_in(application: Caller, hasher: Hasher, login: str, password: str, *, upgrade: bool = True) -> Identity:
    """Who that is, by username or e-mail. Raises NoToken, alike and in like time whatever was wrong.

    With `upgrade`, an outdated hash is replaced.
    """
    with hasher.place():
        account = await _find(application, "email" if "@" in login else "username", fold(login.strip()))
        right, better = await hasher.verify(password, account and account.hashed_password)
    if not account or not right or not account.is_active:
        raise NoToken("invalid_grant", "Wrong username or password.")
    if better and upgrade:
        # It can wait for the next login. With the version: a password changed meanwhile must not come back.
        with suppress(Missing, Stale, Unavailable):
            await users.update(application, account.id, hashed_password=better, version=account.version)
    return account.identity


async def identify_machine(application: Caller, token: str) -> Identity:
    """Whom a machine token belongs to. Raises Unauthenticated if nobody active."""
    account = await _find(application, "machine token", hash_machine_token(token))
    if not account:
        raise Unauthenticated("That X-Token is not valid, or no longer.")
    return account.identity


async def identify(application: Caller, username: str) -> Identity:
    """Who is called that. Raises Missing."""
    account = await _find(application, "username", fold(username))
    if not account:
        raise Missing(f"Nobody is called {username}.")
    return account.identity


async def create_machine_token(application: Caller, username: str, name: str) -> tuple[MachineTokenRead, str]:
    """A token for a program that acts as `username`, and what it says: shown here, and never again. Raises Missing."""
    owner, token = await identify(application, username), new_machine_token()
    data = MachineTokenCreate(name=name)
    row = await machine_tokens.create(application, data, owner_id=owner.user_id, hashed_token=hash_machine_token(token))
    return row, token


async def _find(caller: Caller, by: str, value: object) -> Account | None:
    rows = await caller.db.run(_BY[by], {"value": value})
    return Account(*rows[0]) if rows else None


async def confirm_password(caller: Caller, hasher: Hasher, password: str) -> None:
    """Raise Forbidden unless it is the caller's: whoever found an open browser shall not take the account."""
    with hasher.place():
        await standing.recognise(caller)  # a token that no longer holds must not learn whether a password is right
        account = await _find(caller, "id", caller.id)
        right, _ = await hasher.verify(password, account and account.hashed_password)
    if not right:
        raise Forbidden("The current password is wrong.")


async def update_account(
    caller: Caller, hasher: Hasher, changes: UserUpdate, *, version: int | None = None
) -> UserRead:
    """What users change about themselves. Raises Forbidden for a new e-mail without the current password, and Stale."""
    if "email" in changes.model_fields_set:
        sent = "current_password" in changes.model_fields_set
        await confirm_password(caller, hasher, changes.current_password.get_secret_value() if sent else "")
    return await users.update(caller, caller.id, changes, version=version)


async def change_password(caller: Caller, hasher: Hasher, data: PasswordChange) -> None:
    """Ends every login given out before; machine tokens stay. Raises Forbidden if the current password is wrong."""
    await confirm_password(caller, hasher, data.current_password.get_secret_value())
    with hasher.place():
        hashed = await hasher.hash(data.new_password.get_secret_value())
    await users.update(caller, caller.id, hashed_password=hashed, security_stamp=new_security_stamp())


@retried
async def set_active(caller: Caller, user_id: int, is_active: bool) -> UserRead:
    """Let in, or shut out from the next request on. Raises Forbidden, Missing, and Clash for the last superuser."""
    async with transaction(caller) as tx:
        await _settle_superusers(tx, leaving=None if is_active else user_id)
        return await users.update(tx, user_id, is_active=is_active, security_stamp=new_security_stamp())


@retried
async def set_superuser(caller: Caller, user_id: int, is_superuser: bool) -> UserRead:
    """Promote or demote, from the very next request on. Raises Forbidden, Missing, and Clash for the last superuser."""
    async with transaction(caller) as tx:
        await _settle_superusers(tx, leaving=None if is_superuser else user_id)
        return await users.update(tx, user_id, is_superuser=is_superuser)


async def _settle_superusers(tx: Caller, *, leaving: int | None) -> None:
    # Lock first, then ask: a superuser who is being demoted must not promote themselves while that is under way.
    superusers = await tx.db.run(_SUPERUSERS, {})
    await require_superuser(tx)
    if superusers == [(leaving,)]:
        raise Clash("That is the last active superuser, and then nobody could undo it. Promote somebody else first.")


async def require_superuser(caller: Caller) -> None:
    """Raise Forbidden unless the caller is one now, whatever their token says."""
    if (await standing.recognise(caller)).role == "user":
        raise Forbidden("That is for superusers.")


async def count(caller: Caller) -> Counts:
    """How many there are of what."""
    await require_superuser(caller)
    (row,) = await caller.db.run(_COUNTS, {})
    return Counts(**dict(zip(Counts.model_fields, row, strict=True)))


async def create_first_superuser(application: Caller, hasher: Hasher, username: str, email: str) -> str | None:
    """The generated password of a new superuser, or None if there is one already, or another server was faster."""
    if await application.db.run(_SUPERUSERS, {}):
        return None
    try:
        return (await create_superuser(application, hasher, username, email))[1]
    except Clash:
        if not await application.db.run(_SUPERUSERS, {}):
            raise CannotStart(
                "No superuser, and that name is taken. Run: python3 -m app superuser NAME EMAIL"
            ) from None
        return None


async def create_superuser(application: Caller, hasher: Hasher, username: str, email: str) -> tuple[UserRead, str]:
    """A new superuser and their generated password. Raises Clash, or ValidationError for a bad name or address."""
    password = new_password()
    data = UserCreate(username=username, email=email, password=SecretStr(password))
    return await register(application, hasher, data, is_superuser=True), password


def new_password() -> str:
    """A random one that can be read out and typed: 99 bits in groups of five letters."""
    letters = "abcdefghjkmnpqrstuvwxyz23456789"
    return "-".join("".join(secrets.choice(letters) for _ in range(5)) for _ in range(4))
