"""What `top` shows, made of two looks at the kernel. No I/O, no clock.

Who uses it: top.py. What must hold: a rate is the difference of two counters over the time between them; what is not
known is shown as "-".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentix.cli.table import span

COLUMNS = (
    "PID",
    "NAME",
    "STATE",
    "CLASS",
    "NICE",
    "POLICY",
    "GROUP",
    "TOK/S",
    "REQ",
    "CONTEXT",
    "PROMPT",
    "GEN",
    "WAIT",
    "WAITS",
    "W",
    "SWITCHES",
    "SLOTS",
)
TEXTS = ("NAME", "STATE", "CLASS", "POLICY", "GROUP")  # columns that are no figures
RARE = ("POLICY", "GROUP")  # columns that are left out while nobody has anything in them
# Columns that are given up, one after the other, on a narrow terminal.
SPARED = ("SWITCHES", "PROMPT", "SLOTS", "WAIT", "GEN", "CLASS", "CONTEXT", "GROUP", "POLICY", "REQ")
GAP_CHARS = 3  # between columns
NAME_CHARS = 12  # of a name at least
SORTS = ("TOK/S", "WAIT", "GEN", "PID")
LANE_LOOKS = 60  # of the past that a lane shows
COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red", "bright_cyan", "bright_magenta", "bright_yellow",
           "bright_green", "bright_blue", "bright_red")  # fmt: skip
FREE = "·"


@dataclass(frozen=True, slots=True)
class Look:
    """The kernel at one time."""

    at_s: float
    tasks: Sequence[Mapping[str, Any]]  # of proc.ps
    info: Mapping[str, Any]  # sys.info
    stat: Mapping[str, Any]  # sys.stat
    slots: Mapping[str, Any]  # sys.slots

    def held(self) -> dict[tuple[str, int, int], int]:
        """Who holds a slot: (model, bank, slot) -> pid."""
        return {
            (model["name"], number, row[0]): row[1]
            for model in self.slots["models"]
            for number, bank in enumerate(model["banks"])
            for row in bank["held"]
        }


@dataclass(slots=True)
class Lanes:
    """Who has held each slot at the last looks; slots that nobody has held are left out."""

    marks: dict[tuple[str, int, int], list[int]] = field(
        default_factory=dict
    )  # pids, 0: nobody; the newest last
    looks: int = 0

    def add(self, look: Look) -> None:
        held = look.held()
        for lane in held:
            self.marks.setdefault(lane, [0] * min(self.looks, LANE_LOOKS))
        for lane, pids in self.marks.items():
            pids.append(held.get(lane, 0))
            del pids[:-LANE_LOOKS]
        self.looks += 1


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One task, as shown and as machines get it."""

    pid: int
    name: str
    state: str
    sched_class: str
    nice: int
    policy: str  # "": its group's
    group: str
    tokens_per_s: float | None
    requests: int
    context: str
    prompt_tokens: int
    generated_tokens: int
    wait_s: float  # without a slot, in all
    waits_now_s: float
    stage: str  # of the wait at hand
    bound_s: float  # within this it gets a turn
    attained_s: float  # modelled core time that it has had
    switches: int
    slots: int

    def cells(self) -> tuple[str, ...]:
        rate = "-" if self.tokens_per_s is None else f"{self.tokens_per_s:.1f}"
        return (
            str(self.pid), self.name, self.state, self.sched_class or "-", str(self.nice), self.policy or "-",
            shown_group(self.group), rate, str(self.requests), self.context, str(self.prompt_tokens),
            str(self.generated_tokens), f"{self.wait_s:.1f} s", waits(self.waits_now_s, self.stage),
            shown_bound(self.bound_s), str(self.switches), str(self.slots),
        )  # fmt: skip


def shown_group(path: str) -> str:
    """A group's path, where it tells anything."""
    return "-" if path in ("", "/") else path


def waits(seconds: float, stage: str) -> str:
    """The wait at hand, and how far it has gone."""
    return f"{span(seconds)} {stage}".rstrip() if seconds else "-"


def shown_bound(seconds: float) -> str:
    """Within how long a task gets a turn; one that has ended gets none."""
    return span(seconds) if seconds else "-"


def shown_columns(made: Sequence[TaskRow], width: int) -> list[int]:
    """Which of COLUMNS have something to show and find room in so many characters."""
    held = list(zip(*(row.cells() for row in made), strict=True)) or [("-",)] * len(COLUMNS)
    widths = {
        heading: NAME_CHARS if heading == "NAME" else max(map(len, (heading, *cells)))
        for heading, cells in zip(COLUMNS, held, strict=True)
        if heading not in RARE or any(cell != "-" for cell in cells)
    }
    for heading in SPARED:
        if sum(widths.values()) + GAP_CHARS * len(widths) <= width:
            break
        widths.pop(heading, None)
    return [at for at, heading in enumerate(COLUMNS) if heading in widths]


def rows(new: Look, old: Look | None, sort: str) -> list[TaskRow]:
    """Return the living tasks, sorted by a column of SORTS."""
    before = {task["pid"]: task for task in old.tasks} if old else {}
    holders = list(new.held().values())
    made = []
    for task in new.tasks:
        if task["state"] == "zombie":
            continue
        past = before.get(task["pid"])
        rate = None
        if past is not None and old is not None and new.at_s > old.at_s:
            rate = (task["generated_tokens"] - past["generated_tokens"]) / (new.at_s - old.at_s)
        made.append(
            TaskRow(
                pid=task["pid"],
                name=task["name"],
                state=task["state"],
                sched_class=task.get("sched_class", ""),
                nice=task["priority"],
                policy=task.get("policy", ""),
                group=task.get("group", ""),
                tokens_per_s=rate,
                requests=task["in_flight"],
                context=f"{task['context_tokens']}/{task['context_limit']}",
                prompt_tokens=task["prompt_tokens"],
                generated_tokens=task["generated_tokens"],
                wait_s=task["wait_s"],
                waits_now_s=task.get("waits_now_s", 0.0),
                stage=task.get("stage", ""),
                bound_s=task.get("bound_s", 0.0),
                attained_s=task.get("attained_s", 0.0),
                switches=task["switches"],
                slots=holders.count(task["pid"]),
            )
        )
    keys = {"TOK/S": lambda row: -(row.tokens_per_s or 0), "WAIT": lambda row: -row.wait_s,
            "GEN": lambda row: -row.generated_tokens, "PID": lambda row: 0}  # fmt: skip
    return sorted(made, key=lambda row: (keys[sort](row), row.pid))


def headline(new: Look, old: Look | None) -> dict[str, Any]:
    """The figures of the whole kernel."""
    slots = sum(bank["slots"] for model in new.slots["models"] for bank in model["banks"])
    waiting = sum(
        count for state, count in new.stat["requests"].items() if state in ("queued", "preempted")
    )
    figures: dict[str, Any] = {
        "policy": new.info["policy"],
        "tasks": sum(task["state"] != "zombie" for task in new.tasks),
        "slots_used": len(new.held()),
        "slots": slots,
        "waiting": waiting,
        "tokens_per_s": None,
        "busy_percent": None,
    }
    if old is not None and new.at_s > old.at_s:
        seconds = new.at_s - old.at_s
        figures["tokens_per_s"] = (
            new.stat["generated_tokens"] - old.stat["generated_tokens"]
        ) / seconds
        figures["busy_percent"] = min(
            100.0, 100 * (new.stat["core_busy_s"] - old.stat["core_busy_s"]) / seconds
        )
    return figures


def headline_text(figures: Mapping[str, Any]) -> str:
    rate, busy = figures["tokens_per_s"], figures["busy_percent"]
    return (
        f"policy {figures['policy']}   tasks {figures['tasks']}   slots {figures['slots_used']}/{figures['slots']}"
        f"   waiting {figures['waiting']}   {'-' if rate is None else f'{rate:.0f}'} tokens/s"
        f"   core {'-' if busy is None else f'{busy:.0f} %'}"
    )


def colour_of(pid: int) -> str:
    return COLOURS[pid % len(COLOURS)]
