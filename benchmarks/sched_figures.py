"""The figures of one run, by name.

Who uses it: sched_throughput.py. What must hold: what was not measured is not there; times are in seconds as an agent
saw them, from when a request was due.

tok_s              generated tokens over the time to the last end
useful             tokens that jobs which ended well needed, of all that were computed
ttft, gap          of requests: to the first token; the longest time between two
completion         of jobs: from arrival to end; slowdown: without waits for tools, over the time alone
jain               of jobs, or of the groups that they are in: core time had over entitlement (sched_stats.entitlements)
lag_max_s          the most that a task was owed by the policies that know it
wait_max_s         the longest wait for a slot; starvation: the same, of that task's bound W, where there is one
switches, switch_percent, sched_percent: of the core's busy time; sched_us: the kernel's time for a step
recomputed_percent of all computed tokens
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from benchmarks.sched_live import Played
from benchmarks.sched_solo import Rates, waits_s
from benchmarks.sched_stats import Window, entitlements, fairness, summary
from benchmarks.workloads import Job

WEIGHT = 100  # of a task that says nothing


def figures(played: Played, rates: Rates) -> dict[str, float]:
    """Return all that can be said of a run."""
    return {**_throughput(played), **_latency(played, rates), **_shares(played), **_cost(played)}


def errors(played: Played) -> dict[str, int]:
    """Return how many requests ended in which error, and how many jobs got no task."""
    names = [one["error"] for record in played.jobs for one in (record, *record["requests"])]
    return dict(Counter(name for name in names if name))


def _throughput(played: Played) -> dict[str, float]:
    ended = [one for record in played.jobs for one in record["requests"] if one["ended_ns"]]
    seconds = (max(one["ended_ns"] for one in ended) - played.go_ns) / 1e9
    needed = sum(
        job.preamble_tokens + sum(one["new_tokens"] + one["tokens"] for one in record["requests"])
        for job, record in zip(played.load.jobs, played.jobs, strict=True)
        if record["is_done"]
    )
    asked = sum(played.grew(name) for name in ("prompt_tokens", "generated_tokens", "recomputed_tokens"))
    computed = asked - played.grew("reused_tokens")
    return {
        "seconds": seconds,
        "tok_s": sum(one["tokens"] for one in ended) / seconds,
        "useful": needed / computed,
        "recomputed_percent": 100 * played.grew("recomputed_tokens") / computed,
        "unfinished": float(sum(not record["is_done"] for record in played.jobs)),
        "errors": float(sum(errors(played).values())),
    }


def _latency(played: Played, rates: Rates) -> dict[str, float]:
    ended = [
        one for record in played.jobs for one in record["requests"] if one["ended_ns"] and one["first_ns"]
    ]
    ttft = [(one["first_ns"] - one["due_ns"]) / 1e9 for one in ended]
    gaps = [one["worst_gap_ns"] / 1e9 for one in ended if one["tokens"] > 1]
    completion, slowdown = [], []
    for job, record in zip(played.load.jobs, played.jobs, strict=True):
        if record["is_done"] and not job.repeats:
            requests = record["requests"]
            took_s = (max(one["ended_ns"] for one in requests) - requests[0]["due_ns"]) / 1e9
            completion.append(took_s)
            slowdown.append((took_s - waits_s(job)) / rates.job_s(job))
    parts = (("ttft", ttft), ("gap", gaps), ("completion", completion), ("slowdown", slowdown))
    return {name: value for part, values in parts for name, value in summary(part, values).items()}


def _shares(played: Played) -> dict[str, float]:
    windows: list[Window] = []
    service: dict[str, float] = {}
    for number, (job, record) in enumerate(zip(played.load.jobs, played.jobs, strict=True)):
        if not record["stat"]:
            continue
        who = job.group or str(number)  # who share by weight: groups, and tasks that are in none
        service[who] = service.get(who, 0.0) + record["stat"]["attained_s"]
        windows += [
            Window(who, one["due_ns"] / 1e9, one["ended_ns"] / 1e9, weight_of(job, played.load.groups))
            for one in record["requests"]
            if one["ended_ns"]
        ]
    entitled = entitlements(windows)
    lags = [abs(lag) for look in played.looks for lag in look.lags_s.values()]
    stats = [record["stat"] for record in played.jobs if record["stat"]]
    bounded = {} if played.setup.is_baseline else {"starvation": starvation(played)}
    return {
        "jain": fairness(service, entitled),
        "lag_max_s": max(lags, default=0.0),
        "wait_max_s": max((stat["longest_wait_s"] for stat in stats), default=0.0),
        **bounded,
    }


def weight_of(job: Job, groups: Mapping[str, Mapping[str, float]]) -> float:
    """Return the weight of a job beside all others, or of its group."""
    if job.group:
        return groups.get(job.group, {}).get("weight", WEIGHT)
    return job.sched.get("weight", WEIGHT)


def starvation(played: Played) -> float:
    """Return the longest wait over the largest bound that its task had, of all tasks; 0: nobody waited or has one.

    A task that is gone before a look sees its wait has the bound of the run's last moment that is known.
    """
    bounds: dict[int, float] = {}
    for look in played.looks:
        for pid, bound_s in look.bounds_s.items():
            bounds[pid] = max(bound_s, bounds.get(pid, 0.0))
    worst = 0.0
    for record in played.jobs:
        if record["stat"]:
            bound_s = max(bounds.get(record["pid"], 0.0), record["stat"]["bound_s"])
            worst = max(worst, record["stat"]["longest_wait_s"] / bound_s)
    for look in played.looks:
        for pid, bound_s in look.bounds_s.items():
            worst = max(worst, look.waits_s.get(pid, 0.0) / bound_s)
    return worst


def _cost(played: Played) -> dict[str, float]:
    busy_s, steps = played.grew("core_busy_s"), played.grew("steps")
    return {
        "switches": played.grew("switches"),
        "switch_s": played.grew("switch_s"),
        "switch_percent": 100 * played.grew("switch_s") / busy_s,
        "sched_percent": 100 * played.grew("sched_s") / busy_s,
        "sched_us": 1e6 * played.grew("sched_s") / steps,
        "rescues": played.grew("rescues"),
        "charged_percent": 100 * played.grew("charged_s") / busy_s,
    }
