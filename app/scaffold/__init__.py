"""`python3 -m app new`: an entity as plain source, as a person would write it, complete or not at all.

names.py and fields.py read what was asked for, source.py holds the two files, plan.py refuses what cannot be,
writing.py puts it all into the tree.
"""

from collections.abc import Sequence
from pathlib import Path

from app.scaffold.plan import Plan, plan
from app.scaffold.writing import write

__all__ = ["ACCESS", "HELP", "plan", "told", "write"]

ACCESS = "Who sees a row: whose it is, everyone signed in, or superusers."
HELP = """\
A field is name:type[:arguments][?], and what ends in ? may be empty. The shell wants quotes around ? and parentheses.

  str[:length]  text[:length]  int  float  decimal[:digits,places]  bool  date  datetime  uuid  json  bytes[:length]

  enum:open,closed   ref:company[:cascade|restrict|setnull]   or with parentheses: 'ref(company)'

Examples:

  python3 -m app new company name:str --unique name --access shared

  python3 -m app new project name:str 'budget:decimal?' 'due:date?' client:ref:company

  python3 -m app new ticket title:str:80 status:enum:open,closed 'assignee:ref(user)?'

  python3 -m app new assignment project:ref user:ref since:date --link
"""


def told(plan: Plan, written: Sequence[Path]) -> str:
    """What happened, and what comes next."""
    lines = [f"  {path}" for path in written] + [f"  {path}  (one line)" for path in plan.registrations]
    return "\n".join(
        [
            *lines,
            "They are yours to read and change. Then:",
            f"  python3 -m app           migrates, and serves /api/v1/{plan.names}; stop it first if it runs",
            "  python3 -m app openapi   renews docs/openapi.json",
        ]
    )
