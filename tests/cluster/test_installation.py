"""Whether Tremula notices that somebody else owns its package names."""

from importlib.metadata import packages_distributions

from cluster.installation import conflicts


def test_other_owner_of_a_package_is_named() -> None:
    """A distribution that brings a package of ours is reported with what to do."""
    (found,) = conflicts({"pubsub": ["PyPubSub"], "requests": ["requests"]})
    assert (found.package, found.distribution) == ("pubsub", "PyPubSub")
    assert "pipx install tremula" in str(found)


def test_our_own_distribution_is_no_conflict() -> None:
    """Tremula owning its packages, under any spelling, is how it should be."""
    assert conflicts({"cluster": ["tremula"], "hooks": ["Tremula", "Tremula"]}) == []


def test_this_environment_is_clean() -> None:
    """The environment that the tests run in has no conflict."""
    assert conflicts(packages_distributions()) == []
