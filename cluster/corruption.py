"""What an error of SQLite under `state.db` means: a corrupt file, a disk that refuses, or our bug.

Foreign exceptions are mapped here and nowhere else.
"""

import apsw

from cluster.raft.log import StorageFailed

RECOVERY = (
    "Stop this node, move its data directory away, remove the node from the cluster and add it "
    "again; it then gets the state from its peers."
)


class CorruptState(Exception):
    """`state.db` cannot be trusted: the node must not go on with it."""

    def __init__(self, path: str, detail: str) -> None:
        super().__init__(f"{path or 'the state in memory'} is corrupt: {detail}. {RECOVERY}")
        self.path = path
        self.detail = detail


class UnsupportedState(Exception):
    """`state.db` was written by a newer release."""

    def __init__(self, path: str, found: int, known: int) -> None:
        super().__init__(
            f"{path} has format {found}, and this release knows up to {known}: upgrade this node"
        )
        self.path = path
        self.found = found
        self.known = known


_REFUSED = (
    apsw.FullError,
    apsw.IOError,
    apsw.CantOpenError,
    apsw.ReadOnlyError,
    apsw.PermissionsError,
)


def storage_error(path: str, error: apsw.Error) -> Exception:
    """The exception to raise in place of `error`; `error` itself when it is nobody's but ours."""
    if isinstance(error, apsw.CorruptError | apsw.NotADBError):
        return CorruptState(path, str(error))
    # What the checksum VFS answers for a page whose checksum does not fit.
    if getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_DATA:
        return CorruptState(path, "the checksum of a page does not fit")
    if isinstance(error, _REFUSED):
        return StorageFailed(path, str(error))
    return error
