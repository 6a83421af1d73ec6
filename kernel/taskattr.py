"""How a task is scheduled: its class, weight, slice and policy; and what a group says for those in it.

Who uses it: objects.py keeps one with each task; groups.py, classes.py, tree.py and the policies read them. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

NICE_RANGE = (-20, 19)
WEIGHT_RANGE = (1, 10_000)
SLICE_MS_RANGE = (1, 10_000)
RT_PRIORITY_RANGE = (1, 99)
NICE_STEP = 1.25  # a step of nice is so much more or less of a share, as in Linux
WEIGHT_0 = 100  # of nice 0: half and a hundredth can be told apart


class SchedClass(IntEnum):
    """Who goes first: a lower class has the slots that higher ones leave, and its floor. See classes.py."""

    REALTIME = 1
    FAIR = 3
    BATCH = 5
    IDLE = 6


def weight_of(nice: int) -> int:
    """Return the weight of a nice value: 100 at 0, a quarter more for each step down."""
    return max(1, round(WEIGHT_0 * NICE_STEP**-nice))


@dataclass(slots=True, eq=False)
class Used:
    """What the requests of a task or a group have used, for quotas."""

    tokens: int = 0  # of prompts and answers
    turns: int = 0  # requests
    first_ns: int | None = None  # when the first one came
    requests: int = 0  # in flight
    kv_tokens: int = 0  # that these may come to


@dataclass(slots=True)
class TaskAttr:
    """What sched.setattr changes of a task."""

    sched_class: SchedClass = SchedClass.FAIR
    policy: str = ""  # "": its group's
    weight: int | None = None  # None: nice's
    slice_ms: int | None = None  # of modelled core time; None: its group's
    rt_priority: int = 1  # within REALTIME: higher goes first
    group: str = "/"  # path
    hint_until: int | None = None  # of all the tokens the task has generated, those at which its request ends, it says
    attained_ns: int = 0  # modelled core time that its requests have had, in all
    quota: dict[str, int] = field(default_factory=dict)  # by the names in quota.py
    used: Used = field(default_factory=Used)

    def weight_at(self, nice: int) -> int:
        """Return the weight in force."""
        return weight_of(nice) if self.weight is None else self.weight


@dataclass(frozen=True, slots=True)
class GroupAttr:
    """What group.setattr changes of a group. None: no limit, or as the parent has it."""

    policy: str = ""  # by which its tasks share; "": the parent's
    params: dict[str, int] = field(default_factory=dict)  # of that policy
    policies: tuple[str, ...] = ()  # that its tasks may choose for themselves; (): all
    weight: int | None = None  # against its siblings; None: the sum of its runnable tasks'
    min_share: float = 0.0  # of the core time of its parent, as long as it wants it
    max_share: float = 1.0
    slice_ms: int | None = None
    gap: float | None = None  # a step may be so many times its next tokens alone; 0: no limit
    starve_ms: int | None = None  # without a slot, after which its tasks are rescued
    kv_tokens: int | None = None  # of its requests in flight, together
    tasks: int | None = None
    requests: int | None = None  # in flight
    tokens: int | None = None  # of prompts and answers, in all
    turns: int | None = None  # requests, in all
    wall_ms: int | None = None  # since its first request
    max_wait_ms: int | None = None  # a request that would wait longer for its turn is refused
