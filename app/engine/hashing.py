"""Passwords are hashed in a lane of their own, so that logins never starve the rest."""

import asyncio
import os
import secrets
import threading
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import TypeVar

from passlib.context import CryptContext

from app.errors import Unavailable

LONGEST = 1000  # characters, as typed: Unicode takes seconds to compose 60,000

T = TypeVar("T")


def composed(password: str) -> str:
    """The one form of what is the same to a person who types it: composed or not, full-width or not (NFKC).

    Nothing else is touched: case and every space matter. Raises ValueError for more than LONGEST characters.
    """
    if len(password) > LONGEST:
        raise ValueError("That is too long for a password.")
    return unicodedata.normalize("NFKC", password)


class Hasher:
    """One niced thread and a short queue.

    A hash costs some 300 ms of CPU. Take a place before any other work: what would wait behind more than `queue` others
    is refused there. It also knows what the settings say of passwords: how long at least, how many wrong ones a minute.
    """

    def __init__(
        self, rounds: int = 12, *, shortest: int = 15, attempts: int = 10, threads: int = 1, queue: int = 16
    ) -> None:
        self.shortest, self.attempts = shortest, attempts
        # bcrypt_sha256 has no 72-byte cut. The others are accepted, and upgraded at the next login.
        self._context = CryptContext(
            ["bcrypt_sha256", "bcrypt", "django_pbkdf2_sha256"],
            deprecated=["bcrypt", "django_pbkdf2_sha256"],
            bcrypt_sha256__rounds=rounds,
        )
        self._places = queue + threads
        self._taken = 0
        self._executor = ThreadPoolExecutor(threads, "hashing", _be_nice)

    @cached_property
    def _decoy(self) -> str:
        """What a login with an unknown name is checked against, so that it takes as long as any other."""
        return self._context.hash(secrets.token_urlsafe())

    def warm_up(self) -> None:
        """Make the decoy now, in the lane: the first login shall not take longer than the next."""
        self._executor.submit(lambda: self._decoy)

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue, for as long as the block lasts. Raises Unavailable when all are taken."""
        if self._taken >= self._places:
            raise Unavailable("Too many logins at once. Try again in a moment.", retry_after=2)
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    async def hash(self, password: str, *, check: Callable[[str], None] | None = None) -> str:
        """The hash to store. `check` gets the password as it is hashed, in the lane, and may refuse it."""
        return await self._run(self._hash, password, check)

    async def verify(self, password: str, hashed: str | None) -> tuple[bool, str | None]:
        """Whether it is right, and a better hash to store where the old one is outdated. `None` is nobody's hash."""
        return await self._run(self._verify, password, hashed)

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _hash(self, password: str, check: Callable[[str], None] | None) -> str:
        password = composed(password)
        if check:
            check(password)
        return self._context.hash(password)

    def _verify(self, password: str, hashed: str | None) -> tuple[bool, str | None]:
        try:
            right, better = self._context.verify_and_update(composed(password), hashed or self._decoy)
        except (ValueError, TypeError):  # what is stored is no hash, or the password cannot be one's
            return False, None
        # The older schemes ignore a NUL at the end.
        return (right, better) if hashed and "\0" not in password else (False, None)

    async def _run(self, work: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *args)


def _be_nice() -> None:
    # On Linux priority belongs to a thread; elsewhere to the process, which must keep its own.
    if hasattr(os, "sched_getaffinity"):
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 5)
