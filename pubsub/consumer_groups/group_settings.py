"""How a consumer group was defined beyond its pattern: its mode, its leases, its patience.

A row exists only for groups that were defined with options; all others are partitioned groups with
the defaults. The options of a definition are the whole of it: what they leave out is the default.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import apsw

from pubsub.consumer_groups.group_tables import is_count, malformed
from pubsub.limits import (
    BACKOFF_STEPS_MAX,
    COOLDOWN_MS_MAX,
    DELIVERIES_MAX,
    IN_FLIGHT_MAX,
    LEASE_MS_MAX,
    LEASE_MS_MIN,
    REDELIVERY_DELAY_MS_MAX,
)
from pubsub.rejection import Rejection
from pubsub.topics import closest

PARTITIONED: Final = "partitioned"
COMPETING: Final = "competing"

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS group_settings(
    group_id INTEGER PRIMARY KEY,
    mode TEXT NOT NULL,
    protected INTEGER NOT NULL,      -- retention waits for the group
    cooldown_ms INTEGER NOT NULL,
    lease_ms INTEGER NOT NULL,
    max_deliveries INTEGER NOT NULL,
    backoff_ms TEXT NOT NULL,        -- integers with blanks between them
    max_in_flight INTEGER NOT NULL,
    ordered INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS group_pauses(
    group_id INTEGER PRIMARY KEY,    -- a row for each group that is paused
    wall_ms INTEGER NOT NULL         -- since when
) STRICT;
CREATE TABLE IF NOT EXISTS group_holds(
    group_id INTEGER PRIMARY KEY,    -- a row for each group that its owner holds still
    wall_ms INTEGER NOT NULL         -- since when
) STRICT;
"""

TABLES_BY_GROUP: Final = ("group_settings", "group_pauses", "group_holds")


class Settings(NamedTuple):
    """The options of a group, with what they left out filled in."""

    mode: str = PARTITIONED
    protected: bool = True
    cooldown_ms: int = 0  # partitioned: so long after a move the living keep what they have
    lease_ms: int = 30_000  # competing, like all that follows
    max_deliveries: int = 5
    backoff_ms: tuple[int, ...] = ()  # before the second, third, ... delivery; the last one stays
    max_in_flight: int = 1_000
    ordered: bool = False  # one event of a key at a time

    @property
    def is_competing(self) -> bool:
        """Whether members compete for each event instead of owning partitions."""
        return self.mode == COMPETING


DEFAULTS: Final = Settings()


class _Option(NamedTuple):
    mode: str | None  # the only mode that it has a meaning in
    is_valid: Callable[[Any], bool]
    needed: str


def _is_bool(value: Any) -> bool:
    return type(value) is bool


def _is_backoff(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) <= BACKOFF_STEPS_MAX
        and all(is_count(step) and step <= REDELIVERY_DELAY_MS_MAX for step in value)
    )


_OPTIONS: Final[dict[str, _Option]] = {
    "mode": _Option(
        None,
        lambda value: isinstance(value, str) and value in (PARTITIONED, COMPETING),
        f'"{PARTITIONED}" or "{COMPETING}"',
    ),
    "protected": _Option(None, _is_bool, "true or false"),
    "cooldown_ms": _Option(
        PARTITIONED,
        lambda value: is_count(value) and value <= COOLDOWN_MS_MAX,
        f"from 0 to {COOLDOWN_MS_MAX}",
    ),
    "lease_ms": _Option(
        COMPETING,
        lambda value: is_count(value, LEASE_MS_MIN) and value <= LEASE_MS_MAX,
        f"from {LEASE_MS_MIN} to {LEASE_MS_MAX}",
    ),
    "max_deliveries": _Option(
        COMPETING,
        lambda value: is_count(value, 1) and value <= DELIVERIES_MAX,
        f"from 1 to {DELIVERIES_MAX}",
    ),
    "backoff_ms": _Option(
        COMPETING,
        _is_backoff,
        f"a list of at most {BACKOFF_STEPS_MAX} delays up to {REDELIVERY_DELAY_MS_MAX}",
    ),
    "max_in_flight": _Option(
        COMPETING,
        lambda value: is_count(value, 1) and value <= IN_FLIGHT_MAX,
        f"from 1 to {IN_FLIGHT_MAX}",
    ),
    "ordered": _Option(COMPETING, _is_bool, "true or false"),
}


def parse(options: Any) -> Settings | Rejection:
    """The settings that the options of a definition name; the defaults for nil."""
    if options is None:
        return DEFAULTS
    if not isinstance(options, dict):
        return malformed("options: a map is needed")
    mode = options.get("mode", PARTITIONED)
    for name, value in options.items():
        option = _OPTIONS.get(name) if isinstance(name, str) else None
        if option is None:
            near = closest(name, _OPTIONS) if isinstance(name, str) else None
            hint = f'; did you mean "{near}"?' if near else ""
            return malformed(f"options: {', '.join(_OPTIONS)} are known, nothing else{hint}")
        if not option.is_valid(value):
            return malformed(f"options: {name}: {option.needed} is needed")
        if option.mode not in (None, mode):
            return malformed(f"options: {name} has a meaning for {option.mode} groups only")
    values = dict(options)
    if "backoff_ms" in values:
        values["backoff_ms"] = tuple(values["backoff_ms"])
    return Settings(**values)


def load(connection: apsw.Connection, group_id: int) -> Settings:
    """The settings of a group; the defaults if it was defined without options."""
    row = connection.execute(
        "SELECT mode, protected, cooldown_ms, lease_ms, max_deliveries, backoff_ms, max_in_flight,"
        " ordered FROM group_settings WHERE group_id = ?",
        (group_id,),
    ).fetchone()
    return DEFAULTS if row is None else from_row(*row)


def from_row(
    mode: str,
    protected: int,
    cooldown_ms: int,
    lease_ms: int,
    max_deliveries: int,
    backoff_ms: str,
    max_in_flight: int,
    ordered: int,
) -> Settings:
    """The settings in the columns of their row."""
    return Settings(
        mode,
        bool(protected),
        cooldown_ms,
        lease_ms,
        max_deliveries,
        tuple(int(step) for step in backoff_ms.split()),
        max_in_flight,
        bool(ordered),
    )


def store(connection: apsw.Connection, group_id: int, settings: Settings) -> None:
    """Write the settings of a group."""
    connection.execute(
        "INSERT OR REPLACE INTO group_settings VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            group_id,
            settings.mode,
            int(settings.protected),
            settings.cooldown_ms,
            settings.lease_ms,
            settings.max_deliveries,
            " ".join(map(str, settings.backoff_ms)),
            settings.max_in_flight,
            int(settings.ordered),
        ),
    )


def describe(settings: Settings) -> dict[str, Any]:
    """The options that have a meaning in the group's mode, as `parse` takes them."""
    shown: dict[str, Any] = {}
    for name, option in _OPTIONS.items():
        value = getattr(settings, name)
        if option.mode in (None, settings.mode):
            shown[name] = list(value) if isinstance(value, tuple) else value
    return shown


def stands_still(group_id: str) -> str:
    """SQL for whether a group hands out nothing: for one reason or both. `group_id` is a column."""
    return (
        f"(EXISTS (SELECT 1 FROM group_pauses AS x WHERE x.group_id = {group_id})"
        f" OR EXISTS (SELECT 1 FROM group_holds AS y WHERE y.group_id = {group_id}))"
    )


def is_paused(connection: apsw.Connection, group_id: int) -> bool:
    """Whether somebody paused the group."""
    paused = connection.execute("SELECT 1 FROM group_pauses WHERE group_id = ?", (group_id,)).get
    return paused is not None


def is_held(connection: apsw.Connection, group_id: int) -> bool:
    """Whether whoever the group belongs to holds it still."""
    held = connection.execute("SELECT 1 FROM group_holds WHERE group_id = ?", (group_id,)).get
    return held is not None


def protected_floors(connection: apsw.Connection) -> list[tuple[str, str, int]]:
    """Name, pattern and lowest floor of each group that retention waits for, by name."""
    rows = connection.execute(
        "SELECT name, pattern, min(floor) FROM consumer_groups AS g"
        " JOIN group_partitions AS p ON p.group_id = g.id"
        " LEFT JOIN group_settings AS s ON s.group_id = g.id"
        " WHERE coalesce(protected, 1) GROUP BY g.id ORDER BY name"
    )
    return [(name, pattern, floor) for name, pattern, floor in rows]
