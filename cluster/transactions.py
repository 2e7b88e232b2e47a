"""Several changes in one operation: `batch` (unconditional) and `txn` (compare, then, else).

Both are atomic: the shape of everything is checked before anything is written, and where the state
can still refuse an item (an expected revision) or an answer can grow too large, the writes run
under a savepoint. Items see what earlier items of the same operation wrote.

    item         arguments                                       result
    put          key, value, ttl_ms?, expected_revision?         revision
    delete       key, expected_revision?                         revision, 0 if there was nothing
    publish      topic, key, payload, content_type?, headers?,   revision
                 options?
    get          key                                             row or nil
    range        start, end?, limit?, after?, keys_only?         [[row, ...], more]

A row is `[key, value, create_revision, mod_revision, version, expires_ms]`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from cluster import kv
from cluster.entry import Entry
from cluster.limits import (
    BATCH_OPERATIONS_MAX,
    KEY_BYTES_MAX,
    RANGE_ROWS_MAX,
    TXN_COMPARES_MAX,
    TXN_RESULT_BYTES_MAX,
    VALUE_BYTES_MAX,
)
from cluster.operations import is_count, is_text
from cluster.publishing import (
    is_conditional,
    publish,
    publish_item_problem,
    publish_item_problem_v1,
)
from pubsub.rejection import Rejection


def batch(apply: Entry, items: Any) -> list[int] | Rejection:
    """`batch [[["put", ...] | ["delete", ...], ...]]` -> [first_revision, count of events]."""
    problem = _items_problem(items, "batch", _BATCH_ITEMS)
    if problem is not None:
        return problem

    def write() -> list[int] | Rejection:
        first = apply.revision + 1
        for name, *args in items:
            result = kv.store(apply, *args) if name == "put" else kv.remove(apply, *args)
            if result.__class__ is Rejection:
                return result
        return [first, apply.revision + 1 - first]

    conditional = any(_is_conditional(item) for item in items)
    return apply.atomically(write) if conditional else write()


def txn(apply: Entry, compares: Any, thens: Any, elses: Any = None) -> list[Any] | Rejection:
    """`txn [compares, thens, elses]` -> [succeeded, [result of each item of that branch]]."""
    elses = elses if elses is not None else []
    known = _TXN_ITEMS if apply.version > 1 else _TXN_ITEMS_V1
    problem = (
        _compares_problem(compares)
        or _items_problem(thens, "txn", known, empty=True)
        or _items_problem(elses, "txn", known, empty=True)
    )
    if problem is not None:
        return problem
    succeeded = all(_holds(apply, compare) for compare in compares)
    items = thens if succeeded else elses

    def run() -> list[Any] | Rejection:
        results: list[Any] = []
        budget = _Budget(TXN_RESULT_BYTES_MAX)
        for name, *args in items:
            result = _TXN_ITEMS[name].run(apply, budget, args)
            if result.__class__ is Rejection:
                return result
            results.append(result)
        return [succeeded, results]

    revocable = any(item[0] in ("get", "range") or _is_conditional(item) for item in items)
    return apply.atomically(run) if revocable else run()


class _Budget:
    """Bytes that the reads of one transaction may still return."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self, row: kv.Row) -> Rejection | None:
        self.left -= len(row.key) + len(row.value or b"")
        if self.left >= 0:
            return None
        return Rejection(
            "limit_exceeded", f"txn: its reads return more than {TXN_RESULT_BYTES_MAX} bytes"
        )


def _get(apply: Entry, budget: _Budget, args: list[Any]) -> list[Any] | Rejection | None:
    row = kv.get_remembered(apply, args[0])
    if row is None:
        return None
    return budget.take(row) or list(row)


def _range(apply: Entry, budget: _Budget, args: list[Any]) -> list[Any] | Rejection:
    start, end, limit, after, keys_only = args + [None] * (5 - len(args))
    limit = RANGE_ROWS_MAX if limit is None else min(limit, RANGE_ROWS_MAX)
    rows, more = kv.range_(apply.connection, start, end, limit, after, bool(keys_only))
    for row in rows:
        problem = budget.take(row)
        if problem is not None:
            return problem
    return [[list(row) for row in rows], more]


def _get_problem(args: list[Any]) -> Rejection | None:
    return None if _is_key(args[0]) else _malformed("get: the key must be a text within limits")


def _range_problem(args: list[Any]) -> Rejection | None:
    start, end, limit, after, keys_only = args + [None] * (5 - len(args))
    for bound in (start, end, after):
        if not (bound is None or is_text(bound, KEY_BYTES_MAX + 4)):  # as long as prefix() makes it
            return _malformed("range: start, end and after must be texts within limits")
    if start is None:
        return _malformed("range: start must be a text")
    if not (limit is None or is_count(limit, 1)):
        return _malformed("range: limit must be an integer from 1")
    if not (keys_only is None or keys_only.__class__ is bool):
        return _malformed("range: keys_only must be true or false")
    return None


def _put_problem(args: list[Any]) -> Rejection | None:
    key, value, ttl_ms, expected_revision = args + [None] * (4 - len(args))
    return kv.put_problem(key, value, ttl_ms, expected_revision)


def _delete_problem(args: list[Any]) -> Rejection | None:
    return kv.delete_problem(args[0], args[1] if len(args) > 1 else None)


class _Item(NamedTuple):
    """What may stand in a batch or a transaction."""

    arguments_min: int
    arguments_max: int
    problem: Callable[[list[Any]], Rejection | None]
    run: Callable[[Entry, _Budget, list[Any]], Any]


_BATCH_ITEMS: Final = {
    "put": _Item(2, 4, _put_problem, lambda apply, budget, args: kv.store(apply, *args)),
    "delete": _Item(1, 2, _delete_problem, lambda apply, budget, args: kv.remove(apply, *args)),
}
_TXN_ITEMS: Final = {
    **_BATCH_ITEMS,
    "publish": _Item(3, 6, publish_item_problem, lambda apply, budget, args: publish(apply, *args)),
    "get": _Item(1, 1, _get_problem, _get),
    "range": _Item(1, 5, _range_problem, _range),
}
_TXN_ITEMS_V1: Final = {
    **_TXN_ITEMS,
    "publish": _TXN_ITEMS["publish"]._replace(arguments_max=5, problem=publish_item_problem_v1),
}


def _items_problem(
    items: Any, noun: str, known: dict[str, _Item], empty: bool = False
) -> Rejection | None:
    """What is wrong with a list of items, whatever the state is."""
    if items.__class__ is not list or not (items or empty):
        return _malformed(f"{noun}: a list of items is needed")
    if len(items) > BATCH_OPERATIONS_MAX:
        return Rejection("limit_exceeded", f"{noun}: at most {BATCH_OPERATIONS_MAX} items")
    for item in items:
        if item.__class__ is not list or not item or item[0].__class__ is not str:
            return _malformed(f"{noun}: an item is a list that starts with its name")
        kind = known.get(item[0])
        if kind is None:
            return _malformed(f"{noun}: the items are {', '.join(known)}")
        if not kind.arguments_min <= len(item) - 1 <= kind.arguments_max:
            return _malformed(f"{noun}: {item[0]} has another number of arguments")
        problem = kind.problem(item[1:])
        if problem is not None:
            return problem
    return None


def _is_conditional(item: list[Any]) -> bool:
    """Whether the state may refuse an item whose shape is right."""
    name = item[0]
    if name == "publish":
        return is_conditional(item[1:])
    return (name == "put" and len(item) > 4 and item[4] is not None) or (
        name == "delete" and len(item) > 2 and item[2] is not None
    )


_ORDERS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "=": lambda found, operand: found == operand,
    "!=": lambda found, operand: found != operand,
    "<": lambda found, operand: found < operand,
    ">": lambda found, operand: found > operand,
    "<=": lambda found, operand: found <= operand,
    ">=": lambda found, operand: found >= operand,
}
_FIELDS: Final = ("value", "version", "create_revision", "mod_revision", "exists")


def _compares_problem(compares: Any) -> Rejection | None:
    if compares.__class__ is not list:
        return _malformed("txn: a list of compares is needed")
    if len(compares) > TXN_COMPARES_MAX:
        return Rejection("limit_exceeded", f"txn: at most {TXN_COMPARES_MAX} compares")
    return next(filter(None, map(_compare_problem, compares)), None)


def _compare_problem(compare: Any) -> Rejection | None:
    if compare.__class__ is not list or len(compare) != 4:
        return _malformed("txn: a compare is [key, field, operator, operand]")
    key, field, operator, operand = compare
    if not _is_key(key):
        return _malformed("txn: the key of a compare must be a text within limits")
    if field not in _FIELDS:
        return _malformed(f"txn: the fields of a compare are {', '.join(_FIELDS)}")
    if operator.__class__ is not str or operator not in _ORDERS:
        return _malformed(f"txn: the operators of a compare are {' '.join(_ORDERS)}")
    if field == "value":
        if operand.__class__ is not bytes or len(operand) > VALUE_BYTES_MAX:
            return _malformed("txn: a value is compared with bytes within limits")
    elif field == "exists":
        if operand.__class__ is not bool or operator not in ("=", "!="):
            return _malformed("txn: exists is compared by = or != with true or false")
    elif not is_count(operand):
        return _malformed(f"txn: {field} is compared with an integer from 0")
    return None


def _holds(apply: Entry, compare: list[Any]) -> bool:
    """Whether a compare is true. A missing key has revisions and version 0, and no value at all:
    whatever its value is compared with, the answer is no."""
    key, field, operator, operand = compare
    row = kv.get_remembered(apply, key)
    if field == "exists":
        found: Any = row is not None
    elif field == "value":
        if row is None:
            return False
        found = row.value
    else:
        found = 0 if row is None else getattr(row, field)
    return _ORDERS[operator](found, operand)


def _is_key(value: Any) -> bool:
    return bool(value) and is_text(value, KEY_BYTES_MAX)


def _malformed(detail: str) -> Rejection:
    return Rejection("malformed", detail)
