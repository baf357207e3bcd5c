"""What superusers do about accounts. One of them always is there."""

import secrets

from pydantic import BaseModel, SecretStr
from sqlalchemy import func, select

from app.accounts.logins import end_sessions
from app.accounts.profile import register
from app.crud import standing, transaction, users
from app.engine.caller import Caller
from app.engine.hashing import Hasher
from app.engine.statement import Statement
from app.engine.waiting import retried
from app.errors import CannotStart, Clash
from app.models import Item, User, UserCreate, UserRead

_user = User.__table__.c
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


class Counts(BaseModel):
    users: int
    active_users: int
    superusers: int
    items: int


@retried
async def set_active(caller: Caller, user_id: int, is_active: bool) -> UserRead:
    """Let in, or shut out from the next request on. Raises Forbidden, Missing, and Clash for the last superuser."""
    async with transaction(caller) as tx:
        await _settle_superusers(tx, leaving=None if is_active else user_id)
        user = await users.update(tx, user_id, is_active=is_active)
        await end_sessions(tx, user_id)  # after that, or one more could begin meanwhile
        return user


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
    (await standing.recognise(caller)).require_superuser()


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
