"""`cluster node verify`: what a stopped node has stored, read to the last page."""

from pathlib import Path

import pytest

from cluster.datadir import LOG, STATE
from tests.cluster.cli_node import Ran, run, running_node


def _verify(directory: Path) -> Ran:
    return run("node", "verify", "--config", str(directory / "node.toml"))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a node that ran, wrote something and stopped."""
    directory = tmp_path_factory.mktemp("stopped")
    with running_node(directory) as endpoint:
        assert run("kv", "put", "k", "v" * 100, "--endpoints", endpoint).code == 0
        running = _verify(directory)
        assert (running.code, "is running" in running.err) == (1, True)
    return directory


def test_sound_directory_is_called_sound(stopped: Path) -> None:
    """After a clean stop every page and every entry is as it should be."""
    sound = _verify(stopped)
    assert sound.code == 0
    assert sound.out.endswith(f"entries of {LOG} are sound\n")


@pytest.mark.parametrize("name", [STATE, LOG])
def test_flipped_byte_and_missing_file_are_found(stopped: Path, tmp_path: Path, name: str) -> None:
    """One byte that rotted, and a file that is gone, are named with what to do."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in (stopped / "data").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    text = (stopped / "node.toml").read_text().replace('"data"', '"copy"')
    (tmp_path / "node.toml").write_text(text)
    data = bytearray((copy / name).read_bytes())
    data[data.index(b"v" * 100)] ^= 0xFF
    (copy / name).write_bytes(data)
    rotten = _verify(tmp_path)
    assert (rotten.code, f"{name} is corrupt" in rotten.err) == (1, True)
    (copy / name).unlink()
    assert _verify(tmp_path).code == 1


def test_other_folder_is_no_data_directory(tmp_path: Path) -> None:
    """A folder that no node has used is refused as such."""
    (tmp_path / "node.toml").write_text('[node]\nname = "a"\ndata_dir = "."\n')
    refused = _verify(tmp_path)
    assert (refused.code, "is not the data directory of a node" in refused.err) == (2, True)
