"""Does anybody ever wait longer than the bound that the kernel prints? Random cases on a simulated clock, and one made
to.

A case is a machine (what steps cost, slots), a population with classes, weights, slices, groups and policies, and
hostile ones among them: hogs, bombs that multiply, wakers with tiny requests, many requests of one task, liars with
hints; while it runs, somebody changes policies, weights and classes, and requests are cancelled. After every step each
waiting task's wait is held against its bound of that moment.

    python -m benchmarks.sched_starvation [--cases N] [--seed S] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from random import Random

from benchmarks.sched_machine import MS, Machine, Simulation, Watched
from kernel.sched.policy import POLICIES
from kernel.states import RequestState
from kernel.taskattr import SchedClass

KINDS = ("honest", "honest", "honest", "hog", "waker", "many", "liar", "bomb")
STEPS = 150  # of a case
MOST_TASKS = 40


@dataclass(frozen=True, slots=True)
class Case:
    """What came of one: waits in seconds, and as parts of their bounds."""

    seed: int
    policy: str
    slots: int
    tasks: int
    longest_s: float
    worst: float
    bound_s: float


class Population:
    """Agents of all kinds on one simulation."""

    def __init__(self, seed: int) -> None:
        draw = self._draw = Random(seed)
        scale = draw.choice([0.05, 0.3, 1.0, 1.0, 3.0])
        machine = Machine(
            pass_ns=9 * MS * scale, row_ns=3.6 * MS * scale * draw.uniform(0.2, 1.5), cell_ns=600 * scale,
            prompt_ns=1.4 * MS * scale * draw.uniform(0.3, 1.5), prompt_cell_ns=1300 * scale,
            move_ns=draw.choice([0.1, 1.0, 5.0]) * MS, noise=draw.choice([0.0, 0.05, 0.1]),
        )  # fmt: skip
        self.policy = draw.choice(list(POLICIES))
        self.slots = draw.choice([1, 2, 3, 4, 8, 16, 24])
        self.simulation = Simulation(
            seed, self.slots, machine, policy=self.policy, gap=draw.choice([0.0, 2.5]),
            starve_ms=draw.choice([500, 2000, 10_000]),
        )  # fmt: skip
        for path in ("/a", "/b", "/a/c"):
            attr = {"weight": draw.choice([None, 1, 100, 5000]), "policy": draw.choice(list(POLICIES))}
            self.simulation.groups.create(path, attr)
        self.kinds: dict[int, tuple[Watched, str]] = {}  # by pid
        self._calm(1)
        for _ in range(draw.randint(2, min(MOST_TASKS, 4 * self.slots + 4))):
            self.come(draw.choice(KINDS))

    def _calm(self, tasks: int) -> None:
        """Let the model of the steps see some, as it has on a machine that serves."""
        for _ in range(tasks):
            self.simulation.ask(self.simulation.agent(), 1500, 40)
        while self.simulation.requests:
            self.simulation.step()

    def come(self, kind: str) -> None:
        draw = self._draw
        attr = {
            "group": draw.choice(["/", "/", "/a", "/b", "/a/c"]),
            "policy": draw.choice(["", "", *POLICIES]),
            "sched_class": draw.choice([SchedClass.FAIR] * 6 + [SchedClass.BATCH, SchedClass.IDLE]),
            "weight": draw.choice([None, None, 1, 100, 10_000]),
            "slice_ms": draw.choice([None, None, 1, 10_000]),
        }
        if kind == "hog" and draw.random() < 0.3:
            attr |= {"sched_class": SchedClass.REALTIME, "policy": "", "rt_priority": 99}
        watched = self.simulation.agent(draw.randint(-20, 19), **attr)
        self.kinds[watched.task.pid] = (watched, kind)
        self.ask(watched, kind)

    def ask(self, watched: Watched, kind: str) -> None:
        draw, ask = self._draw, self.simulation.ask
        if kind == "hog":
            ask(watched, draw.choice([10, 1500]), 2000)
        elif kind == "waker":
            ask(watched, draw.randint(1, 8), 1)
        elif kind == "many":
            while len(watched.task.requests) < 6:
                ask(watched, draw.randint(1, 300), draw.randint(1, 100))
        elif kind == "liar":
            watched.task.sched.hint_until = watched.task.usage.generated_tokens + 1
            ask(watched, draw.randint(1, 64), 500)
        else:
            ask(watched, draw.randint(1, 300), draw.randint(1, 120))

    def step(self) -> None:
        """A step of the core, what its end brings about, and now and then somebody's meddling."""
        draw = self._draw
        for request in self.simulation.step():
            watched, kind = self.kinds[request.task.pid]
            if draw.random() < 0.9:
                self.ask(watched, kind)
            if kind == "bomb" and len(self.kinds) < MOST_TASKS:
                self.come("bomb")
                self.come("bomb")
        if draw.random() < 0.1:
            self._meddle()

    def _meddle(self) -> None:
        draw = self._draw
        watched, kind = draw.choice(list(self.kinds.values()))
        choice = draw.randrange(4)
        if choice == 0:
            self.simulation.change(watched, nice=draw.randint(-20, 19), weight=draw.choice([None, 1, 10_000]))
        elif choice == 1:
            self.simulation.change(watched, policy=draw.choice(list(POLICIES)), sched_class=SchedClass.FAIR)
        elif choice == 2 and watched.task.requests:
            self.simulation.end(draw.choice(watched.task.requests), RequestState.FINISHED_ABORTED)
        if not watched.task.requests:
            self.ask(watched, kind)


def case(seed: int, steps: int = STEPS) -> Case:
    """Run one case."""
    population = Population(seed)
    for _ in range(steps):
        population.step()
    watched = [one for one, _ in population.kinds.values()]
    return Case(
        seed, population.policy, population.slots, len(watched),
        max(one.longest_s for one in watched), max(one.worst for one in watched),
        max(one.bound_s for one in watched),
    )  # fmt: skip


def constructed(tasks: int = 24, slots: int = 3) -> Case:
    """Hogs of class realtime hold every slot for ever, on a machine whose steps are short: leases are waited for."""
    machine = Machine(
        pass_ns=0.5 * MS, row_ns=0.2 * MS, cell_ns=30.0, chunk_pass_ns=0.3 * MS, prompt_ns=0.07 * MS, prompt_cell_ns=7.0
    )
    simulation = Simulation(0, slots, machine)
    hogs = [simulation.agent(sched_class=SchedClass.REALTIME, rt_priority=99) for _ in range(slots)]
    for hog in hogs:
        simulation.ask(hog, 10, 1_000_000)
    simulation.run(1)
    others = [simulation.agent() for _ in range(tasks - slots)]
    for other in others:
        simulation.ask(other, 30, 1_000_000)
    simulation.run(20)
    return Case(
        0, "eevdf", slots, tasks, max(one.longest_s for one in others), max(one.worst for one in others),
        max(one.bound_s for one in others),
    )  # fmt: skip


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sched_starvation", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    made = constructed()
    worst: list[Case] = []
    for number in range(options.cases):
        worst = sorted([*worst, case(options.seed + number)], key=lambda one: -one.worst)[:10]
        if sys.stderr.isatty() and number % 50 == 49:
            print(f"\r{number + 1} of {options.cases} cases, worst {worst[0].worst:.2f} W", end="", file=sys.stderr)
    broken = [one for one in worst if one.worst >= 1]
    if options.json:
        found = {"constructed": asdict(made), "worst": [asdict(one) for one in worst]}
        print(json.dumps({"cases": options.cases} | found))
    else:
        print(f"\n{options.cases} random cases; waits of W and more: {len(broken)}")
        for one in worst[:5]:
            where = f"seed {one.seed}: {one.policy}, {one.slots} slots, {one.tasks} tasks"
            print(f"  {one.worst:.3f} W  {one.longest_s:7.2f} s  {where}")
        text = f"{made.longest_s:.2f} s of {made.bound_s:.2f} s, {made.worst:.2f} W"
        print(f"constructed: 3 hogs of class realtime on 3 slots, 21 others: {text}")
    return 1 if broken or made.worst < 0.5 else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
