"""Where requests come in: the one part of the engine that knows a web framework."""
