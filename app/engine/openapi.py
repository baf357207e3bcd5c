"""What every operation can answer besides its own, told once for all: a route declares only what is special to it."""

from typing import Any

from app.engine.scopes import known
from app.errors import Refusal, phrase
from app.models.base import CLEAN, SINGLE, Row

PROBLEM = {"schema": {"$ref": "#/components/schemas/Problem"}}
ALWAYS = {421, 500, 503}  # 421: for a Host that HOSTS does not name
FOR_A_BODY = {408, 413, 415}
MACHINE_TOKEN = {
    "type": "apiKey",
    "in": "header",
    "name": "X-Token",
    "description": "For programs. POST /api/v1/machine_tokens makes one, and so does `python3 -m app token`.",
}
RETRY_AFTER = ("Retry-After", "integer", "Try again after so many seconds.")
HEADERS = {
    201: ("Location", "string", "Where it can be read from now on."),
    401: ("WWW-Authenticate", "string", "How to say who you are (RFC 6750)."),
    429: RETRY_AFTER,
    503: RETRY_AFTER,
}
ETAG = ("ETag", "string", "Of this version of the row: for `If-Match` and `If-None-Match`.")
IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "The `ETag` of what you have. If it is still the same, it is not sent again: 304.",
    "schema": {"type": "string", "title": "If-None-Match"},
}


def document(schema: dict[str, Any]) -> None:
    """Complete every operation in the OpenAPI document: what it answers, with which headers, and to which tokens."""
    # Last, since /docs puts the cursor there: otherwise people would not see where to log in.
    login = schema["components"]["securitySchemes"]["Login"]
    schema["components"]["securitySchemes"] = {"MachineToken": MACHINE_TOKEN, "Login": login}
    needed = {scope for of in schema["paths"].values() for each in of.values() for scope in _scopes(each)}
    login["flows"]["password"]["scopes"] = {name: known[name] for name in sorted(needed)}
    rows = _rows(schema["components"]["schemas"])
    _give_examples(schema["components"]["schemas"])
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            declared = {int(status): answer for status, answer in operation["responses"].items()}
            gives_row = any(_holds(answer, rows) for answer in declared.values())
            statuses = (declared.keys() | _possible(path, operation)) - _impossible(operation, declared)
            if gives_row and method == "get":
                statuses.add(304)
                _take(operation, IF_NONE_MATCH)
            operation["responses"] = {
                str(status): _answer(status, declared.get(status), gives_row=gives_row) for status in sorted(statuses)
            }
            if "security" in operation:  # wherever a login is asked for, a machine token will do
                operation["security"] = [{kind: _scopes(operation)} for kind in ("Login", "MachineToken")]


def _scopes(operation: dict[str, Any]) -> list[str]:
    """Those that its dependencies declare, all of which a token must have."""
    return sorted({scope for each in operation.get("security", ()) for of in each.values() for scope in of})


def _give_examples(models: dict[str, Any]) -> None:
    """Of texts that have none: /docs would make one up from the pattern, of letters that nobody has seen."""
    for model in models.values():
        for name, field in model.get("properties", {}).items():
            for kind in field.get("anyOf", [field]):
                if kind.get("pattern") in (CLEAN["pattern"], SINGLE["pattern"]) and "examples" not in field:
                    field["examples"] = [name.replace("_", " ")[: kind.get("maxLength")]]


def _rows(models: dict[str, Any]) -> set[str]:
    """What answers call the models that are a Row."""
    own = Row.model_fields.keys()
    return {f"#/components/schemas/{name}" for name, of in models.items() if own <= of.get("properties", {}).keys()}


def _holds(answer: dict[str, Any], models: set[str]) -> bool:
    return any(content.get("schema", {}).get("$ref") in models for content in answer.get("content", {}).values())


def _possible(path: str, operation: dict[str, Any]) -> set[int]:
    return (
        ALWAYS
        | (FOR_A_BODY if "requestBody" in operation else set())
        | ({401, 403} if "security" in operation else set())
        | ({404} if "{" in path else set())
        | ({412} if any(parameter["name"] == "If-Match" for parameter in operation.get("parameters", ())) else set())
    )


def _impossible(operation: dict[str, Any], declared: dict[int, Any]) -> set[int]:
    # Either nothing is read that could be wrong, or a 400 in words of its own, as OAuth2 has it, stands for that.
    reads = "requestBody" in operation or "parameters" in operation
    has_own_words = 400 in declared and PROBLEM not in declared[400]["content"].values()
    return {422} if has_own_words or not reads else set()


def _take(operation: dict[str, Any], parameter: dict[str, Any]) -> None:
    parameters = operation.setdefault("parameters", [])
    if parameter not in parameters:
        parameters.append(parameter)


def _answer(status: int, declared: dict[str, Any] | None, *, gives_row: bool) -> dict[str, Any]:
    answer = declared or {"description": phrase(status)}
    if not declared and status >= 400:
        answer["content"] = {"application/json": PROBLEM}
    # FastAPI knows one media type for all the answers of a route.
    if [*answer.get("content", {}).values()] == [PROBLEM]:
        answer["content"] = {Refusal.media_type: PROBLEM}
    # Many rows have no address of their own.
    headers = [HEADERS[status]] if status in HEADERS and (gives_row or status != 201) else []
    if gives_row and status in (200, 201, 304):
        headers.append(ETAG)
    if headers:
        answer["headers"] = {
            name: {"description": description, "required": True, "schema": {"type": kind}}
            for name, kind, description in headers
        }
    return answer
