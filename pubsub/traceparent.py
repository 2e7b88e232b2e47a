"""The `traceparent` of W3C Trace Context: `version-trace id-parent id-flags` in lower-case hex."""

import re
from typing import Final

_FORM: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


def validate_traceparent(text: object) -> str | None:
    """What is wrong with `text` as a traceparent, or None."""
    if not isinstance(text, str) or not (match := _FORM.fullmatch(text)):
        return "traceparent: 00-<32 hex digits>-<16 hex digits>-<2 hex digits> is needed"
    version, trace, parent, _, more = match.groups()
    if version == "ff" or (version == "00" and more is not None):
        return "traceparent: this version has another form"  # later ones may only become longer
    if not trace.strip("0"):
        return "traceparent: a trace id of zeros is none"
    if not parent.strip("0"):
        return "traceparent: a parent id of zeros is none"
    return None
