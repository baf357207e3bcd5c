"""Tokens: what proves who is calling. Nothing here touches the database.

There are four. Each is for one thing, and ends:

- an **access token** goes with every request of somebody who has logged in. It is signed, lasts for minutes, and ends
  with its session, or when the key that signed it is in no setting any more.
- a **refresh token** gets the next access token of a session, and the next refresh token. It is spent with that, and
  ends with its session.
- a **machine token** goes with every request of a program, in X-Token. It ends when it expires or is revoked, when a
  superuser resets the account of its user, and with that account.
- a **link's secret** was mailed to somebody's address, for one purpose. It ends when it is used, after minutes or
  hours, and when the account gets another address.

A **session** is a login. It ends by logging out, by a new password, when its user is shut out or deleted, and when a
refresh token of it comes twice. Some days after it began nothing refreshes it.

The last three of the four are random, and the database keeps a hash of each. Whether a token still holds, each
statement asks the database, so what has ended is refused from the very next request on.
"""

import hashlib
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from jose import JWTError, jwt

from app.errors import Unauthenticated

ALGORITHM = "HS256"
ISSUER = AUDIENCE = "cadre"
PURPOSE = "access"
NOT_VALID = "That token is not valid, or no longer."
REQUIRED = ("exp", "iat", "iss", "aud", "sub")
NUMBER = re.compile(r"[1-9][0-9]{0,17}")
# python-jose skips what is not base64: one token would have endless spellings, and each would be remembered.
TOKEN = re.compile(r"[\w-]+\.[\w-]+\.[\w-]{43}", re.ASCII)
SUBJECT = re.compile(r"user:([1-9][0-9]{0,15})")
OPTIONS = {f"require_{claim}": True for claim in REQUIRED}
# What a token begins with, so that a leaked one is recognised, and says what it is.
MACHINE, REFRESH, LINK = "cadre_", "cadre-refresh_", "cadre-link_"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a token says. Whether it still holds is for the database to say, in the same statement that acts.

    Without a session or a machine token it is one that our own code vouches for: no token from outside lacks both.
    """

    user_id: int
    is_superuser: bool
    session_id: int | None = None
    stamp: int | None = None  # the session's secret
    machine_token_id: int | None = None
    scopes: frozenset[str] | None = None  # None: all that the user may do


def create_access_token(identity: Identity, *, keys: Sequence[str], minutes: int) -> str:
    """A signed JWT (RFC 7519) for the `identity` of a session, good for `minutes`. It holds no personal data.

    Signed with the first of `keys`.
    """
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
        "sid": str(identity.session_id),
        "stamp": str(identity.stamp),
    }
    if identity.scopes is not None:
        claims["scope"] = " ".join(sorted(identity.scopes))
    return jwt.encode(claims, keys[0], algorithm=ALGORITHM, headers={"kid": key_id(keys[0])})


def read_access_token(token: str, *, keys: tuple[str, ...]) -> Identity:
    """The identity in a token signed with one of `keys`. Anything else raises Unauthenticated.

    RFC 8725 lists how tokens lie.
    """
    identity, expires = _verify(token, keys)
    if time.time() >= expires + 1:
        raise Unauthenticated(NOT_VALID)
    return identity


@lru_cache(4096)
def _verify(token: str, keys: tuple[str, ...]) -> tuple[Identity, int]:
    """Whose it is, and until when. Remembered: the same token comes with every request, and a signature costs 80 us."""
    try:
        if not TOKEN.fullmatch(token):
            raise Unauthenticated
        header = jwt.get_unverified_header(token)
        key = {key_id(key): key for key in keys}[header["kid"]]
        # `crit`, other algorithms: a header that we did not write is not ours.
        if header != {"alg": ALGORITHM, "typ": "JWT", "kid": key_id(key)}:
            raise Unauthenticated
        claims = jwt.decode(token, key, algorithms=[ALGORITHM], audience=AUDIENCE, issuer=ISSUER, options=OPTIONS)
        # int() alone would read "1_0" and " 1"; python-jose lets a token through that was issued in the future.
        subject, session, stamp = (
            SUBJECT.fullmatch(claims["sub"]),
            NUMBER.fullmatch(claims["sid"]),
            NUMBER.fullmatch(claims["stamp"]),
        )
        if not (subject and session and stamp) or claims["purpose"] != PURPOSE or claims["iat"] > time.time() + 60:
            raise Unauthenticated
        scopes = frozenset(claims["scope"].split()) if "scope" in claims else None
        is_superuser = claims["role"] == "superuser"
        identity = Identity(int(subject[1]), is_superuser, int(session[0]), int(stamp[0]), scopes=scopes)
        return identity, int(claims["exp"])
    except (JWTError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise Unauthenticated(NOT_VALID) from None


@lru_cache(64)
def key_id(key: str) -> str:
    """What a key is called in the header of the tokens that it signs (`kid`, RFC 7515). It tells nothing of the key."""
    return hashlib.sha256(b"kid:" + key.encode()).hexdigest()[:16]


def new_stamp() -> int:
    """Goes into a session's access tokens. 59 random bits."""
    return secrets.randbits(59) | 1


def new_secret(prefix: str) -> str:
    """A random token of 256 bits, to be shown once."""
    return prefix + secrets.token_urlsafe(32)


def hashed(secret: str) -> str:
    """What is stored of a token. It is random and long, so a plain SHA-256 cannot be guessed back."""
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
