"""The app with 20 more entities, each with the routes of items, and items included last: the fair size of an app."""

from fastapi import APIRouter, Response
from sqlmodel import Field, SQLModel, create_engine

from app import main
from app.crud import standing
from app.deps import Caller, Paging, RowId, created
from app.engine.verbs import Verbs
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


def routes(path: str, things: Verbs[ThingRead]) -> APIRouter:
    router = APIRouter()

    @router.get("")
    async def list_things(caller: Caller, page: Paging) -> list[ThingRead]:
        return await things.page(caller, **dict(page))

    @router.post("", status_code=201)
    async def create_thing(caller: Caller, data: ThingCreate, response: Response) -> ThingRead:
        return created(response, path, await things.create(caller, data))

    @router.get("/{thing_id}")
    async def read_thing(caller: Caller, thing_id: RowId) -> ThingRead:
        return await things.get(caller, thing_id)

    @router.patch("/{thing_id}")
    async def update_thing(caller: Caller, thing_id: RowId, changes: ThingUpdate) -> ThingRead:
        return await things.update(caller, thing_id, changes)

    @router.delete("/{thing_id}", status_code=204)
    async def delete_thing(caller: Caller, thing_id: RowId) -> None:
        await things.delete(caller, thing_id)

    return router


crowded = APIRouter()
for number in range(ENTITIES):
    path = f"things{number:02}"
    crowded.include_router(routes(path, Verbs(thing(number), ThingRead, standing)), prefix=f"/{path}")
crowded.include_router(api)  # last, items among it

settings = get_settings()
SQLModel.metadata.create_all(create_engine(settings.database_url))  # the things' tables: no migration knows them
main.api = crowded
app = main.create_app(settings)
