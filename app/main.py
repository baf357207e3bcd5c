"""How it is put together: what surrounds every request, what stands open during a run, and where things are found."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from functools import partial

from fastapi import Depends, FastAPI

from app import accounts, pages
from app.deps import require_writable
from app.engine import logs
from app.engine.caller import Caller
from app.engine.database import connect
from app.engine.http import dispatch, refusals
from app.engine.http.answers import EXPOSED, CatchAll, Cors
from app.engine.http.documents import Documented
from app.engine.pruning import keep_pruning
from app.engine.sessions import SESSIONS, create_session_engine
from app.engine.working import working
from app.errors import documented
from app.middleware import Envelope
from app.routers import api, health
from app.routers.token import router as token
from app.settings import Settings, get_settings
from app.start import hasher_for, prepare


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    await prepare(settings)
    url, pgbouncer = settings.database_url, settings.pgbouncer
    does_jobs = settings.jobs_in_server and not settings.read_only
    app.state.session_engine = create_session_engine(url, pgbouncer=pgbouncer)
    app.state.session_places = asyncio.Semaphore(SESSIONS)
    app.state.hasher = hasher_for(settings)
    app.state.hasher.warm_up()
    try:
        # One budget: what Sessions and /ready take is not there for verbs.
        size = settings.database_connections - SESSIONS - 1
        async with (
            connect(url, size=size, pgbouncer=pgbouncer) as app.state.database,
            connect(url, size=1, pgbouncer=pgbouncer) as app.state.probe,
            asyncio.TaskGroup() as background,
            working(Caller(app.state.database)) if does_jobs else nullcontext(),
        ):
            application = Caller(app.state.database)
            also = [partial(forget, application) for forget in (accounts.forget_expired, accounts.forget_expired_links)]
            pruning = background.create_task(
                keep_pruning(app.state.database, history_days=settings.history_days, also=also)
            )
            yield
            pruning.cancel()
    finally:
        logs.flush()
        app.state.hasher.close()
        app.state.session_engine.dispose()


def create_app(settings: Settings) -> FastAPI:
    """The application under `settings`."""
    logs.configure(for_people=settings.environment == "development")
    app = Documented(
        title="Cadre",
        summary="A backend for small teams.",
        version="0.1.0",
        lifespan=lifespan,
        # Only when it is asked for: a guard costs each request some 35 us.
        dependencies=[Depends(require_writable)] if settings.read_only else [],
        responses=documented(422),  # FastAPI would tell of its own; what else all can answer is in engine/openapi.py
        generate_unique_id_function=lambda route: route.name,
        openapi_tags=[{"name": "token"}, {"name": "users"}],  # these first
        docs_url=None,  # pages.py has them, with no CDN
        redoc_url=None,
        redirect_slashes=False,  # the routing table answers both spellings
        telemetry={"tracing": False, "metrics": False, "logs": False},  # a tenth of a small request, unasked for
    )
    app.state.settings = settings
    app.include_router(api, prefix="/api/v1")
    app.include_router(api, prefix="/api/latest", include_in_schema=False)
    app.include_router(token, include_in_schema=False)  # /token, where OAuth2 clients look first
    app.include_router(health.router, tags=["health"])
    pages.install(app)
    refusals.install(app)
    app.add_middleware(CatchAll)
    if settings.cors_origins or settings.cors_origin_regex:
        app.add_middleware(
            Cors,
            allow_origins=settings.cors_origins,
            allow_origin_regex=settings.cors_origin_regex,
            allow_credentials=settings.cors_credentials,
            allow_methods=settings.cors_methods,
            allow_headers=settings.cors_headers,
            expose_headers=EXPOSED,
            max_age=settings.cors_max_age,
        )
    app.add_middleware(Envelope, log_requests=settings.log_requests)  # added last: outermost
    limits = dispatch.Limits(
        concurrent_requests=settings.concurrent_requests,
        max_body_size=settings.max_body_size,
        hosts=settings.hosts,
        ungated=health.PATHS,
    )
    dispatch.install(app, limits)
    return app


app = create_app(get_settings())
