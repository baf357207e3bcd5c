"""What `python3 -m app new` would write. All that can be wrong is refused here, before a file is touched."""

import ast
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from sqlmodel import SQLModel

import app.models
from app.errors import CannotStart
from app.models.base import Access
from app.scaffold.fields import SHAPE, Context, Field, read_field
from app.scaffold.names import camel, check_entity, snake
from app.scaffold.source import write_model, write_router
from app.settings import ROOT


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
    texts = write_model(name, names, fields, access, link=link), write_router(name, names, access)
    for text in texts:
        _refuse_clashes(text, [field.name for field in fields])
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


def _refuse_clashes(text: str, fields: Collection[str]) -> None:
    """Raise CannotStart if one name in the file would mean two things: `date: date`, or a class like an import."""
    nodes = list(ast.walk(ast.parse(text)))
    imported = {
        alias.asname or alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    used = imported | {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    for name in fields:
        if name in used:
            raise CannotStart(f'"{name}" is the name of what declares it: choose another, like {name}_of_it.')
    arguments = {node.arg for node in nodes if isinstance(node, ast.arg)}
    defined = [
        node.id if isinstance(node, ast.Name) else node.name
        for node in chain.from_iterable(_definitions(statement) for statement in ast.parse(text).body)
    ]
    for name in defined:
        if name in imported | arguments or defined.count(name) > 1:
            raise CannotStart(f'"{name}" would mean two things in one file: choose another name, or another --plural.')


def _definitions(statement: ast.stmt) -> list[ast.ClassDef | ast.AsyncFunctionDef | ast.Name]:
    if isinstance(statement, ast.ClassDef | ast.AsyncFunctionDef):
        return [statement]
    return [each for each in getattr(statement, "targets", ()) if isinstance(each, ast.Name)]
