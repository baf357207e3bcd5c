"""How many wrong passwords a minute, for one name and from one address; and how many sign-ups and mails.

The name and the e-mail of an account are counted apart: if they shared a counter, it would tell whose address that is.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Network, ip_address

from sqlalchemy import bindparam, select

from app.accounts.finding import as_stored, find_login
from app.engine.caller import Caller
from app.engine.hashing import Hasher
from app.engine.statement import Statement
from app.engine.throttles import Limit, attempt, count, limit
from app.models import LoginSession
from app.models.base import utcnow

FROM_ONE_ADDRESS = 5  # times as many as for one name: an office may stand behind it
TO_ONE_ADDRESS = 5  # mails

_session = LoginSession.__table__.c
_HOMES = Statement(
    select(_session.address)
    .where(_session.owner_id == bindparam("value"), _session.expires_at > bindparam("now"))
    .order_by(_session.id.desc())
    .limit(100)
)


@asynccontextmanager
async def try_login(application: Caller, login: str, address: str | None, most: int) -> AsyncIterator[None]:
    """An attempt to log in. Raises TooMany: before the account is looked at, and alike for a name that nobody has.

    What others try elsewhere does not lock an owner out where they are logged in already: there it has its own limit.
    """
    name, place = as_stored(login), network(address)

    async def at_home() -> Limit | None:
        account = await find_login(application, login)
        values = {"value": account.id if account else 0, "now": utcnow()}
        homes = [network(home) for (home,) in await application.db.run(_HOMES, values) if home]
        return limit(most, "login at home", name, place) if place in homes else None

    from_here = attempt(application.db, limit(most * FROM_ONE_ADDRESS, "login from", place))
    async with from_here, attempt(application.db, limit(most, "login", name), otherwise=at_home):
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


async def count_mail(caller: Caller, email: str) -> None:
    """One more mail to that address, which perhaps its owner did not ask for. Raises TooMany."""
    await count(caller.db, limit(TO_ONE_ADDRESS, "mail to", email))


def network(address: str | None) -> str:
    """An address as it is counted: of IPv6 the /64, all of which one person has. Unknown ones are all the same."""
    try:
        known = ip_address((address or "").partition("%")[0])
    except ValueError:
        return address or ""
    if isinstance(known, IPv4Address):
        return str(known)
    return str(known.ipv4_mapped or IPv6Network((int(known) >> 64 << 64, 64)))
