"""The API's table of contents: every router imported here is answered at /api/v1, and as well at /api/latest."""

from fastapi import APIRouter

from app.routers.admin import router as admin
from app.routers.items import router as items
from app.routers.links import router as links
from app.routers.machine_tokens import router as machine_tokens
from app.routers.sessions import router as sessions
from app.routers.token import router as token
from app.routers.users import router as users

api = APIRouter()
found = [router for router in globals().values() if isinstance(router, APIRouter) and router is not api]
for router in sorted(found, key=lambda router: router is admin):  # which in /docs comes last
    api.include_router(router)
