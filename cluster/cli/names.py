"""Names of handlers and of groups as people type them: what none can be is refused here."""

from __future__ import annotations

from typing import Annotated

import typer

from pubsub.topics import validate_name


def _checked(name: str) -> str:
    is_text = name.encode(errors="replace").decode() == name
    if problem := validate_name(name, "name") if is_text else "name: not valid UTF-8":
        raise typer.BadParameter(problem)
    return name


HandlerName = Annotated[str, typer.Argument(help="The handler's name.", callback=_checked)]
GroupName = Annotated[str, typer.Argument(help="The group's name.", callback=_checked)]
