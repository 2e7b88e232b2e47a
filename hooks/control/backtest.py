"""A handler tried on what really happened: routing and conditions over a part of the log, and, if
asked for, the handler itself, with its effects shown and thrown away.

One call looks at a bounded part and says where to go on. It works in slices of a few milliseconds,
because the node has other things to do. An attempt made here is a dry run: it carries the fencing
token 0, which no owner of a partition ever has, and nothing of it is written down. What a handler
does outside of its effects it does for real.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import trio

from hooks import routing
from hooks.configuration.definition import HandlerDefinition, HandlerType
from hooks.control.explain import why
from hooks.control.known import find_handler, publish_topics
from hooks.delivery import Delivery, deliver
from hooks.execution.attempt import (
    DRY_RUN_TOKEN,
    Attempt,
    Failed,
    FailureKind,
    Outcome,
    Runner,
)
from hooks.execution.service import HookService
from hooks.limits import HookLimits
from hooks.routing import Verdict
from pubsub.consumer_groups.addressing import recipient
from pubsub.events import Event
from pubsub.rejection import Rejection
from pubsub.topics import Pattern, validate_pattern

OPTIONS: Final = ("run", "policy", "limit")
READ_EVENTS: Final = 64  # at a time, of at most so many bytes: reading is a part of a slice
READ_BYTES: Final = 256 * 1024


async def test(
    service: HookService,
    name: str,
    first: int,
    last: int | None,
    asked: Mapping[str, Any],
) -> dict[str, Any] | Rejection:
    """Try the handler on the events from `first` to `last` (default: the newest).

    `asked` may have `run` (make attempts), `policy` (try this one instead of the one in force) and
    `limit` (matches and errors to name, and attempts to make). The answer has `next_revision`,
    which is nil once everything was looked at, and `replayed`: how many events were passed over
    because they hand out an earlier one to this handler again.
    """
    if unknown := [key for key in asked if key not in OPTIONS]:
        return Rejection("malformed", f'test knows no "{unknown[0]}"; one of {", ".join(OPTIONS)}')
    handler = find_handler(service, name)
    policy = asked.get("policy")
    if isinstance(handler, Rejection) and policy is None:
        return handler
    known = None if isinstance(handler, Rejection) else handler
    definition = _definition(None if known is None else known.definition, policy, service.limits)
    if isinstance(definition, Rejection):
        return definition
    if definition.name != name:
        return Rejection("malformed", f"policy: it is not of handler {name}")
    runner: Runner | None = None
    if asked.get("run"):
        found = _runner(service, definition, None if known is None else known.local)
        if isinstance(found, Rejection):
            return found
        runner = found
    limits = service.limits
    limit = asked.get("limit")
    shown = limits.answers_shown_max if type(limit) is not int else limit
    newest = service.port.revision
    own_groups = () if known is None else known.groups
    shown = min(max(0, shown), limits.answers_shown_max)
    trial = Trial(service, definition, own_groups, runner, limits, shown)
    return await trial.run(max(1, first), newest if last is None else min(last, newest))


class Trial:
    """One call's worth of a back-test."""

    def __init__(
        self,
        service: HookService,
        definition: HandlerDefinition,
        own_groups: Sequence[str],
        runner: Runner | None,
        limits: HookLimits,
        shown_max: int,
    ) -> None:
        self._service = service
        self._definition = definition
        self._own_groups = own_groups
        self._runner = runner
        self._limits = limits
        self._shown_max = shown_max
        self._topics = publish_topics(service)
        self._counts: Counter[str] = Counter()
        self._examined = 0
        self._replayed = 0
        self._matches: list[dict[str, Any]] = []
        self._errors: list[dict[str, Any]] = []
        self._runs: list[dict[str, Any]] = []

    async def run(self, first: int, last: int) -> dict[str, Any]:
        """Look at the events in order until they, the time or the number that is allowed end."""
        began_ms = slice_ms = self._now_ms()
        following = first
        for event in self._events(first, last):
            following = event.revision + 1
            self._examined += 1
            if recipient(event) in self._own_groups:
                # What it hands out again has its turn as itself. To others it is a plain fact.
                self._replayed += 1
            elif self._look_at(delivery := deliver(event)):
                await self._attempt(delivery)
            if self._is_enough(began_ms):
                break
            if self._now_ms() - slice_ms >= self._limits.backtest_slice_ms:
                await trio.lowlevel.checkpoint()
                slice_ms = self._now_ms()
        else:
            following = last + 1
        return {
            "handler": self._definition.name,
            "node": self._service.port.node,
            "from": first,
            "to": last,
            "next_revision": following if following <= last else None,
            "examined": self._examined,
            "replayed": self._replayed,
            "counts": {verdict.value: self._counts[verdict] for verdict in Verdict},
            "matches": self._matches,
            "errors": self._errors,
            "runs": self._runs,
        }

    def _now_ms(self) -> int:
        return self._service.port.monotonic_ms()

    def _is_enough(self, began_ms: int) -> bool:
        """Whether the rest is for the next call."""
        return (
            self._examined >= self._limits.backtest_events_max
            or self._now_ms() - began_ms >= self._limits.backtest_ms_max
            or (self._runner is not None and len(self._runs) >= self._shown_max)
        )

    def _events(self, first: int, last: int) -> Iterator[Event]:
        while first <= last:
            found = self._service.port.read_events(first, READ_EVENTS, READ_BYTES)
            if not found:
                return
            for event in found:
                if event.revision > last:
                    return
                yield event
            first = found[-1].revision + 1

    def _look_at(self, delivery: Delivery) -> bool:
        """Route one event; whether the handler would run."""
        topics = () if delivery.triggered else self._topics
        decision = routing.decide(self._definition, delivery, topics)
        self._counts[decision.kind] += 1
        named = {"revision": delivery.revision, "topic": delivery.topic, "key": delivery.event.key}
        if decision.kind is Verdict.MATCH and len(self._matches) < self._shown_max:
            self._matches.append(named)
        if decision.kind is Verdict.ERROR and len(self._errors) < self._shown_max:
            self._errors.append({**named, "error": why(decision, delivery.topic)})
        return decision.matches

    async def _attempt(self, delivery: Delivery) -> None:
        """Make one attempt whose effects go nowhere."""
        if self._runner is None:
            return
        attempt = Attempt(
            handler=self._definition,
            deliveries=(delivery,),
            number=1,
            token=DRY_RUN_TOKEN,
            cluster_id=self._service.port.cluster_id,
        )
        began_ms = self._now_ms()
        outcome: Outcome = Failed(FailureKind.TIMEOUT, "not made: the node gives its handlers up")
        # A runner keeps to the timeout itself, as long as nobody takes its place meanwhile.
        limits = self._limits
        patience_ms = attempt.handler.timeout_ms + limits.shell_grace_ms + limits.host_start_ms_max
        with trio.move_on_after(patience_ms / 1000):
            outcome = await self._runner.execute(attempt)
        shown = {
            "revision": delivery.revision,
            "topic": delivery.topic,
            "key": delivery.event.key,
            "duration_ms": self._now_ms() - began_ms,
        }
        self._runs.append({**shown, **_ended(outcome)})


def _ended(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, Failed):
        return {
            "outcome": outcome.kind.value,
            "error": outcome.error,
            "output": outcome.output,
            "effects": [],
        }
    effects = [effect.to_wire() for effect in outcome.effects]
    return {"outcome": "done", "error": None, "output": outcome.output, "effects": effects}


def _definition(
    known: HandlerDefinition | None, policy: object, limits: HookLimits
) -> HandlerDefinition | Rejection:
    """The handler with the policy that is to be tried."""
    if policy is None:
        assert known is not None, "without a policy there is a handler"
        return known
    if not isinstance(policy, dict):
        return Rejection("malformed", "policy: a map is needed")
    base = known or HandlerDefinition(name="", pattern=Pattern(">"), type=HandlerType.SHELL)
    for key, example in base.as_dict().items():
        if key in policy and not _is_like(policy[key], example):
            return Rejection("malformed", f"policy: {key} has a wrong type")
    if not 1 <= policy.get("timeout_ms", 1) <= limits.handler_timeout_ms_max:
        return Rejection("malformed", f"policy: timeout_ms: 1 to {limits.handler_timeout_ms_max}")
    if (problem := validate_pattern(policy.get("pattern", base.pattern.text))) is not None:
        return Rejection("malformed", f"policy: {problem}")
    if not isinstance(policy.get("filter"), str | None):
        return Rejection("malformed", "policy: filter: a text or nil is needed")
    try:
        if known is not None and known.type.value == policy.get("type", known.type.value):
            return known.with_policy(policy)
        return HandlerDefinition.of_policy(policy)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return Rejection("malformed", f"policy: {error!r}")


def _is_like(value: object, example: object) -> bool:
    """Whether a value of a policy has the type of one that is right; most texts may be missing."""
    if example is None or isinstance(example, str):
        return value is None or isinstance(value, str) or type(value) is int
    if isinstance(example, list | dict):
        return isinstance(value, list | tuple | dict)
    return type(value) is type(example)


def _runner(
    service: HookService, definition: HandlerDefinition, local: HandlerDefinition | None
) -> Runner | Rejection:
    """What makes attempts of this handler on this node; `local` has the node's code, if any."""
    if definition.type is HandlerType.FILE:
        return Rejection("malformed", "a handler that renders a file has no dry run")
    runner = service.runners.get(definition.type)
    node = service.port.node
    if local is not None and local.type is not definition.type:
        detail = f'on node {node} handler "{local.name}" is of type {local.type}'
        return Rejection("no_code", f"{detail}, not {definition.type}")
    if local is None or runner is None:
        return Rejection("no_code", f'node {node} has no code for handler "{definition.name}"')
    return runner
