"""What every operation can answer besides its own, told once for all: a route declares only what is special to it."""

from typing import Any

from app.errors import Refusal, phrase

PROBLEM = {"schema": {"$ref": "#/components/schemas/Problem"}}
ALWAYS = {421, 500, 503}  # 421: for a Host that HOSTS does not name
FOR_A_BODY = {408, 413, 415}
MACHINE_TOKEN = {
    "type": "apiKey",
    "in": "header",
    "name": "X-Token",
    "description": "For programs: `python3 -m app token`.",
}
HEADERS = {
    201: ("Location", "string", "Where it can be read from now on."),
    401: ("WWW-Authenticate", "string", "How to say who you are (RFC 6750)."),
    503: ("Retry-After", "integer", "Try again after so many seconds."),
}


def document(schema: dict[str, Any]) -> None:
    """Complete every operation in the OpenAPI document: what it answers, with which headers, and to which tokens.

    Once more changes nothing: FastAPI keeps the document, and hands out the same.
    """
    schema["components"]["securitySchemes"]["MachineToken"] = MACHINE_TOKEN
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            declared = {int(status): answer for status, answer in operation["responses"].items()}
            statuses = (declared.keys() | _possible(path, operation)) - _impossible(operation, declared)
            operation["responses"] = {str(status): _answer(status, declared.get(status)) for status in sorted(statuses)}
            if "security" in operation:  # wherever a login is asked for, a machine token will do
                operation["security"] = [{"Login": []}, {"MachineToken": []}]


def _possible(path: str, operation: dict[str, Any]) -> set[int]:
    return (
        ALWAYS
        | (FOR_A_BODY if "requestBody" in operation else set())
        | ({401} if "security" in operation else set())
        | ({404} if "{" in path else set())
    )


def _impossible(operation: dict[str, Any], declared: dict[int, Any]) -> set[int]:
    # Either nothing is read that could be wrong, or a 400 in words of its own, as OAuth2 has it, stands for that.
    reads = "requestBody" in operation or "parameters" in operation
    has_own_words = 400 in declared and PROBLEM not in declared[400]["content"].values()
    return {422} if has_own_words or not reads else set()


def _answer(status: int, declared: dict[str, Any] | None) -> dict[str, Any]:
    answer = declared or {"description": phrase(status), "content": {"application/json": PROBLEM}}
    # FastAPI knows one media type for all the answers of a route.
    if answer.get("content") == {"application/json": PROBLEM}:
        answer["content"] = {Refusal.media_type: PROBLEM}
    if status in HEADERS:
        name, kind, description = HEADERS[status]
        answer["headers"] = {name: {"description": description, "required": True, "schema": {"type": kind}}}
    return answer
