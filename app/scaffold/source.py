"""The two files of a new entity, in the shape of models/item.py and routers/items.py. Ruff wraps and sorts them."""

from collections.abc import Sequence
from string import Template

from app.models.base import Access
from app.scaffold.fields import Field
from app.scaffold.names import camel, with_article

MODEL = Template("""\
$docstring

$imports

$enums

class ${Name}Base(SQLModel):
    $fields


class ${Name}Create(Closed, ${Name}Base):
    pass


class ${Name}Update(Partial, ${Name}Base):
    pass


class ${Name}Read(${Name}Base, Row):
    $read


class $Name(Entity, ${Name}Read, table=True):
    __tablename__ = "$names"
    __table_args__ = ($arguments{"sqlite_autoincrement": True},)
    __access__ = Access.$ACCESS
""")
OWNER = 'owner_id: int = Field(foreign_key="users.id", ondelete="CASCADE", sa_type=BigId)'
MODEL_IMPORTS = """\
from sqlmodel import Field, SQLModel
from app.models.base import Access, Closed, Entity, Partial, Row"""
OWNER_IMPORTS = """\
from sqlalchemy import Index
from app.models.base import BigId"""
LINK_IMPORTS = """\
from sqlalchemy import UniqueConstraint
from app.models.base import references"""

ROUTER = Template('''\
$docstring

from typing import Annotated

from fastapi import APIRouter, Response

from app.crud import verbs
from app.deps import Caller, IfMatch, Query, RowId, created, query_of, reads, writes
from app.errors import documented
from app.extras import extras
from app.models.$name import $Name, ${Name}Create, ${Name}Read, ${Name}Update

router = APIRouter(prefix="/$names", tags=["$names"])
$names = verbs($Name, ${Name}Read)
${Name}Query = Annotated[Query, query_of($Name)]
${Name}Reader = Annotated[Caller, reads($Name)]
${Name}Writer = Annotated[Caller, writes($Name)]


@router.get("")
async def list_$names(caller: ${Name}Reader, query: ${Name}Query) -> list[${Name}Read]:
    """$list_"""
    return await $names.page(caller, query)


@router.post("", status_code=201, responses=documented(409))
async def create_$name(caller: ${Name}Writer, data: ${Name}Create, response: Response) -> ${Name}Read:
    """$create"""
    return created(response, "$names", await $names.create(caller, data))


@router.get("/{${name}_id}")
async def read_$name(caller: ${Name}Reader, ${name}_id: RowId) -> ${Name}Read:
    """One $one."""
    return await $names.get(caller, ${name}_id)


@router.patch("/{${name}_id}", responses=documented(409))
async def update_$name(caller: ${Name}Writer, ${name}_id: RowId, changes: ${Name}Update, version: IfMatch) -> ${Name}Read:
    """Change what you send, and nothing else."""
    return await $names.update(caller, ${name}_id, changes, version=version)


@router.delete("/{${name}_id}", status_code=204, responses=documented(409))
async def delete_$name(caller: ${Name}Writer, ${name}_id: RowId, version: IfMatch) -> None:
    """Delete $a_one, for good."""
    await $names.delete(caller, ${name}_id, version=version)


router.include_router(extras($names, ${Name}Create, ${Name}Update))
''')  # noqa: E501  # with names in it, lines have other lengths

# For each kind of access: what the model says, what the router says, and what listing and creating say.
TOLD = {
    Access.OWNED: (
        "$A_one belongs to a user.",
        "$Many belong to a user. Someone else's $one does not exist: 404, never 403. A superuser sees all.",
        "Your $many, newest first. For superusers everybody's.",
        "Create $a_one. It belongs to you.",
    ),
    Access.SHARED: (
        "$A_one is shared: everyone signed in sees and changes it.",
        "$Many are shared: everyone signed in sees and changes them.",
        "All $many, newest first.",
        "Create $a_one. Everyone signed in sees it.",
    ),
    Access.RESTRICTED: (
        "$A_one is for superusers only.",
        "$Many are for superusers only: 403 for everyone else.",
        "All $many, newest first.",
        "Create $a_one.",
    ),
}


def write_model(name: str, names: str, fields: Sequence[Field], access: Access, *, link: bool) -> str:
    """The text of app/models/NAME.py."""
    owned = access is Access.OWNED
    told = TOLD[access][0]
    imports, arguments = [MODEL_IMPORTS, *(field.imports for field in fields)], ""
    if link:
        ends = " and ".join(with_article(field.refers_to.replace("_", " ")) for field in fields if field.refers_to)
        told = f"$A_one joins {ends}, each pair once. {told.replace('$A_one', 'It')}"
        imports.append(LINK_IMPORTS)
        arguments += f"UniqueConstraint(*references({camel(name)}Base)), "
    if owned:
        imports.append(OWNER_IMPORTS)
        arguments += 'Index(None, "owner_id", "id"), '
    enums = [
        f"class {kind}(StrEnum):\n" + "".join(f'    {key} = "{value}"\n' for key, value in members.items())
        for kind, members in (field.enum for field in fields if field.enum)
    ]
    return _filled(
        MODEL,
        name,
        names,
        docstring=docstring(_filled(Template(told), name, names)),
        imports="\n".join(imports),
        enums="\n\n".join(enums),
        fields="\n    ".join(field.line for field in fields),
        read=OWNER if owned else "pass",
        arguments=arguments,
        ACCESS=access.name,
    )


def write_router(name: str, names: str, access: Access) -> str:
    """The text of app/routers/NAMES.py."""
    told, list_, create = (_filled(Template(text), name, names) for text in TOLD[access][1:])
    return _filled(ROUTER, name, names, docstring=docstring(told), list_=list_, create=create)


def _filled(template: Template, name: str, names: str, **more: str) -> str:
    one, many = name.replace("_", " "), names.replace("_", " ")
    words = {"one": one, "many": many, "Many": many.capitalize()}
    a_one = with_article(one)
    return template.substitute(
        words, name=name, names=names, Name=camel(name), a_one=a_one, A_one=a_one.capitalize(), **more
    )


def docstring(told: str) -> str:
    """`told` on one line; if it is too long for that, what follows the first sentence on another."""
    if len(told) <= 114:
        return f'"""{told}"""'
    first, _, rest = told.partition(". ")
    return f'"""{first}.\n\n{rest}\n"""'
