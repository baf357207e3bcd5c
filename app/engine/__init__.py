"""The engine room: how verbs become SQL and reach the database. It knows no entity; docs/engine.md says why it is."""
