"""Forget a cached page, on every node, as soon as its key has changed.

A cache of files stands for any cache: the page `pages/about` is cached as `cache/about`.
"""

import os
from pathlib import Path

from hooks.registry import HookContext, hook

CACHE = Path(os.environ.get("TREMULA_EXAMPLES", "."), "cache")


@hook("hooks.kv.*", scope="node", filter='event.key.startsWith("pages/")', retry_count=5)
def forget_page(context: HookContext) -> None:
    """Forgetting twice does no harm, so it matters little that a crash may cause that."""
    name = str(context.key).removeprefix("pages/").replace("/", "%2F")
    (CACHE / name).unlink(missing_ok=True)
    context.log.info("page forgotten", key=context.key)
