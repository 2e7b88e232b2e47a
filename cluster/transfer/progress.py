"""How far an import has come: a small file beside the input, from which it resumes.

It says how many records from the start are surely written (with a digest of them: the file may be
mended or grow behind them), and how far beyond them any may have been sent. After a crash of the
importer the records between the two are compared with the cluster before they are written again,
so that none is written twice.
"""

import json
import os
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Final

from cluster.transfer.records import Record

FORMAT: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The state of one import of one file into one cluster."""

    cluster_id: str
    size_bytes: int
    modified_ns: int
    written: int = 0  # records from the start of the file that are in the cluster
    digest: str = ""  # of these records
    sent: int = 0  # no record at or after this one has ever been sent
    complete: bool = False


class ProgressMismatch(Exception):
    """There is a state file, and it belongs to something else."""


class RecordsDigest:
    """A digest of records in order, as far as they were read."""

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=16)

    def add(self, record: Record) -> None:
        key = record.key.encode()
        ttl_ms = -1 if record.ttl_ms is None else record.ttl_ms
        self._hash.update(b"%d %d %d " % (len(key), len(record.value), ttl_ms))
        self._hash.update(key)
        self._hash.update(record.value)

    def text(self) -> str:
        return self._hash.hexdigest()


def progress_path(file: Path) -> Path:
    """Where the progress of importing `file` is kept."""
    return file.with_name(file.name + ".import-state")


def start(file: Path, cluster_id: str) -> Progress:
    """The progress of an import that begins now."""
    facts = file.stat()
    return Progress(cluster_id=cluster_id, size_bytes=facts.st_size, modified_ns=facts.st_mtime_ns)


def resume(file: Path, cluster_id: str) -> Progress:
    """The progress to go on from; raises ProgressMismatch when it is not about this import."""
    fresh = start(file, cluster_id)
    path = progress_path(file)
    try:
        fields = json.loads(path.read_text())
        if fields.pop("format", None) != FORMAT:
            raise ValueError
        kept = Progress(**fields)
    except FileNotFoundError:
        return fresh
    except (ValueError, TypeError):
        raise ProgressMismatch(f"{path} is not the state of an import") from None
    if kept.cluster_id != cluster_id:
        raise ProgressMismatch(f"{path} belongs to an import into cluster {kept.cluster_id}")
    unchanged = (kept.size_bytes, kept.modified_ns) == (fresh.size_bytes, fresh.modified_ns)
    return replace(
        kept,
        size_bytes=fresh.size_bytes,
        modified_ns=fresh.modified_ns,
        complete=kept.complete and unchanged,
    )


def save(file: Path, progress: Progress) -> None:
    """Replace the state file as a whole, on disk before it counts."""
    path = progress_path(file)
    new = path.with_suffix(path.suffix + ".new")
    with new.open("w") as stream:
        stream.write(json.dumps({"format": FORMAT, **asdict(progress)}) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(path)
