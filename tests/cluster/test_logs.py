"""The structured log of a node."""

import io
import json

from cluster.logs import FIELD_CHARACTERS_MAX, NodeLog


def _log(stream: io.StringIO, level: str = "info", format: str = "text") -> NodeLog:
    log = NodeLog(stream, node="a", level=level, format=format, wall_ms=lambda: 1_700_000_000_123)
    log.term = 7
    return log


def test_text_line_has_time_level_node_term_and_fields() -> None:
    """A text line can be read by a person and split by grep."""
    stream = io.StringIO()
    _log(stream).info("leader elected", leader="b", votes=2, reason="two words")
    expected = (
        '2023-11-14T22:13:20.123Z info    a t7 leader elected leader=b votes=2 reason="two words"\n'
    )
    assert expected == stream.getvalue()


def test_json_line_keeps_numbers() -> None:
    """A JSON line is one object whose numbers stay numbers."""
    stream = io.StringIO()
    _log(stream, format="json").warning("slow", ms=3, peer=None)
    assert json.loads(stream.getvalue()) == {
        "at": "2023-11-14T22:13:20.123Z",
        "level": "warning",
        "node": "a",
        "term": 7,
        "message": "slow",
        "ms": 3,
        "peer": None,
    }


def test_levels_below_the_threshold_write_nothing() -> None:
    """Only what is at or above the configured level is written."""
    stream = io.StringIO()
    log = _log(stream, level="warning")
    log.debug("no")
    log.info("no")
    log.warning("yes")
    log.error("yes")
    assert stream.getvalue().count("\n") == 2


def test_hostile_and_long_fields_stay_on_one_bounded_line() -> None:
    """A field with line ends cannot forge a second line, and a huge one is cut and says so."""
    stream = io.StringIO()
    _log(stream).info("stranger", greeting="x\n2023 info a fake", huge="y" * 5_000)
    assert stream.getvalue().count("\n") == 1
    assert "(3000 characters cut)" in stream.getvalue()
    assert len(stream.getvalue()) < FIELD_CHARACTERS_MAX + 200


def test_error_carries_its_traceback() -> None:
    """An error names where it came from."""
    stream = io.StringIO()
    try:
        raise ValueError("broken")
    except ValueError as error:
        _log(stream).error("engine stopped", error)
    assert "ValueError: broken" in stream.getvalue()
    assert "test_logs.py" in stream.getvalue()
