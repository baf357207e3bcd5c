"""Many rows in one request: created, changed or deleted, all of them or none. An error says at which position."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any

from annotated_types import Len
from fastapi import APIRouter
from pydantic import BeforeValidator, ValidationError, ValidatorFunctionWrapHandler, WrapValidator, create_model
from pydantic import Field as Constraint
from pydantic_core import InitErrorDetails, PydanticCustomError, PydanticKnownError
from sqlmodel import SQLModel

from app.deps import Caller, writes
from app.engine.bulk import Bulk
from app.engine.http.idempotency import IDEMPOTENT
from app.engine.http.refusals import MOST
from app.engine.verbs import Read, Verbs
from app.errors import documented
from app.extras.names import Endpoint, called, many
from app.models.base import Closed, Ref

MOST_ROWS = 10_000
MAX_BODY_SIZE = 2**24  # bytes

Version = Annotated[int, Constraint(ge=1, lt=2**31, description="If the row has another by now, nothing is done: 412.")]


class NamedRow(Closed):
    """A row by its id, and by its version if that matters."""

    id: Ref
    version: Version | None = None


def routes(verbs: Verbs[Read], create: type[SQLModel], update: type[SQLModel]) -> APIRouter:
    """POST and PATCH `/bulk`, and POST `/bulk/delete`."""
    writer = Annotated[Caller, writes(verbs.entity)]
    router, bulk, nouns = APIRouter(), Bulk(verbs), many(verbs)
    words, answered = nouns.replace("_", " "), list[verbs.read]  # type: ignore[name-defined]  # known when it runs
    named = Annotated[NamedRow, BeforeValidator(_as_named, json_schema_input_type=Ref | NamedRow)]

    @router.post(
        "/bulk",
        summary=f"Create Many {words.title()}",
        status_code=201,
        response_model=answered,
        max_body_size=MAX_BODY_SIZE,
        openapi_extra=IDEMPOTENT,
        responses=documented(409),
    )
    @_endpoint(f"create_{nouns}", create)
    async def create_many(caller: writer, data: list[Any]) -> list[Read]:
        """All of them or none; answered in the order in which they were sent. An error says at which position."""
        return await bulk.create(caller, data)

    @router.patch(
        "/bulk",
        summary=f"Change Many {words.title()}",
        response_model=answered,
        max_body_size=MAX_BODY_SIZE,
        openapi_extra=IDEMPOTENT,
        responses=documented(404, 409, 412),
    )
    @_endpoint(f"update_{nouns}", _with_id(update))
    async def update_many(caller: writer, data: list[Any]) -> list[Read]:
        """Of each row what is sent, and nothing else. All of them or none. An error says at which position."""
        return await bulk.update(caller, [(changes.id, changes, changes.version) for changes in data])

    @router.post(
        "/bulk/delete",
        summary=f"Delete Many {words.title()}",
        status_code=204,
        max_body_size=MAX_BODY_SIZE,
        openapi_extra=IDEMPOTENT,
        responses=documented(404, 409, 412),
    )
    @_endpoint(f"delete_{nouns}", named)
    async def delete_many(caller: writer, data: list[Any]) -> None:
        """All of them or none, for good. Send ids, or ids with versions. An error says at which position."""
        await bulk.delete(caller, [(row.id, row.version) for row in data])

    return router


def _endpoint(name: str, row: object) -> Callable[[Endpoint], Endpoint]:
    """Gives an endpoint its name, and says that its `data` are such rows: which ones, only the entity knows."""
    rows = Annotated[list[row], Len(1, MOST_ROWS), WrapValidator(_check)]  # type: ignore[valid-type]

    def say(endpoint: Endpoint) -> Endpoint:
        endpoint.__annotations__["data"] = rows
        return called(name)(endpoint)

    return say


def _with_id(update: type[SQLModel]) -> type[SQLModel]:
    """An `update` that says of which row."""
    name, doc = f"{update.__name__}OfOne", "The row with this `id`, and what to change of it."
    changes: type[SQLModel] = create_model(name, __base__=update, __doc__=doc, id=(int, ...), version=(int, ...))
    changes.model_fields.update(NamedRow.model_fields)  # a Partial has made them optional
    changes.model_rebuild(force=True)
    return changes


def _as_named(value: object) -> object:
    # Of a float pydantic says whether it is whole.
    return {"id": value} if type(value) in (int, float) else value


def _check(rows: object, check: ValidatorFunctionWrapHandler) -> list[Any]:
    """The rows, validated one by one, up to the error that is not told any more.

    All the errors of a large body together would take seconds of everybody's time.
    """
    if not isinstance(rows, list) or not rows:
        return list(check(rows))
    if len(rows) > MOST_ROWS:
        about = {"field_type": "List", "max_length": MOST_ROWS, "actual_length": len(rows)}
        raise PydanticKnownError("too_long", about)
    good, wrong = list[Any](), list[InitErrorDetails]()
    for position, row in enumerate(rows):
        try:
            good += check([row])
        except ValidationError as error:
            wrong += _moved(error, position)
            if len(wrong) >= MOST:
                break
    if wrong:
        raise ValidationError.from_exception_data("rows", wrong[:MOST])
    return good


def _moved(error: ValidationError, position: int) -> Iterator[InitErrorDetails]:
    """What is wrong with the only row of a list, as that of the row at `position`."""
    for wrong in error.errors(include_url=False, include_context=False, include_input=False):
        # In braces would stand what comes from a context; without one they stand for themselves.
        kind = PydanticCustomError(wrong["type"], wrong["msg"])
        yield InitErrorDetails(type=kind, loc=(position, *wrong["loc"][1:]), input=None)
