"""What the `[hooks]` section becomes: values, complete and valid. `config` makes them from a table,
`discovery` and `assembly` find what belongs to them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from hooks.configuration.definition import HandlerDefinition, Path
from hooks.replicated.capture import Rule
from pubsub.topics import Pattern, is_reserved

ENTRY_POINTS_GROUP: Final = "tremula.hooks"
ENTRY_POINT: Final = "entry point "  # before its name, where a problem names it
SHELL_PROGRAM: Final = "sh"  # what runs a command with shell = true


@dataclass(frozen=True, slots=True, kw_only=True)
class ShellRules:
    """`[hooks.shell]`: what the shell handlers of this node may be. Empty means no restriction.

    `allow_commands` is compared with the first argument of a command as it stands there: an
    absolute path, or a name that is looked up in PATH. With shell = true the program is "sh".
    `allow_env` bounds what handlers may name in `env`.
    """

    allow_commands: tuple[str, ...] = ()
    allow_env: tuple[str, ...] = ()

    def refusal(self, handler: HandlerDefinition) -> str | None:
        """Why these rules refuse a shell handler, or None: the one place where that is decided."""
        program = SHELL_PROGRAM if handler.shell else handler.command[0]
        if self.allow_commands and program not in self.allow_commands:
            return f'command "{program}" is not in allow_commands of [hooks.shell]'
        if self.allow_env:
            for name in handler.env:
                if name not in self.allow_env:
                    return f'env "{name}" is not in allow_env of [hooks.shell]'
        return None


class CodeSources(NamedTuple):
    """Where Python handlers come from: what a handler host is told, and imports."""

    modules: tuple[str, ...] = ()  # by name
    files: tuple[str, ...] = ()  # of the directory; absolute paths
    entry_points: bool | tuple[str, ...] = False  # all that are installed, or those of these names


@dataclass(frozen=True, slots=True, kw_only=True)
class HooksConfig:
    """The `[hooks]` section, complete and valid. Paths in it are absolute once a file was loaded.

    `directory` is a folder whose *.py files are modules with @hook functions and whose *.toml files
    have [[handlers]]; None means none, and one that is not there is a `LoadProblem`.
    `entry_points` (of the group "tremula.hooks"): True for all that are installed, or their names.
    `required`: the node does not start with any `LoadProblem`; without it only those of handlers
    that are required themselves stop it.
    `watch_files`: a change of the node's file, of the directory or of a module reloads [hooks].
    """

    enabled: bool = True
    publish_topics: tuple[Pattern, ...] = ()  # which hook events are routed; none means all
    modules: tuple[str, ...] = ()  # imported by the handler host; their @hook functions are found
    directory: str | None = None
    entry_points: bool | tuple[str, ...] = False
    required: bool = False
    watch_files: bool = True
    shell: ShellRules = field(default_factory=ShellRules)
    handlers: tuple[HandlerDefinition, ...] = ()
    capture: tuple[Rule, ...] = ()  # what the log keeps of values, to begin with

    @property
    def names_code(self) -> bool:
        """Whether handlers may come from elsewhere than [[hooks.handlers]]."""
        return bool(self.modules or self.directory or self.entry_points)

    def routes(self, topic: str) -> bool:
        """Whether events of this topic reach handlers: the filter is for the cluster's own ones."""
        if not self.publish_topics or not is_reserved(topic):
            return True
        return any(pattern.matches(topic) for pattern in self.publish_topics)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredFunction:
    """A function that the handler host found: what the decorator said about it."""

    handler_id: str
    where: str  # module and function, for messages
    pattern: str | None
    options: Mapping[str, object]  # as they were given: `assemble` checks them


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadProblem:
    """Something that the configuration names and this node cannot load: it starts without it, and
    says so in its log, in `hook list` and in `doctor`; or not at all, when it is `required`.

    `name` is the handler's, or that of the module, file or entry point when no handler is known.
    `handler` is there when only its code is missing: its policy can still be registered, together
    with `str(problem)`, so that the nodes that have the code can run it.
    """

    name: str
    text: str
    place: str = ""  # FILE:LINE or MODULE:FUNCTION, where that says more than the name
    required: bool = False
    handler: HandlerDefinition | None = None
    path: Path = ()  # in the node's own file, where the problem shows there
    suggestion: str | None = None  # the spelling that was probably meant
    elsewhere: bool = False  # it lacks something that may be defined in what was not looked at

    def __str__(self) -> str:
        meant = f' (did you mean "{self.suggestion}"?)' if self.suggestion else ""
        return f"{self.place or self.name}: {self.text}{meant}"
