"""What is wrong with a configuration: all of it at once, each with place, reason and remedy."""

from dataclasses import dataclass

from hooks.configuration.definition import Path, Problem


@dataclass(frozen=True, slots=True)
class Located:
    """A problem and the place to look at: `FILE:LINE` or the name of an environment variable."""

    place: str
    problem: Problem

    def __str__(self) -> str:
        problem = self.problem
        question = f'; did you mean "{problem.suggestion}"?' if problem.suggestion else ""
        return f"{self.place}: {dotted(problem.path)}: {problem.message}{question}"


class ConfigError(Exception):
    """The configuration was refused; `problems` has everything that is wrong with it."""

    def __init__(self, problems: tuple[Located, ...]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


def dotted(path: Path) -> str:
    """A path as people write it: `hooks.handlers[0].name`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "file"
