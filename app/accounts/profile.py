"""What people do about their own account: sign up, change it, change its password."""

from typing import Any

from app.accounts import letters, links
from app.accounts.finding import Account, find
from app.accounts.limits import count_mail, try_own_password
from app.accounts.logins import end_sessions
from app.accounts.passwords import hash_new
from app.crud import standing, transaction, users
from app.engine.caller import Caller
from app.engine.hashing import Hasher
from app.engine.waiting import retried
from app.errors import Forbidden
from app.models import PasswordChange, Purpose, UserCreate, UserRead, UserUpdate
from app.models.base import utcnow


async def register(application: Caller, hasher: Hasher, data: UserCreate, *, is_superuser: bool = False) -> UserRead:
    """A new account. Raises Clash if its name or address is taken, and InvalidField for a password that is not good."""
    # Hashed before the database is asked for anything: nobody waits for a lock meanwhile.
    hashed = await hash_new(hasher, data.password.get_secret_value(), names=(data.username, data.email))
    return await users.create(application, data, hashed_password=hashed, is_superuser=is_superuser)


async def confirm_password(caller: Caller, hasher: Hasher, password: str) -> Account:
    """The caller's account, if that is its password: whoever found an open browser shall not take it.

    Raises Forbidden if it is not, and TooMany.
    """
    with hasher.place():
        await standing.recognise(caller)  # a token that no longer holds must not learn whether a password is right
        async with try_own_password(caller, hasher.attempts):
            account = await find(caller, "id", caller.id)
            right, _ = await hasher.verify(password, account and account.hashed_password)
            if not account or not right:
                raise Forbidden("The current password is wrong.")
    return account


async def update_account(
    caller: Caller, hasher: Hasher, changes: UserUpdate, *, version: int | None = None
) -> UserRead:
    """What users change about themselves. Raises Forbidden for a new e-mail without the current password, and Stale."""
    if "email" not in changes.model_fields_set:
        return await users.update(caller, caller.id, changes, version=version)
    sent = "current_password" in changes.model_fields_set
    await confirm_password(caller, hasher, changes.current_password.get_secret_value() if sent else "")
    await count_mail(caller, Purpose.VERIFY, changes.email)
    return await _update_address(caller, changes, version)


@retried
async def _update_address(caller: Caller, changes: UserUpdate, version: int | None) -> UserRead:
    """A new address is not confirmed. The old one is told, in case that it was a thief."""
    async with transaction(caller) as tx:
        before = await users.get(tx, caller.id)
        if changes.email == before.email:
            return await users.update(tx, caller.id, changes, version=version)
        user = await users.update(tx, caller.id, changes, version=version, is_verified=False)
        await letters.post(tx, "email-changed", to=before.email, username=user.username)
        await letters.post(tx, "verify", user_id=user.id)
        return user


async def change_password(caller: Caller, hasher: Hasher, data: PasswordChange) -> None:
    """Ends every session; machine tokens stay. Raises Forbidden if the current password is wrong, and InvalidField."""
    account = await confirm_password(caller, hasher, data.current_password.get_secret_value())
    new, names = data.new_password.get_secret_value(), (account.username, account.email)
    hashed = await hash_new(hasher, new, names=names, field="new_password")
    await set_password(caller, caller.id, hashed)


@retried
async def set_password(caller: Caller, user_id: int, hashed_password: str, *, confirmed: bool = False) -> UserRead:
    """From now on that is the password; every session has ended, and so have links to choose one. Tells them by mail.

    `confirmed`: they have shown that the account's address is theirs.
    """
    new: dict[str, Any] = {"hashed_password": hashed_password, "credentials_changed_at": utcnow()}
    async with transaction(caller) as tx:
        user = await users.update(tx, user_id, **(new | {"is_verified": True} if confirmed else new))
        await end_sessions(tx, user_id)
        await links.forget(tx, user_id, Purpose.RESET, Purpose.INVITE)
        await letters.post(tx, "password-changed", to=user.email, username=user.username)
        return user
