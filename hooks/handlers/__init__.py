"""The kinds of handlers: Python functions and commands."""
