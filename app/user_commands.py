"""`python3 -m app user ...`: what superusers do about accounts, from here, also on the day when nobody can log in.

It is the application itself that acts: the history names nobody.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated

import typer

from app import accounts
from app.crud import machine_tokens, users
from app.engine.caller import Caller
from app.engine.hashing import Hasher
from app.errors import CannotStart, Missing
from app.models import AccountCreate, AccountReset, Invitation, UserRead, UserWithPassword
from app.settings import get_settings
from app.start import answer, opened, require_newest, say

user = typer.Typer(no_args_is_help=True, help="Accounts: who may log in. Also for the day when nobody can.")
PAGE = 1000
Name = Annotated[str, typer.Argument(help="Somebody's username.")]
Email = Annotated[str, typer.Argument(help="Their address.")]
FullName = Annotated[str | None, typer.Option(help="What they are called.")]


@user.command("list")
def list_() -> None:
    """Tell who has an account."""

    async def work(application: Caller, _hasher: Hasher) -> str:
        lines, page = [], [*await users.page(application, limit=PAGE)]
        while page:
            lines += [f"{each.username:<24} {each.email:<32} {standing(each)}".rstrip() for each in page]
            page = await users.page(application, skip=len(lines), limit=PAGE)
        return "\n".join(lines) or "Nobody has an account."

    act(work)


@user.command()
def create(
    name: Name,
    email: Email,
    full_name: FullName = None,
    superuser: Annotated[bool, typer.Option("--superuser", help="Who may do all.")] = False,
) -> None:
    """Create an account. Its password is generated, and printed once."""

    async def work(application: Caller, hasher: Hasher) -> str:
        data = AccountCreate(username=name, email=email, full_name=full_name, is_superuser=superuser)
        made = await accounts.create_account(application, hasher, data)
        return told(made, "is a superuser" if superuser else "has an account")

    act(work)


@user.command()
def invite(name: Name, email: Email, full_name: FullName = None) -> None:
    """Create an account, and mail its user a link to choose the password."""

    async def work(application: Caller, _hasher: Hasher) -> str:
        data = Invitation(username=name, email=email, full_name=full_name)
        invited = await accounts.invite_account(application, data)
        return f"{invited.username} is invited: a mail goes to {invited.email}."

    act(work)


@user.command()
def reset(
    name: Name, email: Annotated[str | None, typer.Option(help="A new address, if a thief has changed it.")] = None
) -> None:
    """Give somebody a new password, printed once. Their sessions and machine tokens end."""

    async def work(application: Caller, hasher: Hasher) -> str:
        data, user_id = AccountReset(email=email), await find(application, name)
        made = await accounts.reset_account(application, hasher, user_id, data.email)
        return told(made, "has a new login")

    act(work)


@user.command()
def activate(name: Name) -> None:
    """Let somebody in again."""
    change(name, "may log in", lambda application, user_id: accounts.set_active(application, user_id, True))


@user.command()
def deactivate(name: Name) -> None:
    """Shut somebody out, from their very next request on. What is theirs stays."""
    change(name, "is shut out", lambda application, user_id: accounts.set_active(application, user_id, False))


@user.command()
def promote(name: Name) -> None:
    """Make somebody a superuser."""
    change(name, "is a superuser", lambda application, user_id: accounts.set_superuser(application, user_id, True))


@user.command()
def demote(name: Name) -> None:
    """Make a superuser an ordinary user, from their very next request on."""
    change(name, "is no superuser", lambda application, user_id: accounts.set_superuser(application, user_id, False))


@user.command()
def delete(
    name: Name, yes: Annotated[bool, typer.Option("--yes", help="You mean it: nothing brings it back.")] = False
) -> None:
    """Delete an account, and what is theirs as its foreign keys say."""
    if not yes:
        raise CannotStart(f"Nothing brings an account back. If you mean it: python3 -m app user delete {name} --yes")
    change(name, "is gone", accounts.delete_account)


@user.command()
def tokens(name: Name) -> None:
    """Tell somebody's machine tokens, each with its number."""

    async def work(application: Caller, _hasher: Hasher) -> str:
        own = await machine_tokens.page(application, owner_id=await find(application, name), limit=PAGE)
        lines = (
            f"{each.id:<6} {each.name:<24} {each.prefix}...  {each.scope or 'all'}, "
            f"last used {each.last_used_at or 'never'}, valid until {each.expires_at or 'it is revoked'}"
            for each in own
        )
        return "\n".join(lines) or f"{name} has no machine tokens."

    act(work)


@user.command()
def revoke(number: Annotated[int, typer.Argument(help="A machine token's, as `user tokens` tells it.", min=1)]) -> None:
    """Revoke a machine token, from its very next request on."""

    async def work(application: Caller, _hasher: Hasher) -> str:
        try:
            await machine_tokens.delete(application, number)
        except Missing:
            raise Missing(f"No machine token has the number {number}.") from None
        return f"Machine token {number} is revoked."

    act(work)


def act(work: Callable[[Caller, Hasher], Awaitable[str]]) -> None:
    """Do it as the application itself, and say what came of it."""

    async def go() -> None:
        require_newest(get_settings())
        async with opened(get_settings()) as (application, hasher):
            say(await work(application, hasher))

    answer(go())


def change(name: str, so: str, to: Callable[[Caller, int], Awaitable[object]]) -> None:
    """Do that to the account of that name."""

    async def work(application: Caller, _hasher: Hasher) -> str:
        await to(application, await find(application, name))
        return f"{name} {so}."

    act(work)


async def find(application: Caller, name: str) -> int:
    return (await accounts.identify(application, name)).user_id


def standing(account: UserRead) -> str:
    parts = {"superuser": account.is_superuser, "shut out": not account.is_active}
    return ", ".join(part for part, is_so in parts.items() if is_so)


def told(account: UserWithPassword, so: str) -> str:
    return f"{account.username} {so}, with the password {account.password}\nIt is shown only this once."
