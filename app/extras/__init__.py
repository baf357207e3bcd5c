"""What every entity has besides its five routes, by one line of its router: `router.include_router(extras(...))`.

It is alike for all of them, and nobody edits it: many rows at once, files, history, and what changed since.
"""

from collections.abc import Callable

from fastapi import APIRouter
from sqlmodel import SQLModel

from app.engine.verbs import Read, Verbs
from app.extras import files

# Each is given the verbs, and what a client may send for a new row and for a change of one.
PARTS: tuple[Callable[[Verbs[Read], type[SQLModel], type[SQLModel]], APIRouter], ...] = (files.routes,)


def extras(verbs: Verbs[Read], create: type[SQLModel], update: type[SQLModel]) -> APIRouter:
    """The routes. `create` and `update` are what a client may send for one row."""
    router = APIRouter()
    for part in PARTS:
        router.include_router(part(verbs, create, update))
    return router
