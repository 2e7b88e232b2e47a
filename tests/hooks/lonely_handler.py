"""A module with one handler."""

from hooks.registry import HookContext, hook


@hook()
def lonely(context: HookContext) -> None: ...
