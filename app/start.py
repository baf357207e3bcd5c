"""What must be true before the first request: the schema is the newest, and in development somebody can log in."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from pydantic import ValidationError

from app import accounts, mail
from app.engine import migrations
from app.engine.caller import Caller
from app.engine.database import connect
from app.engine.hashing import Hasher
from app.errors import CannotStart, Refusal
from app.settings import Settings, get_settings


def say(text: str) -> None:
    """To the person at the terminal, not to the log."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def answer(work: Coroutine[Any, Any, None]) -> None:
    """Run `work`, a command; what is refused ends it with its sentence."""
    try:
        asyncio.run(work)
    except Refusal as refusal:
        raise CannotStart(refusal.detail) from None
    except ValidationError as error:
        raise CannotStart(
            "\n".join(f"{wrong['loc'][0]}: {wrong['msg'].rstrip('.')}." for wrong in error.errors())
        ) from None


def install_capabilities(settings: Settings) -> None:
    """What can go: each is one file and one line here. Delete both, and all else works."""
    mail.install(settings)


def lead_links_to(address: str) -> None:
    """Where the links in mails lead, unless PUBLIC_URL says. In the environment, so that a reload knows it too."""
    if "public_url" not in get_settings().model_fields_set:
        os.environ["PUBLIC_URL"] = address
        get_settings.cache_clear()


async def prepare(settings: Settings) -> None:
    """In development bring everything up to date; elsewhere check. Raises CannotStart with the command to type."""
    install_capabilities(settings)
    if settings.environment == "development":
        migrations.upgrade(settings.database_url)
        await ensure_superuser(settings)
    else:
        require_newest(settings)


def require_newest(settings: Settings) -> None:
    """Raise CannotStart unless the database is at the newest migration."""
    if not migrations.is_at_head(settings.database_url):
        raise CannotStart("The database is not at the newest migration. Run: python3 -m app migrate")


def hasher_for(settings: Settings) -> Hasher:
    """What hashes passwords, and asks of them what the settings say."""
    return Hasher(settings.bcrypt_rounds, shortest=settings.password_min_length, attempts=settings.login_attempts)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[tuple[Caller, Hasher]]:
    """The application itself as a caller, and a hasher, outside of any server."""
    install_capabilities(settings)
    hasher = hasher_for(settings)
    try:
        async with connect(settings.database_url, pgbouncer=settings.pgbouncer) as database:
            yield Caller(database), hasher
    finally:
        hasher.close()


async def ensure_superuser(settings: Settings) -> None:
    """Without one nobody could administer anything. The password is printed once, and stored nowhere."""
    async with opened(settings) as (application, hasher):
        name, email = settings.first_superuser_username, settings.first_superuser_email
        password = await accounts.create_first_superuser(application, hasher, name, email)
    if password:
        say(f"\n  The first superuser is {name}, with the password {password}\n  It is shown only this once.\n")
