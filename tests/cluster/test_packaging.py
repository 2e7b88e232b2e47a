"""What a fresh machine needs: the distribution, its commands, and the scripts of the checkout."""

import importlib
import os
import subprocess
from pathlib import Path

import pytest
import tomli

from cluster.installation import DISTRIBUTION, PACKAGES

ROOT = Path(__file__).parents[2]
PROJECT = tomli.loads((ROOT / "pyproject.toml").read_text())


def test_distribution_has_its_name_packages_and_two_commands() -> None:
    """`tremula` brings our packages, and both commands start the same function."""
    assert PROJECT["project"]["name"] == DISTRIBUTION
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert tuple(wheel["packages"]) == PACKAGES
    scripts = PROJECT["project"]["scripts"]
    assert set(scripts) == {"cluster", "tremula"}
    assert len(set(scripts.values())) == 1
    module, _, function = scripts["cluster"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_every_dependency_is_bounded() -> None:
    """An upgrade of a dependency is a decision: each has an upper bound, or is pinned."""
    extras = PROJECT["project"]["optional-dependencies"]["dev"]
    for requirement in [*PROJECT["project"]["dependencies"], *extras]:
        assert "==" in requirement or ",<" in requirement, requirement


@pytest.mark.parametrize("name", ["dev", ".ci/run"])
def test_scripts_can_be_run(name: str) -> None:
    """The scripts are executable and the shell can read them."""
    assert os.access(ROOT / name, os.X_OK)
    subprocess.run(["bash", "-n", ROOT / name], check=True)


def test_dev_explains_itself() -> None:
    """`./dev` without a command lists its verbs and is a usage error, without an environment."""
    shown = subprocess.run([ROOT / "dev"], capture_output=True, text=True, check=False)
    assert shown.returncode == 2
    for verb in ("up", "test", "lint", "sim", "bench", "proof"):
        assert f"\n  {verb} " in shown.stderr
