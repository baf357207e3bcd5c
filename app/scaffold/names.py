"""Names that Python, SQL, pydantic and Cadre can all live with. Any other is refused in one sentence with the cure."""

import builtins
import keyword
import re

from app.errors import CannotStart
from app.models.base import Row

LONGEST = 30
OURS = {*Row.model_fields, "owner_id"}
LISTS = {"skip", "limit", "cursor", "sort", "q", "count"}
THEIRS = {*dir(Row), "metadata", "registry", "self", "cls"}  # and what begins with model_
POSTGRES = {"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"}  # columns that every table has
# Those that only a person can tell. Others end in s, es or ies.
IRREGULAR = re.compile(
    r"(.*_)?(person|child|(wo)?man|foot|tooth|mouse|datum|medium|criterion|leaf|(shel|kni|li|hal)fe?)"
)
UNCOUNTED = re.compile(r"(.*_)?(news|series|species|sheep|equipment|information|software|staff)")


def check(name: str, example: str) -> None:
    """Raise CannotStart unless `name` is written as every name here is, and is no word of Python's."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        better = re.sub(r"[\W_]+", "_", snake(name), flags=re.ASCII).strip("_")
        better = better if re.match("[a-z]", better) else example
        raise CannotStart(f'"{name}" is no name here: small letters, digits and single underscores, like {better}.')
    if keyword.iskeyword(name):
        raise CannotStart(f'"{name}" is a word of Python: choose another name, like {example}.')
    if len(name) > LONGEST:
        raise CannotStart(f'"{name}" is too long: {LONGEST} letters at most.')


def check_field(name: str, entity: str) -> None:
    """Raise CannotStart unless a field can have this name."""
    another = f"choose another name, like {entity}_{name}."
    check(name, f"{entity}_{name}" if name.isalpha() else "due_date")
    if name in OURS:
        raise CannotStart(f'Every entity has "{name}" already: leave it out, or {another}')
    if name in LISTS:
        raise CannotStart(f'"{name}" is a parameter of every list: {another}')
    if name in THEIRS or name.startswith("model_"):
        raise CannotStart(f'"{name}" means something to pydantic or SQLModel: {another}')
    if name in POSTGRES:
        raise CannotStart(f'"{name}" means something to PostgreSQL: {another}')


def check_entity(name: str, plural_given: str | None) -> str:
    """The plural of `name`. Raises CannotStart unless both can be names, and are what they say."""
    check(name, f"our_{name}" if name.isalpha() else "project")
    if not plural_given and (singular := _singular(name)):
        raise CannotStart(f'"{name}" is several: name one of them, {singular}. (If it is one, say so by --plural.)')
    plural = plural_given or plural_of(name)
    check(plural, "companies")
    if hasattr(builtins, plural):
        raise CannotStart(f'"{plural}" is a word of Python: choose another name, or another --plural.')
    return plural


def plural_of(name: str) -> str:
    """Several of `name`, by the rules of English. Raises CannotStart where there is no rule."""
    if IRREGULAR.fullmatch(name) or UNCOUNTED.fullmatch(name):
        raise CannotStart(f'What are several of "{name}" called? Say it with --plural, as in: person --plural people')
    if re.search(r"[^aeiou]y$", name):
        return f"{name[:-1]}ies"
    if re.search(r"sis$", name):
        return f"{name[:-2]}es"
    return f"{name}es" if re.search(r"(s|x|z|ch|sh)$", name) else f"{name}s"


def _singular(name: str) -> str | None:
    """What `name` is several of, if it looks like it."""
    if UNCOUNTED.fullmatch(name) or not re.search(r"[^sui]s$", name):
        return None
    guesses = (re.sub(r"ies$", "y", name), re.sub(r"(?<=s|x|z|h)es$", "", name), name[:-1])
    return next(guess for guess in guesses if guess != name)


def with_article(words: str) -> str:
    """`an item`, `a project`, `a user`, `an hour`."""
    return f"{'an' if re.match(r'hour|(?!u[ns][ei]|eu|one)[aeiou]', words) else 'a'} {words}"


def camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
