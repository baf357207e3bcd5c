"""The API's table of contents: every router imported here is answered at /api/v1, and as well at /api/latest."""

from fastapi import APIRouter

from app.routers.admin import router as admin
from app.routers.items import router as items
from app.routers.token import router as token
from app.routers.users import router as users

api = APIRouter()
for router in [found for found in globals().values() if isinstance(found, APIRouter) and found is not api]:
    api.include_router(router)
