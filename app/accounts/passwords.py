"""Which passwords are good: long enough, without one's names, and none of the first that somebody would try.

Any characters will do, and none are asked for (NIST SP 800-63B). The refusal says how to choose a good one.
"""

import math
from collections.abc import Iterable
from functools import partial

from app.engine.hashing import LONGEST, Hasher
from app.errors import InvalidField
from app.models.user import fold
from app.security import ISSUER

ADVICE = "Take four or more words that have nothing to do with each other."
ENOUGH = 8  # digits of how many guesses it takes: zxcvbn's "safely unguessable"
PIECE = 20  # characters that zxcvbn looks at together: for 72 it can take more than a second
UNLISTED = 64  # characters: so long a one is on nobody's list
NAME = 4  # characters: a shorter name is in many words


async def hash_new(hasher: Hasher, password: str, *, names: Iterable[str], field: str = "password") -> str:
    """The hash of a new password, of who has those `names`, an e-mail too. Raises InvalidField, and Unavailable."""
    with hasher.place():
        check = partial(require_good, shortest=hasher.shortest, names=[*names, ISSUER], field=field)
        return await hasher.hash(password, check=check)


def require_good(password: str, *, shortest: int, names: Iterable[str], field: str) -> None:
    """Raise InvalidField unless `password`, in the form in which it is hashed, is a good one."""
    if len(password) < shortest:
        raise InvalidField(field, f"Take at least {shortest} characters. {ADVICE}")
    if len(password) > LONGEST:
        raise InvalidField(field, f"Take at most {LONGEST} characters.")
    folded = fold(password)
    if any(name in folded for name in _parts(names)):
        raise InvalidField(field, f"Leave out your name, your address and ours. {ADVICE}")
    if is_common(folded):
        raise InvalidField(field, f"That is one of the first that somebody would try. {ADVICE}")


def is_common(folded: str) -> bool:
    """Whether it would be guessed soon: it stands on a list, or is made of what does, of repetitions or sequences."""
    text = folded.strip()
    if len(text) >= UNLISTED:
        return False
    from zxcvbn import zxcvbn  # late: its lists take longer to load than the rest of a start may

    once = text[: (text + text).find(text, 1)]  # what it repeats, if it does
    digits = math.log10(len(text) / len(once)) if once else 0.0
    for start in range(0, len(once), PIECE):
        digits += float(zxcvbn(once[start : start + PIECE])["guesses_log10"])
    return digits < ENOUGH


def _parts(names: Iterable[str]) -> Iterable[str]:
    """What must not be in a password: each name, and of an e-mail also what stands before the @."""
    for name in map(fold, names):
        yield from {part for part in (name, name.rpartition("@")[0] or name) if len(part) >= NAME}
