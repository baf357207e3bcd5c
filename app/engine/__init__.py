"""The engine room: how verbs become SQL, and how requests come in. It knows no entity; docs/engine.md says why."""
