"""Scopes: what a token may do of all that its user may. Each entity has two, to read and to write, and one is `admin`.

A token without scopes may do all. Routes declare theirs, for /docs and for a clear refusal; the verbs ask as well, so
no route forgets: to read a row takes its entity's scope, whichever route it is read by.
"""

from collections.abc import Iterable

from app.errors import InsufficientScope, Invalid
from app.security import Identity

ADMIN = "admin"
#: Every scope there is, and what it allows: two for each entity that has verbs, and what routes declare besides.
known = {ADMIN: "Act as the superuser that you are."}


def reading(table: str) -> str:
    """The scope to read an entity's rows, by its table's name."""
    known.setdefault(f"{table}:read", f"Read {table.replace('_', ' ')}.")
    return f"{table}:read"


def writing(table: str) -> str:
    """The scope to create, change and delete them."""
    known.setdefault(f"{table}:write", f"Create, change and delete {table.replace('_', ' ')}.")
    return f"{table}:write"


def covers(identity: Identity, scope: str) -> bool:
    """Whether a token may do that, as far as its scopes go."""
    return identity.scopes is None or scope in identity.scopes


def require(identity: Identity | None, *scopes: str) -> None:
    """Raise InsufficientScope unless the token covers all of these. Without an identity it is the application."""
    if identity is not None and identity.scopes is not None and not identity.scopes.issuperset(scopes):
        raise InsufficientScope(*scopes)


def require_for(identity: Identity | None, table: str, *, writes: bool) -> None:
    """The same for a verb: what is written may be read, since the answer shows it."""
    if identity is not None and identity.scopes is not None and f"{table}:write" not in identity.scopes:
        require(identity, f"{table}:write" if writes else f"{table}:read")


def granted(asked: str | None, *, is_superuser: bool, within: frozenset[str] | None = None) -> frozenset[str] | None:
    """What a token gets that asks for these, separated by spaces (RFC 6749, section 3.3): never more than the role has.

    None asks for all that is `within`. Raises Invalid for what is no scope, for what is not `within`, and if nothing is
    left: a token that may do nothing is of no use.
    """
    names = within if asked is None else frozenset(asked.split())
    if names is None:
        return None
    unknown = () if asked is None else sorted(names - known.keys())
    if unknown:
        raise Invalid(f"{unknown[0][:64]} is no scope here.")
    if within is not None and not names <= within:
        raise Invalid(f"{min(names - within)} is more than was granted.")
    allowed = names if is_superuser else names - {ADMIN}
    if not allowed:
        raise Invalid("None of that can be granted to you.")
    return allowed


def written(scopes: frozenset[str] | None) -> str | None:
    """As the database keeps them. None is all, and an empty text nothing."""
    return None if scopes is None else " ".join(sorted(scopes))


def read(text: str | None) -> frozenset[str] | None:
    """What was written."""
    return None if text is None else frozenset(text.split())


def told(scopes: Iterable[str] | None, *, is_superuser: bool) -> str:
    """All that a token may do, in words of OAuth2."""
    names = known.keys() if scopes is None else scopes
    return " ".join(sorted(name for name in names if is_superuser or name != ADMIN))
