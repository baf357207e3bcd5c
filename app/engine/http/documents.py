"""FastAPI, with what it has no words for told in its OpenAPI document."""

from typing import Any

from fastapi import FastAPI

from app.engine.http.idempotency import document_keys
from app.engine.http.queries import document_lists
from app.engine.openapi import document


class Documented(FastAPI):
    """What lists can be asked, which operations take a key, and what every operation answers."""

    def openapi(self) -> dict[str, Any]:
        if not self.openapi_schema:
            schema = super().openapi()  # which keeps it there
            document_lists(self, schema)
            document(schema)
            document_keys(self, schema)
        return self.openapi_schema or {}
