"""The pages for people: `/`, `/account`, `/docs`, `/redoc`. They work with no internet, under a strict policy each."""

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from starlette.responses import FileResponse, HTMLResponse, Response

from app.engine.http.files import BASE_POLICY, Files, seal
from app.settings import ROOT

STATIC = ROOT / "static"
DOCS_FILES = Path(str(files("fastapi_offline"))) / "static"

router = APIRouter(include_in_schema=False)
static = Files(directory=STATIC)

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
# The browser may call the API, and run the page's own script.
ACCOUNT_POLICY = f"{BASE_POLICY}; style-src 'self'; img-src 'self'; script-src 'self'; connect-src 'self'"


@router.get("/", response_class=FileResponse)
async def read_front_page(request: Request) -> Response:
    return await static.get_response("index.html", request.scope)


@router.get("/account", response_class=FileResponse)
async def read_account_page(request: Request) -> Response:
    """Where the links in mails lead."""
    response = await static.get_response("account.html", request.scope)
    response.headers["Content-Security-Policy"] = ACCOUNT_POLICY
    return response


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
