"""The API's table of contents. What is included here is answered at /api/v1, and as well at /api/latest."""

from fastapi import APIRouter, Depends

from app.deps import require_superuser
from app.problems import documented
from app.routers import admin, items, token, users

api = APIRouter()
api.include_router(token.router, tags=["token"])
api.include_router(users.router, prefix="/users", tags=["users"])
api.include_router(items.router, prefix="/items", tags=["items"])
api.include_router(
    admin.router, prefix="/admin", tags=["admin"], dependencies=[Depends(require_superuser)], responses=documented(403)
)
