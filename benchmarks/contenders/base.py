"""The idiomatic style of the tutorials: `def` routes, a Session for each request, the ORM. What Cadre is compared with.

Written to be read and to be right, as most people write it; not slow on purpose. Models, schema and headers are the
app's own, so that only the way of working differs.
"""

import os
from collections.abc import Iterator
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Query, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.security import OAuth2PasswordBearer, OAuth2PasswordRequestForm
from jose import JWTError, jwt
from passlib.context import CryptContext
from sqlalchemy import event
from sqlmodel import Session, create_engine, select

from app.middleware import Envelope
from app.models import Item, ItemCreate, ItemRead, ItemUpdate, User, UserRead
from app.models.base import utcnow
from app.security import ALGORITHM, AUDIENCE, ISSUER, Identity, create_access_token

KEY, URL = os.environ["SECRET_KEY"], os.environ["DATABASE_URL"]
IS_SQLITE = URL.startswith("sqlite")

engine = create_engine(URL, connect_args={"check_same_thread": False, "timeout": 30} if IS_SQLITE else {})
passwords = CryptContext(["bcrypt_sha256"])
bearer = OAuth2PasswordBearer("/api/v1/token")

if IS_SQLITE:

    @event.listens_for(engine, "connect")
    def prepare(connection, _record):  # noqa: ANN001, ANN201
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")


def get_session() -> Iterator[Session]:
    with Session(engine) as session:
        yield session


SessionDep = Annotated[Session, Depends(get_session)]


def get_current_user(session: SessionDep, token: Annotated[str, Depends(bearer)]) -> User:
    refused = HTTPException(401, "Could not validate credentials", {"WWW-Authenticate": "Bearer"})
    try:
        claims = jwt.decode(token, KEY, algorithms=[ALGORITHM], audience=AUDIENCE, issuer=ISSUER)
        user = session.get(User, int(claims["sub"].removeprefix("user:")))
    except (JWTError, KeyError, ValueError):
        raise refused from None
    if not user or not user.is_active:
        raise refused
    return user


CurrentUser = Annotated[User, Depends(get_current_user)]

app = FastAPI()


@app.post("/api/v1/token")
def log_in(session: SessionDep, form: Annotated[OAuth2PasswordRequestForm, Depends()]) -> dict[str, str]:
    user = session.exec(select(User).where(User.username == form.username)).first()
    if not user or not passwords.verify(form.password, user.hashed_password):
        raise HTTPException(400, "Incorrect username or password")
    identity = Identity(user.id, user.is_superuser, 1, 1)
    return {"access_token": create_access_token(identity, keys=[KEY], minutes=15), "token_type": "bearer"}


@app.get("/api/v1/users/me", response_model=UserRead)
def read_me(user: CurrentUser) -> User:
    return user


@app.get("/api/v1/items", response_model=list[ItemRead])
def list_items(
    session: SessionDep, user: CurrentUser, skip: int = 0, limit: Annotated[int, Query(le=100)] = 100
) -> list[Item]:
    mine = select(Item).where(Item.owner_id == user.id).order_by(Item.id.desc())
    return list(session.exec(mine.offset(skip).limit(limit)).all())


@app.post("/api/v1/items", response_model=ItemRead, status_code=201)
def create_item(session: SessionDep, user: CurrentUser, data: ItemCreate, response: Response) -> Item:
    item = Item.model_validate(data, update={"owner_id": user.id})
    session.add(item)
    session.commit()
    session.refresh(item)
    response.headers["Location"] = f"/api/v1/items/{item.id}"
    return item


@app.get("/api/v1/items/{item_id}", response_model=ItemRead)
def read_item(session: SessionDep, user: CurrentUser, item_id: int) -> Item:
    return own(session, user, item_id)


@app.patch("/api/v1/items/{item_id}", response_model=ItemRead)
def update_item(session: SessionDep, user: CurrentUser, item_id: int, changes: ItemUpdate) -> Item:
    item = own(session, user, item_id)
    item.sqlmodel_update(changes.model_dump(exclude_unset=True), update={"updated_at": utcnow()})
    session.add(item)
    session.commit()
    session.refresh(item)
    return item


@app.delete("/api/v1/items/{item_id}", status_code=204)
def delete_item(session: SessionDep, user: CurrentUser, item_id: int) -> None:
    session.delete(own(session, user, item_id))
    session.commit()


def own(session: Session, user: User, item_id: int) -> Item:
    item = session.get(Item, item_id)
    if not item or item.owner_id != user.id:
        raise HTTPException(404, "Item not found")
    return item


app.add_middleware(CORSMiddleware)
app.add_middleware(Envelope)
