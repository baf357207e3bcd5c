"""A list's question, read from the address as its typed class says, and the headers that say what else there is."""

from typing import Any, Generic, TypeVar
from urllib.parse import parse_qsl, quote, urlencode

from fastapi import FastAPI, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, ValidationError

from app.engine.queries import Query

Asked = TypeVar("Asked", bound=BaseModel)
MOST = 100  # parameters
HEADERS = {
    "Link": 'The next page, if there is one: `<...>; rel="next"` (RFC 8288).',
    "X-Total-Count": "How many there are in all, if `count` was sent.",
}


class FromAddress(Generic[Asked]):
    """What reads the `model` that an address asks for. FastAPI would look for each of its fields, asked for or not."""

    def __init__(self, model: type[Asked]) -> None:
        self.model = model
        schema = model.model_json_schema()
        self._several = {name for name, of in schema["properties"].items() if of.get("type") == "array"}

    def read(self, pairs: list[tuple[str, str]]) -> Asked:
        try:
            return self.model.model_validate(self._grouped(pairs))
        except ValidationError as error:
            wrong = [{**each, "loc": ("query", *each["loc"])} for each in error.errors(include_url=False)]
            raise RequestValidationError(wrong) from None

    def _grouped(self, pairs: list[tuple[str, str]]) -> dict[str, Any]:
        """By name. What is sent twice, and may be once, is a list, which no such field takes."""
        found: dict[str, Any] = {}
        for name, value in pairs:
            found.setdefault(name, []).append(value)
        return {name: of if len(of) > 1 or name in self._several else of[0] for name, of in found.items()}


class Options(FromAddress[Asked]):
    """A dependency: what an address asks for, and nothing about the answer's headers."""

    async def __call__(self, request: Request) -> Asked:
        return self.read(_pairs(request))


class ListQuery(FromAddress[Query]):
    """A dependency: which part of a list an address asks for.

    The answer gets a Link header (RFC 8288) where there is a next page, and X-Total-Count where that was asked for.
    """

    async def __call__(self, request: Request, response: Response) -> Query:
        pairs = _pairs(request)
        query = self.read(pairs)

        def announce(cursor: str | None, total: int | None) -> None:
            if cursor:
                kept = [pair for pair in pairs if pair[0] not in ("cursor", "skip", "count")]
                address = f"{quote(request.scope['path'])}?{urlencode([*kept, ('cursor', cursor)])}"
                response.headers["Link"] = f'<{address}>; rel="next"'
            if total is not None:
                response.headers["X-Total-Count"] = str(total)

        query.on_answer(announce)
        return query


def _pairs(request: Request) -> list[tuple[str, str]]:
    sent = request.scope["query_string"].decode("latin-1")
    try:
        return parse_qsl(sent, keep_blank_values=True, max_num_fields=MOST) if sent else []
    except ValueError:
        wrong = {"loc": ("query",), "msg": f"Send at most {MOST} parameters", "type": "too_many", "input": None}
        raise RequestValidationError([wrong]) from None


def document_lists(app: FastAPI, schema: dict[str, Any]) -> None:
    """Tell in the OpenAPI document what addresses can ask, and what a list's headers say. Once more changes nothing."""
    for context in iter_route_contexts(app.routes):
        for dependency in getattr(context, "dependant", Dependant()).dependencies:
            asked, operations = dependency.call, schema["paths"].get(context.path, {})
            if not isinstance(asked, FromAddress):
                continue
            for operation in (operations[each.lower()] for each in context.methods or () if each.lower() in operations):
                others = [each for each in operation.get("parameters", ()) if each["in"] != "query"]
                operation["parameters"] = others + _parameters(asked.model)
                if isinstance(asked, ListQuery):
                    operation["responses"]["200"]["headers"] = {
                        name: {"description": said, "schema": {"type": "integer" if "Count" in name else "string"}}
                        for name, said in HEADERS.items()
                    }


def _parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    schema = model.model_json_schema()
    found = []
    for name, of in schema["properties"].items():
        kept = {key: value for key, value in of.items() if key not in ("title", "description") and value is not None}
        said = _inlined(kept, schema.get("$defs", {}))
        found.append({"name": name, "in": "query", "required": False, "description": of["description"], "schema": said})
    return found


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:  # noqa: ANN401  # JSON
    """`schema` with what it refers to in place: the document has no other place for it."""
    if isinstance(schema, list):
        return [_inlined(each, definitions) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return definitions[schema["$ref"].rpartition("/")[2]]
    return {key: _inlined(value, definitions) for key, value in schema.items()}
