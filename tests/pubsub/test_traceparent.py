"""What is a W3C traceparent."""

import pytest

from pubsub.traceparent import validate_traceparent

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


@pytest.mark.parametrize(
    "text", [f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00", f"cc-{TRACE}-{PARENT}-01-more"]
)
def test_good_ones(text: str) -> None:
    """The form of version 00, and what a later version may append to it."""
    assert validate_traceparent(text) is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "is needed"),
        ("", "is needed"),
        ("00-ab-cd-01", "is needed"),
        (f"00-{TRACE.upper()}-{PARENT}-01", "is needed"),
        (f"00-{TRACE}-{PARENT}-01\n", "is needed"),
        (f"00-{TRACE}-{PARENT}-01-more", "another form"),
        (f"ff-{TRACE}-{PARENT}-01", "another form"),
        (f"00-{'0' * 32}-{PARENT}-01", "trace id"),
        (f"00-{TRACE}-{'0' * 16}-01", "parent id"),
    ],
)
def test_bad_ones(text: object, complaint: str) -> None:
    """Each breach is named."""
    problem = validate_traceparent(text)
    assert problem is not None
    assert complaint in problem
