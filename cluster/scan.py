"""Reading everything that a stopped node, or a copy of one, has stored: `cluster node verify`.

Pages of `state.db` against their checksums, tables against their indexes, entries of `raft.db`
against their chain. A running node does the same for its state (selfcheck.py); nobody else may open
its Raft log, which it reads through at every start.
"""

import fcntl
from pathlib import Path

import apsw

from cluster import state
from cluster.corruption import CorruptState, storage_error
from cluster.datadir import LOCK, LOG, STATE, DataDirError
from cluster.raft.log import CorruptLog, StorageFailed
from cluster.raft.sqlite_log import SqliteLog


def scan_stopped(directory: Path) -> tuple[str, list[str]]:
    """What is sound, in words, and what is wrong. Blocks; DataDirError while the node runs."""
    with (directory / LOCK).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataDirError(
                f"the node of {directory} is running: `cluster doctor --deep` asks it"
            ) from None
        return _scan(directory)


def _scan(directory: Path) -> tuple[str, list[str]]:
    sound: list[str] = []
    problems: list[str] = []
    try:
        if not (directory / STATE).exists():
            raise CorruptState(str(directory / STATE), "it is missing")
        connection = state.connect(directory / STATE)
        try:
            sound.append(f"{state.verify(connection)} pages of {STATE}")
        finally:
            connection.close()
    except apsw.Error as error:
        problems.append(str(storage_error(str(directory / STATE), error)))
    except (CorruptState, StorageFailed, OSError) as error:
        problems.append(str(error))
    try:
        log = SqliteLog.open(directory / LOG)  # opening reads every entry and checks the chain
        sound.append(f"{len(log)} entries of {LOG}")
        log.close()
    except (CorruptLog, StorageFailed) as error:
        problems.append(str(error))
    return f"{' and '.join(sound) or 'nothing'} are sound", problems
