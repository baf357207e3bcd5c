"""How many wrong passwords a minute, for one name and from one address; and how many sign-ups and mails.

The name and the e-mail of an account are counted apart: if they shared a counter, it would tell whose address that is.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Network, ip_address

from sqlalchemy import bindparam, select

from app.accounts.finding import as_stored
from app.accounts.links import LIVES
from app.engine.caller import Caller
from app.engine.hashing import Hasher
from app.engine.statement import Statement
from app.engine.throttles import attempt, count, limit
from app.models import LoginSession, Purpose, User
from app.models.base import utcnow

FROM_ONE_ADDRESS = 5  # times as many as for one name: an office may stand behind it
# Mails of a kind in the time that a link for a new password lives: whoever can ask for no other has one that works.
TO_ONE_ADDRESS, IN = 5, LIVES[Purpose.RESET]

_session, _user = LoginSession.__table__.c, User.__table__.c
_homes = (
    select(_session.address).join(User.__table__, _user.id == _session.owner_id).order_by(_session.id.desc()).limit(100)
)
_HOMES = {
    by: Statement(_homes.where(_user[by] == bindparam("value"), _session.expires_at > bindparam("now")))
    for by in ("username", "email")
}


@asynccontextmanager
async def try_login(application: Caller, login: str, address: str | None, most: int) -> AsyncIterator[None]:
    """An attempt to log in. Raises TooMany, alike for a name that nobody has.

    Where the account is logged in already, attempts are counted apart: what others try elsewhere locks no owner out.
    """
    (by, name), place = as_stored(login), network(address)
    async with attempt(application.db, limit(most * FROM_ONE_ADDRESS, "login from", place)):
        rows = await application.db.run(_HOMES[by], {"value": name, "now": utcnow()})
        is_at_home = place in [network(home) for (home,) in rows if home]
        async with attempt(application.db, limit(most, "login", name, place if is_at_home else "elsewhere")):
            yield


@asynccontextmanager
async def try_own_password(caller: Caller, most: int) -> AsyncIterator[None]:
    """An attempt at the caller's current password. Raises TooMany."""
    async with attempt(caller.db, limit(most, "own password", caller.id)):
        yield


async def count_sign_up(application: Caller, hasher: Hasher, address: str | None, most: int) -> None:
    """One more from there, whatever becomes of it. Raises TooMany, and Unavailable where it could not be served."""
    with hasher.place():
        await count(application.db, limit(most, "sign-up from", network(address)))


async def count_reset(application: Caller, address: str | None, most: int) -> None:
    """One more who has forgotten their password there. Raises TooMany."""
    await count(application.db, limit(most, "reset from", network(address)))


async def count_mail(caller: Caller, purpose: Purpose, email: str) -> None:
    """One more mail to that address, which perhaps its owner did not ask for. Raises TooMany.

    Nor does one account write to many, or ask of many whether somebody has them.
    """
    if caller.identity:
        await count(caller.db, limit(TO_ONE_ADDRESS, "mails of", caller.id, window=IN))
    await count(caller.db, limit(TO_ONE_ADDRESS, "mail to", purpose, email, window=IN))


def network(address: str | None) -> str:
    """An address as it is counted: of IPv6 the /64, all of which one person has. Unknown ones are all the same."""
    try:
        known = ip_address((address or "").partition("%")[0])
    except ValueError:
        return address or ""
    if isinstance(known, IPv4Address):
        return str(known)
    return str(known.ipv4_mapped or IPv6Network((int(known) >> 64 << 64, 64)))
