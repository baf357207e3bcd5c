"""The pages for people: `/`, `/docs`, `/redoc`, `/static`. They work with no internet, under a strict policy each."""

import base64
import hashlib
import re
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.types import Scope

from app.settings import ROOT

STATIC = ROOT / "static"
DOCS_FILES = Path(str(files("fastapi_offline"))) / "static"
BASE_POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
DOCS_POLICY = f"{BASE_POLICY}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'"

router = APIRouter(include_in_schema=False)


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


static = Files(directory=STATIC)


def seal(page: HTMLResponse, policy: str) -> tuple[bytes, dict[str, str]]:
    """The page's HTML, and a policy under which those scripts run that are in it now, and no others."""
    html = bytes(page.body)
    scripts = re.findall(rb"<script>(.*?)</script>", html, re.DOTALL)
    hashes = (base64.b64encode(hashlib.sha256(script).digest()).decode() for script in scripts)
    allowed = " ".join(["'self'", *(f"'sha256-{digest}'" for digest in hashes)])
    return html, {"Content-Security-Policy": f"{DOCS_POLICY}; script-src {allowed}; {policy}"}


SWAGGER = seal(
    get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Cadre: try the API",
        oauth2_redirect_url=None,
        swagger_js_url="/docs/files/swagger-ui-bundle.js",
        swagger_css_url="/docs/files/swagger-ui.css",
        swagger_favicon_url="/static/favicon.svg",
        swagger_ui_parameters={"persistAuthorization": True, "displayRequestDuration": True, "tryItOutEnabled": True},
    ),
    "font-src data:",
)
REDOC = seal(
    get_redoc_html(
        openapi_url="/openapi.json",
        title="Cadre: read the API",
        redoc_js_url="/docs/files/redoc.standalone.js",
        redoc_favicon_url="/static/favicon.svg",
        with_google_fonts=False,
    ),
    "worker-src blob:",
)


@router.get("/", response_class=FileResponse)
async def read_front_page(request: Request) -> Response:
    return await static.get_response("index.html", request.scope)


@router.get("/docs", response_class=HTMLResponse)
async def read_docs() -> Response:
    html, headers = SWAGGER
    return HTMLResponse(html, headers=headers)


@router.get("/redoc", response_class=HTMLResponse)
async def read_redoc() -> Response:
    html, headers = REDOC
    return HTMLResponse(html, headers=headers)


def install(app: FastAPI) -> None:
    """Put the pages beside the API of `app`."""
    app.include_router(router)
    app.mount("/static", static, name="static")
    app.mount("/docs/files", Files(directory=DOCS_FILES), name="docs")
