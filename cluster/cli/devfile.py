"""The note that a running `cluster dev` leaves, so that other commands find its nodes.

One file per user: the cluster that was started last. It names the process that wrote it, and a note
whose process is gone counts for nothing.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class DevCluster:
    """A running `cluster dev`."""

    pid: int
    data: str
    endpoints: list[str]
    http: list[str]
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None


def note_path(environment: Mapping[str, str]) -> Path:
    """`$XDG_STATE_HOME/tremula/dev.json`, where state that survives no machine belongs."""
    base = environment.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "tremula" / "dev.json"


def write_note(path: Path, cluster: DevCluster) -> None:
    """Replace the note as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(f".{cluster.pid}")
    new.write_text(json.dumps(asdict(cluster), indent=2) + "\n")
    new.replace(path)


def read_note(path: Path) -> DevCluster | None:
    """The cluster that runs now, or None."""
    try:
        cluster = DevCluster(**json.loads(path.read_text()))
        os.kill(cluster.pid, 0)
    except PermissionError:
        return None  # the number belongs to somebody else's process now
    except (OSError, ValueError, TypeError):
        return None
    return cluster


def remove_note(path: Path, pid: int) -> None:
    """Take the note away, unless another cluster has replaced it."""
    cluster = read_note(path)
    if cluster is not None and cluster.pid == pid:
        path.unlink(missing_ok=True)
