"""What accounts write to people. Queued in the transaction that is the reason, and written when it is to be sent.

So a link's secret is in its mail and nowhere else: what is queued says only what to write, and to whom.
"""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from pydantic import JsonValue

from app.accounts import links
from app.accounts.finding import Account, find
from app.crud import transaction
from app.engine import jobs
from app.engine.caller import Caller
from app.errors import Clash
from app.models import Purpose

MAIL = "mail"  # the kind of job that sends one


class Letter(NamedTuple):
    """A mail, before there is an address that it comes from."""

    to: str
    subject: str
    text: str
    link: str | None = None  # the one in the text


def are_sent() -> bool:
    """Whether this server sends mails. The capability is app/mail.py; accounts do without it as well."""
    return MAIL in jobs.registered


def require_mail() -> None:
    """Raise Clash where no mail is sent."""
    if not are_sent():
        raise Clash("This server sends no mails. Ask a superuser.")


async def post(tx: Caller, letter: str, **facts: JsonValue) -> None:
    """Queue the letter of that name, if this server sends mails. With the transaction `tx` it is gone again."""
    if are_sent():
        await jobs.enqueue(tx, MAIL, {"letter": letter, **facts})


async def write(caller: Caller, facts: dict[str, Any], *, site: str) -> Letter | None:
    """The letter that was posted with these facts. None if there is nothing to write, or nobody to write to."""
    async with transaction(caller) as tx:
        return await LETTERS[facts["letter"]](tx, facts, site)


async def _reset(tx: Caller, facts: dict[str, Any], site: str) -> Letter | None:
    account = await find(tx, "email", facts["email"])
    return await _linked(tx, Purpose.RESET, account, site) if account and account.is_active else None


async def _about_user(tx: Caller, facts: dict[str, Any], site: str) -> Letter | None:
    account = await find(tx, "id", facts["user_id"])
    return await _linked(tx, Purpose(facts["letter"]), account, site) if account and account.is_active else None


async def _linked(tx: Caller, purpose: Purpose, account: Account, site: str) -> Letter:
    secret = await links.make(tx, purpose, account.email, user_id=account.id)
    return _with_link(purpose, account.email, account.username, secret, site)


async def _sign_up(tx: Caller, facts: dict[str, Any], site: str) -> Letter:
    data = facts["account"]
    if account := await find(tx, "email", data["email"]):
        text = THERE_ALREADY.format(name=account.username, site=site)
        return Letter(account.email, "You have an account already", text)
    secret = await links.make(tx, Purpose.SIGN_UP, data["email"], data=data)
    return _with_link(Purpose.SIGN_UP, data["email"], data["username"], secret, site)


async def _notice(_tx: Caller, facts: dict[str, Any], site: str) -> Letter:
    subject, text = NOTICES[facts["letter"]]
    return Letter(facts["to"], subject, text.format(name=facts["username"], site=site))


def _with_link(purpose: Purpose, to: str, name: str, secret: str, site: str) -> Letter:
    subject, text = LINKED[purpose]
    link = link_to(site, purpose, secret)
    minutes = int(links.LIVES[purpose].total_seconds()) // 60
    time = f"{minutes} minutes" if minutes < 120 else f"{minutes // 60} hours"
    return Letter(to, subject, text.format(name=name, site=site, link=link, time=time), link)


def link_to(site: str, purpose: Purpose, secret: str) -> str:
    # Behind the #: a browser sends it to no server, so it is in no log, and what opens links in mails uses up nothing.
    return f"{site}/account#{'reset' if purpose in (Purpose.RESET, Purpose.INVITE) else 'confirm'}={secret}"


LETTERS: dict[str, Callable[[Caller, dict[str, Any], str], Awaitable[Letter | None]]] = {
    "reset": _reset,
    "sign-up": _sign_up,
    "verify": _about_user,
    "invite": _about_user,
    "password-changed": _notice,
    "email-changed": _notice,
}
LINKED = {
    Purpose.RESET: (
        "Choose a new password",
        """\
Somebody, perhaps you, asked for a new password for the account {name} at {site}.

To choose one, open this within {time}:

{link}

If it was not you, do nothing, and your password stays as it is.
""",
    ),
    Purpose.INVITE: (
        "You have an account",
        """\
There is an account for you at {site}. Its name is {name}.

To choose its password, open this within {time}:

{link}
""",
    ),
    Purpose.VERIFY: (
        "Confirm your address",
        """\
This is the address of the account {name} at {site}.

To confirm that it is yours, open this within {time}:

{link}

If you know of no such account, do nothing.
""",
    ),
    Purpose.SIGN_UP: (
        "Confirm your account",
        """\
Somebody, perhaps you, signed up with this address at {site}. The account would be called {name}.

If it was you, open this within {time}, and the account is there:

{link}

If it was not you, do nothing, and there will be none.
""",
    ),
}
THERE_ALREADY = """\
Somebody, perhaps you, signed up with this address at {site}. There is an account for it already: {name}.

If you do not know its password any more, ask for a new one there.

If it was not you, do nothing. Nothing has changed.
"""
NOTICES = {
    "password-changed": (
        "Your password was changed",
        """\
The password of the account {name} at {site} was changed, and every login has ended.

If it was not you, choose a new password now, and tell those who run {site}.
""",
    ),
    "email-changed": (
        "Your address was changed",
        """\
The account {name} at {site} has another address now. This one gets no more mails.

If it was not you, tell those who run {site} at once.
""",
    ),
}
