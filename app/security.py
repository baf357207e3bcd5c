"""Passwords and tokens: what proves who is calling. Nothing here touches the database."""

import asyncio
import hashlib
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeVar

from jose import JWTError, jwt
from passlib.context import CryptContext

from app.errors import Unauthenticated, Unavailable

ALGORITHM = "HS256"
ISSUER = AUDIENCE = "cadre"
PURPOSE = "access"
NOT_VALID = "That token is not valid, or no longer."
REQUIRED = ("exp", "iat", "iss", "aud", "sub")
T = TypeVar("T")
NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")
SUBJECT = re.compile(r"user:([1-9][0-9]{0,15})")
OPTIONS = {f"require_{claim}": True for claim in REQUIRED}


@dataclass(frozen=True, slots=True)
class Identity:
    """What a token says. Whether it still holds is for the database to say, in the same statement that acts."""

    user_id: int
    is_superuser: bool
    security_stamp: int


def create_access_token(identity: Identity, *, key: str, minutes: int) -> str:
    """A signed JWT (RFC 7519) for `identity`, good for `minutes`. It holds no personal data."""
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": f"user:{identity.user_id}",
        "iat": now,
        "exp": now + 60 * minutes,
        "jti": secrets.token_urlsafe(12),
        "purpose": PURPOSE,
        "role": "superuser" if identity.is_superuser else "user",
        "stamp": str(identity.security_stamp),
    }
    return jwt.encode(claims, key, algorithm=ALGORITHM)


def read_access_token(token: str, *, key: str) -> Identity:
    """The identity in a token of ours. Anything else raises Unauthenticated (RFC 8725 lists how tokens lie)."""
    identity, expires = _verify(token, key)
    if time.time() >= expires + 1:
        raise Unauthenticated(NOT_VALID)
    return identity


@lru_cache(4096)
def _verify(token: str, key: str) -> tuple[Identity, int]:
    """Whose it is, and until when. Remembered: the same token comes with every request, and a signature costs 80 us."""
    try:
        # `crit`, `kid` and other algorithms: a header that we did not write is not ours.
        if jwt.get_unverified_header(token) != {"alg": ALGORITHM, "typ": "JWT"}:
            raise Unauthenticated
        claims = jwt.decode(token, key, algorithms=[ALGORITHM], audience=AUDIENCE, issuer=ISSUER, options=OPTIONS)
        # int() alone would read "1_0" and " 1"; python-jose lets a token through that was issued in the future.
        subject, stamp = SUBJECT.fullmatch(claims["sub"]), NUMBER.fullmatch(claims["stamp"])
        if not subject or not stamp or claims["purpose"] != PURPOSE or claims["iat"] > time.time() + 60:
            raise Unauthenticated
        identity = Identity(int(subject[1]), claims["role"] == "superuser", int(stamp[0]))
        return identity, int(claims["exp"])
    except (JWTError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise Unauthenticated(NOT_VALID) from None


def new_security_stamp() -> int:
    """Goes into a user's tokens; a new one ends all the old. 59 random bits."""
    return secrets.randbits(59)


def new_machine_token() -> str:
    """A random token for a machine, to be shown once. Its prefix makes a leaked one recognisable."""
    return f"cadre_{secrets.token_urlsafe(32)}"


def hash_machine_token(token: str) -> str:
    """What is stored. It is random and long, so a plain SHA-256 cannot be guessed back."""
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


class Hasher:
    """Password hashing in a lane of its own: one niced thread and a short queue, so that logins never starve the rest.

    A hash costs some 300 ms of CPU. Take a place before any other work: what would wait behind more than `queue` others
    is refused there.
    """

    def __init__(self, rounds: int = 12, *, threads: int = 1, queue: int = 16) -> None:
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

    async def hash(self, password: str) -> str:
        """The hash to store."""
        return await self._run(self._context.hash, password)

    async def verify(self, password: str, hashed: str | None) -> tuple[bool, str | None]:
        """Whether it is right, and a better hash to store where the old one is outdated. `None` is nobody's hash."""
        return await self._run(self._verify, password, hashed)

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _verify(self, password: str, hashed: str | None) -> tuple[bool, str | None]:
        try:
            right, better = self._context.verify_and_update(password, hashed or self._decoy)
        except (ValueError, TypeError):  # what is stored is no hash, or the password cannot be one's
            return False, None
        # The older schemes ignore a NUL at the end.
        return (right, better) if hashed and "\0" not in password else (False, None)

    async def _run(self, work: Callable[..., T], *args: str | None) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *args)


def _be_nice() -> None:
    # On Linux priority belongs to a thread; elsewhere to the process, which must keep its own.
    if hasattr(os, "sched_getaffinity"):
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 5)
