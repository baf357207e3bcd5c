"""Tokens: what proves who is calling. Nothing here touches the database."""

import hashlib
import re
import secrets
import time
from dataclasses import dataclass
from functools import lru_cache

from jose import JWTError, jwt

from app.errors import Unauthenticated

ALGORITHM = "HS256"
ISSUER = AUDIENCE = "cadre"
PURPOSE = "access"
NOT_VALID = "That token is not valid, or no longer."
REQUIRED = ("exp", "iat", "iss", "aud", "sub")
NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")
# python-jose skips what is not base64: one token would have endless spellings, and each would be remembered.
TOKEN = re.compile(r"[\w-]+\.[\w-]+\.[\w-]{43}", re.ASCII)
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
        if not TOKEN.fullmatch(token) or jwt.get_unverified_header(token) != {"alg": ALGORITHM, "typ": "JWT"}:
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
