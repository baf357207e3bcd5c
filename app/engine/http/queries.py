"""A list's question, read from the address as its typed class says, and the headers that say what else there is."""

from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from app.engine.queries import Query

MOST = 100  # parameters


class ListQuery:
    """A dependency: the `model` that an address asks for. FastAPI would look for each of its fields, asked for or not.

    The answer gets a Link header (RFC 8288) where there is a next page, and X-Total-Count where that was asked for.
    """

    def __init__(self, model: type[Query]) -> None:
        self.model = model
        schema = model.model_json_schema()
        self._several = {name for name, of in schema["properties"].items() if of.get("type") == "array"}

    async def __call__(self, request: Request, response: Response) -> Query:
        sent = request.scope["query_string"].decode("latin-1")
        pairs = _pairs(sent) if sent else []
        try:
            query = self.model.model_validate(self._grouped(pairs))
        except ValidationError as error:
            wrong = [{**each, "loc": ("query", *each["loc"])} for each in error.errors(include_url=False)]
            raise RequestValidationError(wrong) from None

        def announce(cursor: str | None, total: int | None) -> None:
            if cursor:
                kept = [pair for pair in pairs if pair[0] not in ("cursor", "skip", "count")]
                address = f"{quote(request.scope['path'])}?{urlencode([*kept, ('cursor', cursor)])}"
                response.headers["Link"] = f'<{address}>; rel="next"'
            if total is not None:
                response.headers["X-Total-Count"] = str(total)

        query.on_answer(announce)
        return query

    def _grouped(self, pairs: list[tuple[str, str]]) -> dict[str, Any]:
        """By name. What is sent twice, and may be once, is a list, which no such field takes."""
        found: dict[str, Any] = {}
        for name, value in pairs:
            found.setdefault(name, []).append(value)
        return {name: of if len(of) > 1 or name in self._several else of[0] for name, of in found.items()}


def _pairs(sent: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(sent, keep_blank_values=True, max_num_fields=MOST)
    except ValueError:
        wrong = {"loc": ("query",), "msg": f"Send at most {MOST} parameters", "type": "too_many", "input": None}
        raise RequestValidationError([wrong]) from None
