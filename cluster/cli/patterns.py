"""Patterns as people type them: what can never match is refused, what never matched, or is kept
from subscribers, is noted."""

from __future__ import annotations

import typer

from cluster.cli.output import Output
from cluster.client import Client
from cluster.errors import UnknownRequest
from hooks.events.catalogue import CATALOGUE, pattern_problem
from hooks.routing import is_published
from pubsub.topics import Pattern, closest, is_reserved

TOPICS_LOOKED_AT_MAX = 10_000  # so many known topics are compared; with more nothing is said


def check_pattern(text: str) -> Pattern:
    """The pattern; one that no event can match is wrong usage, and a near one is named."""
    if problem := pattern_problem(text):
        raise typer.BadParameter(problem)
    return Pattern(text)


async def note_silent(out: Output, client: Client, pattern: Pattern) -> None:
    """Tell people that nothing was ever published to what they ask for, and what is near."""
    if out.as_json or any(pattern.matches(topic) for topic in CATALOGUE):
        return
    topics: list[str] = []
    more = True
    while more and len(topics) < TOPICS_LOOKED_AT_MAX:
        try:
            page, more = await client.topics(topics[-1] if topics else "")
        except UnknownRequest:
            return  # an older node
        if any(pattern.matches(topic) for topic, _ in page):
            return
        topics += [topic for topic, _ in page]
    if more:
        return
    nearest = closest(pattern.text, _spellings(pattern.text, topics))
    hint = f'; did you mean "{nearest}"?' if nearest else ""
    out.note(f'nothing was published yet to a topic that matches "{pattern.text}"{hint}')


async def note_unpublished(out: Output, client: Client, pattern: Pattern) -> None:
    """Tell people that `publish_topics` keeps everything that they ask for from subscribers."""
    topics = [topic for topic in CATALOGUE if pattern.matches(topic)]
    if out.as_json or not topics or not is_reserved(pattern.text):
        return
    try:
        published = (await client.hooks.settings())["publish_topics"]
    except UnknownRequest:
        return  # a node without handlers, or an older one
    if not any(is_published(topic, published) for topic in topics):
        out.note(
            f'publish_topics keeps every event that matches "{pattern.text}" from subscribers; it'
            f" lets through {', '.join(published)}. `cluster event query` shows the whole log"
        )


def _spellings(text: str, topics: list[str]) -> dict[str, None]:
    """What the text could have been meant to be: with a wildcard at its end, a family of topics."""
    wildcard = text.rpartition(".")[2]
    if wildcard not in ("*", ">"):
        return dict.fromkeys(topics)
    return dict.fromkeys(f"{topic.rpartition('.')[0]}.{wildcard}" for topic in topics)
