"""Editing a dead letter: the event's new content is checked as that of any published event."""

from __future__ import annotations

from typing import Any, Final

from cluster.entry import Entry
from cluster.publishing import publish_problem
from pubsub.consumer_groups import dead_letters
from pubsub.rejection import Rejection

_ANY_TOPIC: Final = "t"  # an edit changes neither topic nor key


def edit(
    apply: Entry,
    group: Any,
    revision: Any,
    payload: Any,
    content_type: Any = None,
    headers: Any = None,
) -> bool | Rejection:
    """`dlq.edit [group, revision, payload, content_type, headers]` -> true."""
    problem = publish_problem(_ANY_TOPIC, None, payload, content_type, headers)
    if problem is not None:
        return problem
    return dead_letters.edit(apply, group, revision, payload, content_type, headers)
