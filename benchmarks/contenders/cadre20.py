"""The app with 20 more entities, each with the routes of items, and items included last: the fair size of an app."""

from typing import Annotated

from fastapi import APIRouter, Response
from sqlmodel import Field, SQLModel, create_engine

from app import main
from app.crud import verbs
from app.deps import Caller, IfMatch, Query, RowId, created, query_of
from app.models.base import BigId, Closed, Entity, Line, Partial, Row
from app.routers import api
from app.settings import get_settings

ENTITIES = 20


class ThingBase(SQLModel):
    title: Line = Field(max_length=255)


class ThingCreate(Closed, ThingBase):
    pass


class ThingUpdate(Partial, ThingBase):
    pass


class ThingRead(ThingBase, Row):
    owner_id: int = Field(foreign_key="users.id", ondelete="CASCADE", index=True, sa_type=BigId)


def thing(number: int) -> type[Entity]:
    body = {"__module__": __name__, "__tablename__": f"things{number:02}"}
    return type(SQLModel)(f"Thing{number:02}", (Entity, ThingRead), body, table=True)


def routes(path: str, entity: type[Entity]) -> APIRouter:
    router, things = APIRouter(prefix=f"/{path}"), verbs(entity, ThingRead)
    asked = query_of(entity)

    @router.get("")
    async def list_things(caller: Caller, query: Annotated[Query, asked]) -> list[ThingRead]:
        return await things.page(caller, query)

    @router.post("", status_code=201)
    async def create_thing(caller: Caller, data: ThingCreate, response: Response) -> ThingRead:
        return created(response, path, await things.create(caller, data))

    @router.get("/{thing_id}")
    async def read_thing(caller: Caller, thing_id: RowId) -> ThingRead:
        return await things.get(caller, thing_id)

    @router.patch("/{thing_id}")
    async def update_thing(caller: Caller, thing_id: RowId, changes: ThingUpdate, version: IfMatch) -> ThingRead:
        return await things.update(caller, thing_id, changes, version=version)

    @router.delete("/{thing_id}", status_code=204)
    async def delete_thing(caller: Caller, thing_id: RowId, version: IfMatch) -> None:
        await things.delete(caller, thing_id, version=version)

    return router


crowded = APIRouter()
for number in range(ENTITIES):
    crowded.include_router(routes(f"things{number:02}", thing(number)))
crowded.include_router(api)  # last, items among it

settings = get_settings()
SQLModel.metadata.create_all(create_engine(settings.database_url))  # the things' tables: no migration knows them
main.api = crowded
app = main.create_app(settings)
