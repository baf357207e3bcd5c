"""What superusers do about accounts. One of them always is there."""

import secrets

from pydantic import BaseModel
from sqlalchemy import bindparam, delete, func, select

from app.accounts import letters
from app.accounts.logins import end_sessions
from app.accounts.machines import revoke_machine_tokens
from app.accounts.passwords import hash_new
from app.accounts.profile import confirm_password, set_password
from app.crud import standing, transaction, users
from app.engine.caller import Caller
from app.engine.hashing import Hasher
from app.engine.records import keys
from app.engine.statement import Row, Statement
from app.engine.waiting import retried
from app.errors import CannotStart, Clash
from app.models import AccountCreate, Invitation, Item, User, UserRead, UserWithPassword
from app.models.user import UserBase

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
# Answers that are kept for a while, in case that a request is sent again.
_FORGET_ANSWERS = Statement(delete(keys).where(keys.c.user_id == bindparam("value")).returning(keys.c.key))

NO_PASSWORD = ""  # no password is right, and to try one takes as long as any other login


class Counts(BaseModel):
    users: int
    active_users: int
    superusers: int
    items: int


async def create_account(caller: Caller, hasher: Hasher, data: AccountCreate) -> UserWithPassword:
    """An account for somebody. A generated password is told here and never again. Raises Forbidden, and Clash."""
    if data.password is None:
        generated = new_password()
        hashed = await _hash(hasher, generated)
    else:
        generated = None
        hashed = await hash_new(hasher, data.password.get_secret_value(), names=(data.username, data.email))
    return _told(await _create(caller, data, hashed, is_superuser=data.is_superuser), generated)


@retried
async def invite_account(caller: Caller, data: Invitation) -> UserRead:
    """An account whose password its user chooses, by a link in a mail. Raises Forbidden, and Clash."""
    if not letters.are_sent():
        raise Clash("This server sends no mails: create the account instead, and tell its user the password.")
    async with transaction(caller) as tx:
        await _settle_superusers(tx)
        user = await users.create(tx, data, hashed_password=NO_PASSWORD)
        await letters.post(tx, "invite", user_id=user.id)
        return user


async def reset_account(caller: Caller, hasher: Hasher, user_id: int, email: str | None = None) -> UserWithPassword:
    """A generated password, told here and never again, for who has lost theirs, or has lost the account to a thief.

    Their sessions and machine tokens end; `email` takes the place of an address that is the thief's. Raises Forbidden,
    Missing, and Clash.
    """
    generated = new_password()
    return _told(await _reset(caller, user_id, await _hash(hasher, generated), email), generated)


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


@retried
async def delete_account(caller: Caller, user_id: int) -> None:
    """Gone, from the next request on. What becomes of what is theirs, each foreign key says: docs/relations.md.

    Raises Forbidden, Missing, and Clash for the last superuser, and for who has what must not go.
    """
    async with transaction(caller) as tx:
        await _settle_superusers(tx, leaving=user_id)
        await _delete(tx, user_id)


async def delete_own_account(caller: Caller, hasher: Hasher, password: str) -> None:
    """The same for the caller's own. Raises Forbidden unless that is their password."""
    await confirm_password(caller, hasher, password)
    await _leave(caller)


@retried
async def _create(caller: Caller, data: UserBase, hashed_password: str, *, is_superuser: bool) -> UserRead:
    async with transaction(caller) as tx:
        await _settle_superusers(tx)
        return await users.create(tx, data, hashed_password=hashed_password, is_superuser=is_superuser)


@retried
async def _reset(caller: Caller, user_id: int, hashed_password: str, email: str | None) -> UserRead:
    async with transaction(caller) as tx:
        await _settle_superusers(tx)
        if email:
            await users.update(tx, user_id, email=email, is_verified=False)
        user = await set_password(tx, user_id, hashed_password)
        await revoke_machine_tokens(tx, user_id)
        return user


@retried
async def _leave(caller: Caller) -> None:
    async with transaction(caller) as tx:
        _refuse_last(await tx.db.run(_SUPERUSERS, {}), leaving=caller.id)
        await _delete(tx, caller.id)


async def _delete(tx: Caller, user_id: int) -> None:
    await users.delete(tx, user_id)
    await tx.db.run(_FORGET_ANSWERS, {"value": user_id})


async def _settle_superusers(tx: Caller, *, leaving: int | None = None) -> None:
    # Lock first, then ask: a superuser who is being demoted must not promote anybody while that is under way.
    superusers = await tx.db.run(_SUPERUSERS, {})
    await require_superuser(tx)
    _refuse_last(superusers, leaving=leaving)


def _refuse_last(superusers: list[Row], *, leaving: int | None) -> None:
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
        data = AccountCreate(username=username, email=email, is_superuser=True)
        return (await create_account(application, hasher, data)).password
    except Clash:
        if not await application.db.run(_SUPERUSERS, {}):
            raise CannotStart(
                "No superuser, and that name is taken. Run: python3 -m app superuser NAME EMAIL"
            ) from None
        return None


def new_password() -> str:
    """A random one that can be read out and typed: 99 bits in groups of five letters."""
    plain = "abcdefghjkmnpqrstuvwxyz23456789"
    return "-".join("".join(secrets.choice(plain) for _ in range(5)) for _ in range(4))


async def _hash(hasher: Hasher, password: str) -> str:
    with hasher.place():
        return await hasher.hash(password)


def _told(user: UserRead, password: str | None) -> UserWithPassword:
    return UserWithPassword.model_construct(**dict(user), password=password)
