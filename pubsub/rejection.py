"""The answer of deciding code to input that it refuses.

It is returned and never raised: an exception inside apply would stop the node. It is also part of
the replicated result, so a detail is built from the arguments and the state alone: no text of a
Python exception and no `repr` of a string, both of which differ between Python versions.
"""

from typing import NamedTuple


class Rejection(NamedTuple):
    """A definite refusal: nothing was changed."""

    code: str
    detail: str
