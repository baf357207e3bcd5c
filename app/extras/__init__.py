"""What every entity has besides its five routes, by one line of its router: `router.include_router(extras(...))`.

It is alike for all of them, and nobody edits it: many rows at once, files, history, and what changed since.
"""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from sqlmodel import SQLModel

from app.engine.verbs import Read, Verbs
from app.extras import bulk, changes, files, history
from app.extras.names import many

# Each is given the verbs, and what a client may send for a new row and for a change of one.
PARTS: tuple[Callable[[Verbs[Read], type[SQLModel], type[SQLModel]], APIRouter], ...] = (
    bulk.routes,
    files.routes,
    history.routes,
    changes.routes,
)

# What was given to extras(), by the table's name: for the command line.
registered: dict[str, tuple[Verbs[Any], type[SQLModel], type[SQLModel]]] = {}


def extras(verbs: Verbs[Read], create: type[SQLModel], update: type[SQLModel]) -> APIRouter:
    """The routes. `create` and `update` are what a client may send for one row."""
    registered[many(verbs)] = verbs, create, update
    router = APIRouter()
    for part in PARTS:
        router.include_router(part(verbs, create, update))
    return router
