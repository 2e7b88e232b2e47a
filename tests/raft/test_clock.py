"""The stamped clocks: what one wrong machine, a jump or a stall may and may not do to them."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.raft.clock import (
    REMEMBERED_MS,
    SETTLE_S,
    SLEW_MAX,
    STALL_MAX_S,
    ClusterClock,
)

HOUR_MS = 3_600_000
EPOCH_MS = 1_700_000_000_000
VOTERS = ("a", "b", "c")


class Machine:
    """The leader's machine: its monotonic clock, the true time and how far its own is off."""

    def __init__(self, off_ms: int = 0, floor: tuple[int, int] = (0, 0)) -> None:
        self.now = 50.0
        self.off_ms = off_ms
        self.clock = ClusterClock("a", lambda: self.true_ms + self.off_ms)
        self.clock.lead(self.now, 1, *floor)

    @property
    def true_ms(self) -> int:
        return EPOCH_MS + int(self.now * 1000)

    def hear(self, voter: str, off_ms: int = 0) -> None:
        self.clock.observe(voter, self.true_ms + off_ms, self.now)

    def stamp(self, after_s: float = 0.0) -> tuple[int, int]:
        self.now += after_s
        return self.clock.stamp(self.now, VOTERS)


def test_a_leader_an_hour_off_is_outvoted() -> None:
    """The median is that of the two others, whichever way the leader is wrong."""
    for off_ms in (HOUR_MS, -HOUR_MS):
        machine = Machine(off_ms)
        machine.hear("b", 5)
        machine.hear("c", 10)
        wall, _ = machine.stamp()
        assert machine.true_ms + 5 <= wall <= machine.true_ms + 10


def test_a_voter_an_hour_off_moves_nothing() -> None:
    """One voter in three is never the median alone."""
    machine = Machine()
    machine.hear("b", HOUR_MS)
    machine.hear("c", 3)
    assert abs(machine.stamp()[0] - machine.true_ms) <= 3


def test_of_two_voters_the_earlier_clock_counts() -> None:
    """Late is safe, early is not: an expiry may come late and never too soon."""
    machine = Machine(HOUR_MS)
    machine.hear("b")
    machine.now += 1.0
    wall, _ = machine.clock.stamp(machine.now, ("a", "b"))
    assert wall == machine.true_ms


def test_too_few_known_clocks_keep_the_pace() -> None:
    """A leader that knows only its own clock of three goes on from the log's newest stamp."""
    machine = Machine(HOUR_MS, floor=(EPOCH_MS, 0))
    assert machine.stamp(0.5)[0] == EPOCH_MS + 500
    machine.hear("b")
    assert machine.stamp()[0] == machine.true_ms


def test_the_gap_between_two_leaders_is_caught_up_at_once() -> None:
    """Wall time goes on without a leader: the first stamp with a quorum of clocks shows it."""
    machine = Machine(floor=(EPOCH_MS - HOUR_MS, 0))
    machine.hear("b")
    assert machine.stamp()[0] == machine.true_ms


def test_a_new_leader_goes_on_where_the_one_before_it_was() -> None:
    """Its own clock is an hour late, and it has heard one voter only: nothing stands still."""
    machine = Machine(-HOUR_MS, floor=(EPOCH_MS - HOUR_MS, 0))
    machine.clock.follow(machine.true_ms, machine.now, 1)
    machine.now += 5.0
    machine.clock.lead(machine.now, 2, EPOCH_MS - HOUR_MS, 0)
    machine.hear("b")
    assert machine.stamp()[0] == machine.true_ms
    machine.hear("c")
    assert machine.stamp(0.5)[0] == machine.true_ms


def test_the_last_of_the_voters_may_still_be_caught_up_with_at_once() -> None:
    """After a restart of all, a leader that is late hears one voter before the other."""
    machine = Machine(-HOUR_MS, floor=(EPOCH_MS - HOUR_MS, 0))
    machine.hear("b")
    assert machine.stamp()[0] < machine.true_ms
    machine.hear("c")
    assert machine.stamp(0.1)[0] == machine.true_ms


def test_a_leader_that_followed_nobody_goes_on_with_what_a_voter_followed() -> None:
    """It was started just now; the voter's clock was an hour late when the stamps began, and keys
    were put by them: catching up at once would expire them."""
    machine = Machine(floor=(EPOCH_MS - 2 * HOUR_MS, 0))
    machine.clock.observe("b", machine.true_ms, machine.now, [machine.true_ms - HOUR_MS, 1])
    machine.now += 3.0
    machine.clock.lead(machine.now, 2, EPOCH_MS - 2 * HOUR_MS, 0)
    assert machine.clock.is_settled(machine.now, VOTERS)
    assert machine.stamp()[0] == machine.true_ms - HOUR_MS
    machine.hear("c")
    assert machine.stamp(11.0)[0] == machine.true_ms - HOUR_MS + int(11_000 * (SLEW_MAX - 1))


def test_of_two_leaders_the_newer_ones_clock_goes_on() -> None:
    """It went on half a second late, because the nodes that elected it had only memories; a voter
    followed the one before it."""
    machine = Machine()
    machine.clock.follow(machine.true_ms - 500, machine.now, 12)
    machine.clock.observe("b", machine.true_ms, machine.now, [machine.true_ms, 11])
    machine.clock.lead(machine.now, 13, EPOCH_MS, 0)
    assert machine.stamp()[0] == machine.true_ms - 500


def test_a_voter_that_followed_is_believed_before_anything_is_placed() -> None:
    """It is heard a moment after the election."""
    machine = Machine(floor=(EPOCH_MS, 0))
    machine.clock.observe("b", machine.true_ms, machine.now, [machine.true_ms - 9_000, 0])
    late, _ = machine.stamp()
    assert late < machine.true_ms - 8_000
    machine.clock.observe("c", machine.true_ms, machine.now, [machine.true_ms, 7])
    assert machine.clock.is_settled(machine.now, VOTERS)
    assert machine.stamp()[0] == machine.true_ms


def test_after_a_restart_of_all_the_median_of_what_they_remember_counts() -> None:
    """Each knows how far its own clock was from the stamped one, which was an hour late; one clock
    was set meanwhile."""
    old = Machine()
    old.clock.follow(old.true_ms - HOUR_MS, old.now, 1)
    remembered = old.clock.to_remember(old.now)
    assert remembered == -HOUR_MS
    assert old.clock.to_remember(old.now) is None
    machine = Machine(HOUR_MS, floor=(EPOCH_MS - 2 * HOUR_MS, 0))  # ours is the one that was set
    machine.clock = ClusterClock("a", lambda: machine.true_ms + machine.off_ms, remembered)
    claim = (machine.true_ms - HOUR_MS - REMEMBERED_MS, 0)
    assert machine.clock.claim(machine.now) == (claim[0] + HOUR_MS, 0)
    machine.clock.lead(machine.now, 2, EPOCH_MS - 2 * HOUR_MS, 0)
    for voter in "bc":
        assert not machine.clock.is_settled(machine.now, VOTERS)
        machine.clock.observe(voter, machine.true_ms, machine.now, claim)
    assert machine.clock.is_settled(machine.now, VOTERS)
    assert machine.stamp()[0] == claim[0]


def test_where_nobody_knows_the_time_operations_wait_for_the_clocks() -> None:
    """What is stamped by a late clock and then jumped over would expire at once. The wait is
    bounded: a voter may be dead."""
    machine = Machine(-HOUR_MS)
    machine.hear("b")
    assert not machine.clock.is_settled(machine.now, VOTERS)
    machine.now += SETTLE_S
    assert not machine.clock.is_settled(machine.now, VOTERS)
    machine.now += 0.01
    assert machine.clock.is_settled(machine.now, VOTERS)
    late, _ = machine.stamp()
    machine.hear("c")
    assert machine.stamp(1.0)[0] == late + int(1000 * SLEW_MAX)


def test_a_reading_that_came_late_is_not_believed() -> None:
    """What a clock showed when it was read quickly is nearer to the truth; a set clock is."""
    machine = Machine(HOUR_MS)
    machine.hear("b")
    machine.hear("c")
    machine.stamp()
    for _ in range(20):
        machine.now += 0.5
        machine.clock.observe("b", machine.true_ms - 300, machine.now)
        machine.clock.observe("c", machine.true_ms - 300, machine.now)
        assert machine.true_ms - 60 < machine.stamp()[0] <= machine.true_ms
    machine.hear("b", -2000)
    machine.hear("c", -2000)
    before = machine.stamp()[0]
    assert machine.stamp(1.0)[0] == before + int(1000 / SLEW_MAX)


def test_a_jump_forward_is_slewed() -> None:
    """When a quorum's clocks jump, the stamps catch up little faster than real time."""
    machine = Machine()
    machine.hear("b")
    first, _ = machine.stamp()
    machine.off_ms = HOUR_MS
    machine.hear("b", HOUR_MS)
    assert machine.stamp(10.0)[0] == first + 10_000 * SLEW_MAX
    for _ in range(4000):
        machine.stamp(10.0)
    assert machine.stamp()[0] == machine.true_ms + HOUR_MS


def test_a_jump_backward_is_slewed() -> None:
    """Never back, and never still: what expires in ten seconds does so in eleven."""
    machine = Machine()
    machine.hear("b")
    first, _ = machine.stamp()
    machine.off_ms = -HOUR_MS
    machine.hear("b", -HOUR_MS)
    assert machine.stamp(11.0)[0] == first + 10_000
    for _ in range(8000):
        machine.stamp(10.0)
    assert machine.stamp()[0] == machine.true_ms - HOUR_MS


def test_a_jump_of_the_leaders_clock_moves_no_other() -> None:
    """What voters said is kept against the monotonic clock, not against the one that jumps."""
    machine = Machine()
    machine.hear("b")
    machine.hear("c")
    machine.stamp()
    machine.off_ms = HOUR_MS
    assert machine.stamp(1.0)[0] == machine.true_ms


def test_elapsed_time_runs_only_under_a_leader() -> None:
    """It goes on where the log left it, whatever time passed without one."""
    machine = Machine(floor=(EPOCH_MS, 70_000))
    assert machine.stamp()[1] == 70_000
    assert machine.stamp(0.5)[1] == 70_500


def test_a_stall_of_the_leader_expires_nobody() -> None:
    """A process that was stopped for an hour counts a second of it."""
    machine = Machine()
    assert machine.stamp(3600.0)[1] == STALL_MAX_S * 1000
    for _ in range(10):
        machine.clock.tick(machine.now)
        machine.now += 0.5
    assert machine.stamp()[1] == STALL_MAX_S * 1000 + 5000


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("stamp", "own", "b", "c")),
        st.integers(-2 * HOUR_MS, 2 * HOUR_MS),
        st.floats(0, 20),
    ),
    max_size=30,
)


@given(STEPS)
def test_stamps_never_go_back_and_are_never_early(steps: list[tuple[str, int, float]]) -> None:
    """Whatever clocks do, both stamps only rise, and the wall is never ahead of every clock."""
    machine = Machine()
    highest = 0
    newest = (0, 0)
    for what, off_ms, after_s in steps:
        machine.now += after_s
        if what != "stamp":
            highest = max(highest, off_ms)
        if what == "own":
            machine.off_ms = off_ms
        elif what != "stamp":
            machine.hear(what, off_ms)
        wall, elapsed = machine.stamp()
        assert wall >= newest[0]
        assert elapsed >= newest[1]
        assert wall <= machine.true_ms + highest + 1
        newest = (wall, elapsed)
