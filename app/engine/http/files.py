"""Files and pages that a browser may trust: nothing is shown that is not meant to be, and no script runs but theirs."""

import base64
import hashlib
import re
from pathlib import Path

from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response
from starlette.types import Scope

BASE_POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
DOCS_POLICY = f"{BASE_POLICY}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'"


class Files(StaticFiles):
    """A folder for all to see, without its dot files; a link that leads out of it is not followed."""

    def get_path(self, scope: Scope) -> str:
        if scope["path"].endswith("/"):
            raise HTTPException(404)  # a file is no folder
        return super().get_path(scope)

    async def get_response(self, path: str, scope: Scope) -> Response:
        # Sent whole: Starlette would answer a malformed Range in a shape of its own.
        scope["headers"] = [header for header in scope["headers"] if header[0] != b"range"]
        if any(part.startswith(".") for part in Path(path).parts):
            raise HTTPException(404)
        response = await super().get_response(path, scope)
        response.headers["Content-Security-Policy"] = f"{BASE_POLICY}; style-src 'self'; img-src 'self'"
        response.headers.setdefault("Cache-Control", "public, no-cache")
        return response


def seal(page: HTMLResponse, policy: str) -> tuple[bytes, dict[str, str]]:
    """The page's HTML, and a policy under which those scripts run that are in it now, and no others."""
    html = bytes(page.body)
    scripts = re.findall(rb"<script>(.*?)</script>", html, re.DOTALL)
    hashes = (base64.b64encode(hashlib.sha256(script).digest()).decode() for script in scripts)
    allowed = " ".join(["'self'", *(f"'sha256-{digest}'" for digest in hashes)])
    return html, {"Content-Security-Policy": f"{DOCS_POLICY}; script-src {allowed}; {policy}"}
