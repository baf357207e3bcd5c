"""What Alembic runs for every command: the metadata of the models, and the database of the settings."""

from alembic.autogenerate.api import AutogenContext
from alembic.operations.ops import MigrationScript
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Enum
from sqlmodel import SQLModel
from sqlmodel.sql.sqltypes import AutoString

import app.models  # noqa: F401  # every table, so that autogenerate can see it
from alembic import context
from app.engine import recording
from app.engine.migrations import connect
from app.models.types import JsonColumn
from app.settings import get_settings


def render_item(kind: str, item: object, autogen: AutogenContext) -> str | bool:
    """Say plain SQLAlchemy types, so that a migration does not change its meaning with a library."""
    if kind != "type":
        return False
    if isinstance(item, AutoString):
        return f"sa.String(length={item.length})" if item.length else "sa.String()"
    if type(item).__name__ == "UTCDateTime":
        return "sa.DateTime(timezone=True)"
    if isinstance(item, Enum) and not item.native_enum:
        return f"sa.String(length={item.length})"
    if item is JsonColumn:
        # Alembic's own words for it, written beside SQLite, lack an import.
        autogen.imports.add("from sqlalchemy.dialects import postgresql")
        return "sa.JSON().with_variant(postgresql.JSONB(), 'postgresql')"
    return False


def number(_context: object, _revision: object, directives: list[MigrationScript]) -> None:
    """Call the next migration by the next number. Two of one number, as after a merge, make the tests fail."""
    known = ScriptDirectory.from_config(context.config).walk_revisions()
    newest = max((int(script.revision) for script in known if script.revision.isdecimal()), default=0)
    for script in directives:
        script.rev_id = f"{newest + 1:04}"


def run(connection: Connection | None) -> None:
    context.configure(
        connection=connection,
        url=None if connection else get_settings().database_url,
        target_metadata=SQLModel.metadata,
        render_item=render_item,
        process_revision_directives=number,
        # SQLite cannot alter a column: Alembic rebuilds the table.
        render_as_batch=True,
        transactional_ddl=True,
        autogenerate_plugins=["alembic.autogenerate.*", "alembic.ext.checkconstraint_byname"],
        literal_binds=connection is None,
    )
    with context.begin_transaction():
        context.run_migrations()
        if connection:
            recording.install(connection)


if context.is_offline_mode():
    run(None)
elif "connection" in context.config.attributes:
    run(context.config.attributes["connection"])
else:
    with connect(get_settings().database_url) as connection:
        run(connection)
