"""Running handlers: what to read, when to start, what becomes of it, what is written down."""
