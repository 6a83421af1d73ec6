"""The tree of groups over the requests of one class in one bank: who of them is to hold a slot.

Who calls it: classes.py. What must hold: a group's slots go to its groups and to its own tasks by weight (shares.py);
tasks of a group that chose the same policy share by it what they are entitled to together, so that nobody's choice
takes anything from those who chose another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from kernel.objects import Request
from kernel.sched import shares
from kernel.sched.groups import Group, Groups, lineage
from kernel.sched.policy import POLICIES, Policy, make_policy
from kernel.sched.shares import TURN_NS, Share


class _Pool:
    """The tasks of a group that share by one policy."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.share = Share()
        self._boosted: dict[Request, int] = {}  # that wait too long, with the core time they had since; oldest first
        self._requests: Counter[int] = Counter()  # runnable, by pid
        self._weights: dict[int, int] = {}  # by pid

    def add(self, request: Request) -> None:
        task = request.task
        if not self._requests[task.pid]:
            self._weights[task.pid] = task.sched.weight_at(task.priority)
            self.share.weight += self._weights[task.pid]
        self._requests[task.pid] += 1
        self.share.wants += 1
        self.policy.add(request)

    def remove(self, request: Request) -> None:
        pid = request.task.pid
        self.policy.remove(request)
        self._boosted.pop(request, None)
        self.share.wants -= 1
        self._requests[pid] -= 1
        if not self._requests[pid]:
            del self._requests[pid]
            self.share.weight -= self._weights.pop(pid)

    def boost(self, request: Request) -> None:
        self._boosted.setdefault(request, 0)

    def charge(self, request: Request, core_ns: int, tokens: int) -> None:
        self.policy.charge(request, core_ns, tokens)
        self.share.charge(core_ns)
        if request in self._boosted:
            self._boosted[request] += core_ns
            if self._boosted[request] >= TURN_NS:
                del self._boosted[request]

    def choose(self, slots: int, work_ns: int) -> list[Request]:
        """Return the policy's choice, with the one that was boosted first, for a turn, in front."""
        chosen = self.policy.choose(slots, work_ns)
        first = next(iter(self._boosted), None)
        if first is None or first in chosen:
            return chosen
        siblings = [request for request in chosen if request.task is first.task]
        if siblings:  # its task has a slot: that is the one that it takes
            chosen.remove(siblings[-1])
        return [first, *chosen][:slots]


class _Node:
    """A group, as far as something in it may run or has run."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.share = Share()
        self.pools: dict[str, _Pool] = {}  # by policy
        self.active: dict[_Node | _Pool, None] = {}  # those with something to run


class Tree:
    """Empty at first. `slice_factor`: how many times longer turns are in this class."""

    def __init__(self, groups: Groups, slice_factor: int = 1) -> None:
        self._groups = groups
        self._factor = slice_factor
        self._nodes: dict[str, _Node] = {}  # by path
        self._pools: dict[Request, tuple[list[_Node], _Pool]] = {}  # of all runnable ones; nodes from its group up
        self.next_free_ns: int | None = None  # when a group that its cap held back may go on

    def __len__(self) -> int:
        return len(self._pools)

    def add(self, request: Request) -> None:
        nodes = self._reach(request.task.sched.group)
        pool = self._pool(nodes[0], request)
        pool.add(request)
        self._pools[request] = (nodes, pool)
        child: _Node | _Pool = pool
        for node in nodes:
            if child not in node.active:
                shares.enter(child.share, [one.share for one in node.active])
                node.active[child] = None
            node.share.wants += 1
            self._weigh(node)
            child = node

    def remove(self, request: Request) -> None:
        nodes, pool = self._pools.pop(request)
        pool.remove(request)
        child: _Node | _Pool = pool
        for node in nodes:
            if not child.share.wants:
                del node.active[child]
            node.share.wants -= 1
            self._weigh(node)
            child = node

    def charge(self, request: Request, core_ns: int, tokens: int) -> None:
        nodes, pool = self._pools[request]
        pool.charge(request, core_ns, tokens)
        for node in nodes:
            node.share.charge(core_ns)
            node.group.attained_ns += core_ns

    def pass_time(self, core_ns: int) -> None:
        """A step has passed: floors are of its time."""
        for node in self._nodes.values():
            if len(node.active) > 1:
                shares.owe_floors([child.share for child in node.active], core_ns)

    def choose(self, slots: int, work_ns: int, now_ns: int) -> list[Request]:
        """Return who is to hold at most so many slots, most wanted first."""
        self.next_free_ns = None
        root = self._nodes.get("/")
        if root is None or not root.active or slots <= 0:
            return []
        if root.share.is_capped(now_ns):
            self.next_free_ns = root.share.free_at_ns(now_ns)
            return []
        return self._choose(root, slots, work_ns, now_ns)

    def boost(self, request: Request) -> None:
        self._pools[request][1].boost(request)

    def policy_of(self, request: Request) -> Policy:
        return self._pools[request][1].policy

    def forget_group(self, path: str) -> None:
        """A group is gone; there was nothing in it."""
        self._nodes.pop(path, None)

    # -- inside -------------------------------------------------------------------------------

    def _choose(self, node: _Node, slots: int, work_ns: int, now_ns: int) -> list[Request]:
        free = [child for child in node.active if not self._is_held_back(child, now_ns)]
        if len(free) == 1:
            free[0].share.slots = min(slots, free[0].share.wants)
        else:
            shares.divide([child.share for child in free], slots)
        chosen: list[Request] = []
        for child in free:
            if not child.share.slots:
                continue
            if isinstance(child, _Pool):
                chosen += child.choose(child.share.slots, work_ns)
            else:
                chosen += self._choose(child, child.share.slots, work_ns, now_ns)
        return chosen

    def _is_held_back(self, child: _Node | _Pool, now_ns: int) -> bool:
        if not child.share.is_capped(now_ns):
            return False
        free_ns = child.share.free_at_ns(now_ns)
        self.next_free_ns = free_ns if self.next_free_ns is None else min(free_ns, self.next_free_ns)
        return True

    def _reach(self, path: str) -> list[_Node]:
        """Return a group's node and those above it, made where they are missing."""
        nodes = []
        for one in lineage(path):
            node = self._nodes.get(one)
            if node is None or node.group is not self._groups[one]:
                node = self._nodes[one] = _Node(self._groups[one])
            attr = node.group.attr
            node.share.min_share, node.share.max_share = attr.min_share, attr.max_share
            nodes.append(node)
        return nodes

    def _pool(self, node: _Node, request: Request) -> _Pool:
        attr, own = self._groups.effective(node.group.path), request.task.sched.policy
        name = own or attr.policy
        pool = node.pools.get(name)
        if pool is None or not pool.share.wants:  # an empty one is made anew: its parameters may have changed
            vtime = pool.share.vtime if pool else 0.0
            is_own = name == attr.policy
            params = self._params(name, attr.params if is_own else {}, attr.slice_ms)
            pool = node.pools[name] = _Pool(make_policy(name, params))
            pool.share.vtime = vtime
        return pool

    def _params(self, name: str, given: Mapping[str, int], slice_ms: int | None) -> dict[str, int]:
        params = dict(given)
        known = POLICIES[name].params
        if "slice_ms" in known:
            turn = params.get("slice_ms", slice_ms or known["slice_ms"].default)
            params["slice_ms"] = min(turn * self._factor, known["slice_ms"].high)
        return params

    def _weigh(self, node: _Node) -> None:
        """A group's weight is its own, or that of all that is in it and wants to run."""
        own = node.group.attr.weight
        total = sum(child.share.weight for child in node.active)
        node.share.weight = (own if own is not None else total) if node.active else 0
