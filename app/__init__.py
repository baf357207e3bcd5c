"""Cadre, a backend for small teams. Declare an entity once; everything else follows from the declaration.

Read it in this order:

1. `models/item.py`, then `models/base.py`: what an entity is, and what every entity has.
2. `routers/__init__.py`: the API's table of contents; then `routers/items.py`.
3. `deps.py`: what a route can ask for by type.
4. `crud.py`: the verbs and `transaction()`, the one way to write.
5. `security.py` and `accounts/`: what a token is, who may log in, and until when.
6. `main.py`: how it is put together, and `start.py` what is true before the first request; `errors.py`: how it refuses.

`mail.py` is a capability that can go.
`extras/` holds the routes that are alike for every entity: docs/extras.md.
`engine/` is the engine room: how verbs become SQL and reach the database, and in `engine/http/` how requests come in.
docs/engine.md says why it exists.
"""
