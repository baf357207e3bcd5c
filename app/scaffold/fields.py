"""What a field is, as typed at the prompt: `name:type[:arguments][?]`. docs/types.md says how each is declared."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from app.engine.queries import INDEXED
from app.errors import CannotStart
from app.scaffold.names import camel, check_field

WORD = re.compile(r"([^:()?]+):([^:()?]+)(?::([^()?]+)|\(([^:()?]+)\))?(\?)?")
SHAPE = "name:str  notes:text:5000  budget:decimal?  status:enum:open,closed  client:ref:company"


@dataclass(frozen=True)
class Kind:
    """A type at the prompt, and how it is declared. Arguments fill the braces of `limits`."""

    annotation: str
    imports: str = ""
    limits: str = ""
    otherwise: tuple[int, ...] = ()  # the arguments, if there are none
    most: int = 0  # what an argument can be
    sa_type: str = ""
    uses: str = ""  # how lists use it


FOUND = '"filter", "sort"'
KINDS = {
    "str": Kind("Line", "from app.models.base import Line", "max_length={}", (200,), 1000, uses='"search"'),
    "text": Kind("Text", "from app.models.base import Text", "max_length={}", (10_000,), 100_000, uses='"search"'),
    "int": Kind("Int64", "from app.models.types import Int64\nfrom sqlalchemy import BigInteger", sa_type="BigInteger"),
    "float": Kind("FiniteFloat", "from pydantic import FiniteFloat"),
    # SQLite keeps 15 digits exactly.
    "decimal": Kind(
        "Decimal", "from decimal import Decimal", "max_digits={}, decimal_places={}", otherwise=(15, 2), most=15
    ),
    "bool": Kind("bool", uses=FOUND),
    "date": Kind("Day", "from app.models.types import Day", uses=FOUND),
    "datetime": Kind("Instant", "from app.models.types import Instant", uses=FOUND),
    "uuid": Kind("UUID", "from uuid import UUID"),
    "json": Kind("Json", "from app.models.types import Json, JsonColumn", sa_type="JsonColumn"),
    "bytes": Kind("Base64", "from app.models.types import Base64", "max_length={}", (10_000,), 100_000),
    "enum": Kind("", "from enum import StrEnum\nfrom app.models.types import by_value", uses=FOUND),
    "ref": Kind(
        "Ref",
        "from app.models.base import BigId, Ref",
        'foreign_key="{}.id", ondelete="{}"',
        sa_type="BigId",
        uses='"filter"',
    ),
}
ONDELETE = {"cascade": "CASCADE", "restrict": "RESTRICT", "setnull": "SET NULL"}
ALSO_CALLED = {
    "str": "string varchar char line email url",
    "int": "integer bigint number int64",
    "decimal": "numeric money currency",
    "datetime": "instant timestamp time",
    "json": "dict list jsonb object array",
    "bytes": "binary blob file",
    "float": "double real",
    "enum": "choice choices select",
    "ref": "fk foreign_key reference references belongs_to",
}


@dataclass(frozen=True)
class Field:
    """One line of the Base."""

    name: str
    line: str
    imports: str
    refers_to: str = ""  # an entity
    enum: tuple[str, Mapping[str, str]] | None = None  # the class: its name, and its members


@dataclass(frozen=True)
class Context:
    """What fields are read for."""

    entity: str
    tables: Mapping[str, str]  # of each entity that can be referred to
    unique: Collection[str] = ()
    is_link: bool = False


def read_field(word: str, context: Context) -> Field:
    """The field that `word` declares. Raises CannotStart, and says what to type instead."""
    found = WORD.fullmatch(word)
    if not found:
        raise CannotStart(f'"{word}" is no field. Fields look like: {SHAPE}')
    name, kind_name, after_colon, in_parentheses, optional = found.groups()
    kind = KINDS.get(kind_name) or _unknown(kind_name)
    name = f"{name.removesuffix('_id')}_id" if kind_name == "ref" else name
    check_field(name, context.entity)
    arguments = [part.strip() for part in re.split("[,:]", after_colon or in_parentheses or "") if part.strip()]
    annotation, limits, sa_type, refers_to, enum = kind.annotation, kind.limits, kind.sa_type, "", None
    if kind_name == "ref":
        refers_to = arguments[0] if arguments else name.removesuffix("_id")
        limits = limits.format(*_reference(word, refers_to, arguments[1:], bool(optional), context))
    elif kind_name == "enum":
        annotation = camel(f"{context.entity}_{name}")
        enum, sa_type = (annotation, _members(word, arguments)), f"by_value({annotation})"
    else:
        limits = limits.format(*_numbers(word, kind, arguments))
    is_unique = not {name, name.removesuffix("_id")}.isdisjoint(context.unique)
    lengths = [int(length) for length in re.findall(r"max_length=(\d+)", limits)]
    if is_unique and (kind_name == "json" or any(length > INDEXED for length in lengths)):
        raise CannotStart(f'"{name}" is too long to be unique: use a str of {INDEXED} letters at most.')
    key = "unique=True" if is_unique else "index=True" if refers_to else ""
    line = _line(name, annotation, bool(optional), limits, key, sa_type, kind.uses)
    imports = kind.imports + ("\nfrom app.models.base import listed" if kind.uses else "")
    return Field(name, line, imports, refers_to, enum)


def _line(name: str, annotation: str, is_optional: bool, limits: str, key: str, sa_type: str, uses: str) -> str:
    options = [
        "default=None" if is_optional else "",
        limits,
        key,
        f"sa_type={sa_type}" if sa_type else "",
        f"sa_column_kwargs=listed({uses})" if uses else "",
    ]
    written = ", ".join(option for option in options if option)
    return f"{name}: {annotation}{' | None' if is_optional else ''}{f' = Field({written})' if written else ''}"


def _unknown(kind: str) -> Kind:
    for better, others in ALSO_CALLED.items():
        if kind.lower() in others.split():
            raise CannotStart(f'There is no type "{kind}": it is called {better} here.')
    near = get_close_matches(kind.lower(), KINDS, 1, 0.6)
    cure = f"did you mean {near[0]}?" if near else f"there are {', '.join(KINDS)}."
    raise CannotStart(f'There is no type "{kind}": {cure}')


def _numbers(word: str, kind: Kind, arguments: list[str]) -> tuple[int, ...]:
    """The arguments as numbers, or the usual ones."""
    if not arguments:
        return kind.otherwise
    numbers = tuple(int(each) for each in arguments if re.fullmatch("[0-9]{1,9}", each))
    if len(numbers) != len(arguments) or len(numbers) != len(kind.otherwise):
        example = ",".join(map(str, kind.otherwise))
        cure = f"as {example}" if example else "none"
        raise CannotStart(f'"{word}" is not understood: its type is given numbers, {cure}.')
    if not 1 <= numbers[0] <= kind.most or numbers[0] < numbers[-1]:
        raise CannotStart(f'"{word}" is out of bounds: from 1 to {kind.most}, and no more places than digits.')
    return numbers


def _members(word: str, values: list[str]) -> Mapping[str, str]:
    """The members of an enum: names in capitals, and values as typed."""
    members = {value.upper().replace("-", "_"): value for value in values}
    if not values or len(members) != len(values):
        raise CannotStart(f'"{word}" must name its values, each once: status:enum:open,closed')
    for value in values:
        if not re.fullmatch("[A-Za-z][A-Za-z0-9]*([_-][A-Za-z0-9]+)*", value) or len(value) > 64:
            raise CannotStart(f'"{value}" cannot be a value: letters, digits and single dashes, like in-progress.')
    return members


def _reference(word: str, entity: str, rest: list[str], is_optional: bool, context: Context) -> tuple[str, str]:
    """The table that is referred to, and what a deletion there does here."""
    if entity not in context.tables:
        there = ", ".join(sorted(context.tables))
        raise CannotStart(f'There is no entity "{entity}" to refer to: there are {there}.')
    usual = "cascade" if context.is_link else "setnull" if is_optional else "restrict"
    rule = rest[0] if rest else usual
    if len(rest) > 1 or rule not in ONDELETE:
        raise CannotStart(f'"{word}" must say what a deletion does, if anything: cascade, restrict or setnull.')
    if rule == "setnull" and not is_optional:
        raise CannotStart(f'"{word}" cannot be set to null, since it must not be empty: add a ?, or say restrict.')
    if entity == context.entity and not is_optional:
        raise CannotStart(f'"{word}" would have no first {entity}: it must be optional, so add a ?.')
    return context.tables[entity], ONDELETE[rule]
