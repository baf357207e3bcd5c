"""What `python3 -m app new` would write. All that can be wrong is refused here, before a file is touched."""

import ast
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlmodel import SQLModel

import app.models
from app.errors import CannotStart
from app.models.base import Access
from app.scaffold.fields import SHAPE, Context, Field, read_field
from app.scaffold.names import camel, check_entity, snake
from app.scaffold.source import write_model, write_router
from app.settings import ROOT

LONGEST_IN_SQL = 63


@dataclass(frozen=True)
class Plan:
    """An entity that is not there yet. Paths are from the project's root."""

    name: str
    names: str
    files: Mapping[Path, str]
    registrations: Mapping[Path, str]  # one line for each of these, which are there


def plan(
    name: str,
    words: Sequence[str],
    *,
    access: Access = Access.OWNED,
    plural: str | None = None,
    link: bool = False,
    unique: Collection[str] = (),
) -> Plan:
    """An entity `name` with the fields that `words` declare. Raises CannotStart, and names the cure."""
    names, upper = check_entity(name, plural), camel(name)
    files = Path("app", "models", f"{name}.py"), Path("app", "routers", f"{names}.py")
    classes = [f"{upper}{variant}" for variant in ("", "Create", "Read", "Update")]
    _refuse_what_is_there(names, files, classes)
    context = Context(name, {**_entities(), name: names}, unique, link)
    fields = [read_field(word, context) for word in words]
    _refuse_odd_fields(name, fields, context)
    _refuse_long_names(names, fields, context)
    texts = write_model(name, names, fields, access, link=link), write_router(name, names, access)
    for text in texts:
        _refuse_clashes(text, [field.name for field in fields], name)
    return Plan(
        name,
        names,
        dict(zip(files, texts, strict=True)),
        {
            Path("app", "models", "__init__.py"): f"from app.models.{name} import {', '.join(classes)}",
            Path("app", "routers", "__init__.py"): f"from app.routers.{names} import router as {names}",
        },
    )


def _entities() -> dict[str, str]:
    """The table of each entity there is."""
    mappers = SQLModel._sa_registry.mappers
    classes = [mapper.class_ for mapper in mappers if mapper.class_.__module__.startswith("app.models.")]
    return {snake(entity.__name__): entity.__tablename__ for entity in classes}


def _refuse_what_is_there(names: str, files: Sequence[Path], classes: Sequence[str]) -> None:
    cure = "Nothing is ever overwritten: choose another name, or change what is there by hand."
    for file in files:
        if (ROOT / file).exists():
            raise CannotStart(f"{file} is there already. {cure}")
    if names in SQLModel.metadata.tables:
        raise CannotStart(f'There is a table "{names}" already. {cure}')
    for taken in classes:
        if hasattr(app.models, taken):
            raise CannotStart(f'There is a class "{taken}" in app/models already. {cure}')


def _refuse_odd_fields(name: str, fields: Sequence[Field], context: Context) -> None:
    if not fields:
        raise CannotStart(f"{camel(name)} needs at least one field. Fields look like: {SHAPE}")
    names = [field.name for field in fields]
    if twice := [each for each in names if names.count(each) > 1]:
        raise CannotStart(f'"{twice[0]}" stands there twice: give each field a name of its own.')
    if unknown := [each for each in context.unique if not {each, f"{each}_id"} & set(names)]:
        raise CannotStart(f'--unique "{unknown[0]}" is none of the fields: {", ".join(names)}.')
    if context.is_link and sum(bool(field.refers_to) for field in fields) != 2:
        raise CannotStart("A --link has exactly two refs, like item:ref label:ref, and other fields if you like.")
    if context.is_link and any(field.refers_to and " | None" in field.line for field in fields):
        raise CannotStart("A --link needs both its ends: no ? at its refs.")


def _refuse_long_names(names: str, fields: Sequence[Field], context: Context) -> None:
    # By its constraint's name we say what is taken, and PostgreSQL cuts it.
    unique = [[field.name] for field in fields if "unique=True" in field.line]
    pair = [field.name for field in fields if field.refers_to]
    for columns in [*unique, pair] if context.is_link else unique:
        if len("_".join(["uq", names, *columns])) > LONGEST_IN_SQL:
            raise CannotStart(f"{', '.join([names, *columns])}: together too long for PostgreSQL, so shorten one.")


def _refuse_clashes(text: str, fields: Collection[str], entity: str) -> None:
    """Raise CannotStart if one name in a file would mean two things: `date: date`, or a class like an import."""
    tree = ast.parse(text)
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    top = [name for _, name in {(node.module, alias.name) for node in imports for alias in node.names}]
    top += [node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.AsyncFunctionDef)]
    assigned = [node.targets[0] for node in tree.body if isinstance(node, ast.Assign)]
    top += [target.id for target in assigned if isinstance(target, ast.Name)]
    arguments = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    for name in top:
        if top.count(name) > 1 or name in arguments:
            raise CannotStart(f'"{name}" would mean two things in one file: choose another name, or another --plural.')
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    if taken := [name for name in fields if name in used | arguments]:
        another = f"{entity}_{taken[0]}" if entity not in taken[0] else f"parent_{taken[0]}"
        raise CannotStart(f'"{taken[0]}" means something else in its file: choose another name, like {another}.')
