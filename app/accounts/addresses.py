"""What takes a mail, since it proves whose an address is: to sign up, to confirm it, to choose a forgotten password.

To ask for a mail is the same work whether or not there is such an account: a letter is queued, and letters.py looks.
"""

from dataclasses import replace

from pydantic import BaseModel

from app.accounts import letters, links
from app.accounts.finding import find
from app.accounts.limits import count_mail
from app.accounts.machines import revoke_machine_tokens
from app.accounts.passwords import hash_new
from app.accounts.profile import set_password
from app.crud import transaction, users
from app.engine.caller import Caller
from app.engine.hashing import Hasher
from app.engine.waiting import retried
from app.errors import Clash
from app.models import Purpose, UserCreate, UserRead
from app.models.user import UserBase

CHOOSES = Purpose.RESET, Purpose.INVITE
CONFIRMS = Purpose.SIGN_UP, Purpose.VERIFY


class Sent(BaseModel):
    """What is answered, whatever the mail will say."""

    detail: str


async def ask_for_account(application: Caller, hasher: Hasher, data: UserCreate) -> Sent:
    """Mail a link that makes the account. Raises Clash if its name is taken; of its address that is told by mail."""
    letters.require_mail()
    if await find(application, "username", data.username):
        raise Clash("That username is taken.")
    hashed = await hash_new(hasher, data.password.get_secret_value(), names=(data.username, data.email))
    account = data.model_dump(exclude={"password"}) | {"hashed_password": hashed}
    await count_mail(application, Purpose.SIGN_UP, data.email)
    await letters.post(application, "sign-up", account=account)
    return Sent(detail="We have sent a mail to that address. Open the link in it within 24 hours.")


async def ask_for_verification(caller: Caller) -> Sent:
    """Mail the caller a link that confirms their address. Raises Clash if it is confirmed, or no mail is sent."""
    letters.require_mail()
    user = await users.get(caller, caller.id)
    if user.is_verified:
        raise Clash("Your address is confirmed already.")
    await count_mail(caller, Purpose.VERIFY, user.email)
    await letters.post(caller, "verify", user_id=user.id)
    return Sent(detail="We have sent a mail to your address. Open the link in it within 24 hours.")


async def ask_for_reset(application: Caller, email: str) -> Sent:
    """Mail a link to choose a new password, if there is such an account. Raises Clash if no mail is sent."""
    letters.require_mail()
    await count_mail(application, Purpose.RESET, email)
    await letters.post(application, "reset", email=email)
    return Sent(detail="If there is an account with that address, we have sent it a mail.")


@retried
async def confirm(application: Caller, secret: str) -> UserRead:
    """The account that the link of a sign-up makes, or whose address it confirms. Raises Ended, and Clash."""
    async with transaction(application) as tx:
        found = await links.take(tx, secret, *CONFIRMS)
        if found.user_id is None:
            hashed = found.data.pop("hashed_password")
            return await users.create(tx, UserBase(**found.data), hashed_password=hashed, is_verified=True)
        user = await users.update(replace(tx, acts_for=found.user_id), found.user_id, is_verified=True)
        return _unless_moved(user, found)


async def reset_password(application: Caller, hasher: Hasher, secret: str, password: str) -> None:
    """Set the password of the account whose link that is, and confirm its address. Raises Ended, and InvalidField.

    Every session ends, and so do machine tokens if the address was not confirmed before.
    """
    found = await links.look(application, secret, *CHOOSES)  # strangers get nothing hashed
    account = await find(application, "id", found.user_id)
    names = [account.username, account.email] if account else []
    hashed = await hash_new(hasher, password, names=names, field="new_password")
    await _choose(application, secret, hashed)


@retried
async def _choose(application: Caller, secret: str, hashed_password: str) -> None:
    async with transaction(application) as tx:
        found = await links.take(tx, secret, *CHOOSES)
        if found.user_id is None:
            raise links.Ended
        tx = replace(tx, acts_for=found.user_id)
        if not (await users.get(tx, found.user_id)).is_verified:
            # Perhaps somebody else made the account, with the address of who now shows that it is theirs.
            await revoke_machine_tokens(tx, found.user_id)
        _unless_moved(await set_password(tx, found.user_id, hashed_password, confirmed=True), found)


def _unless_moved(user: UserRead, found: links.Found) -> UserRead:
    """Asked of the row that is written, and so locked: nobody changes the address between this and the commit."""
    if user.email != found.email or not user.is_active:
        raise links.Ended
    return user
