"""Parents, children, zombies, orphans, waits and signals are POSIX's."""

from __future__ import annotations

import signal

import pytest
from machine import Machine, at_most

from kernel.events import Output, PeerStalled, ProcessSample
from kernel.limits import TAIL_LINES
from kernel.proc import table
from kernel.states import TaskState

LONG = {"max_tokens": 100, "ignore_end": True}


# -- birth ------------------------------------------------------------------------------------


def test_a_spawned_script_is_launched_with_its_arguments_environment_and_folder():
    machine = Machine()
    machine.agent().call("proc.spawn", script="a.py", args=["x", "y"], env={"A": "b"}, cwd="/tmp")
    (launch,) = machine.launches
    assert (launch.argv, launch.env, launch.cwd) == (("a.py", "x", "y"), (("A", "b"),), "/tmp")


def test_a_child_is_named_after_its_script_unless_told_otherwise():
    machine = Machine()
    parent = machine.agent()
    assert machine.task(machine.child(parent, script="dir/tool.py").pid).name == "tool"
    assert machine.task(machine.child(parent, name="other").pid).name == "other"


def test_a_child_knows_its_parent_and_starts_with_the_priority_it_was_given():
    machine = Machine()
    parent = machine.agent()
    task = machine.task(machine.child(parent, priority=7).pid)
    assert (task.ppid, task.priority, task.state) == (parent.pid, 7, TaskState.READY)


def test_a_child_is_new_until_it_says_hello():
    machine = Machine()
    child = machine.child(machine.agent(), says_hello=False)
    assert machine.task(child.pid).state is TaskState.NEW
    assert child.error(child.call("sys.info")) == "EPROTO"
    child.hello("me")
    assert machine.task(child.pid).state is TaskState.READY


def test_a_spawn_whose_caller_gave_up_still_makes_a_task():
    machine = Machine()
    parent = machine.agent()
    call = parent.call("proc.spawn", deadline_ms=1, script="a.py")
    machine.pass_time(0.001)
    assert parent.error(call) == "ETIMEDOUT"
    assert machine.task(machine.launched()).ppid == parent.pid


def test_a_launch_that_fails_after_its_caller_gave_up_is_forgotten():
    machine = Machine()
    parent = machine.agent()
    parent.call("proc.spawn", deadline_ms=1, script="a.py")
    machine.pass_time(0.001)
    machine.launch_fails("no")
    assert list(machine.kernel.table.tasks) == [parent.pid]


def test_a_child_whose_parent_died_before_it_ran_belongs_to_the_kernel():
    machine = Machine()
    parent = machine.agent()
    parent.call("proc.spawn", script="a.py")
    machine.ends(parent.pid)
    assert machine.task(machine.launched()).ppid == 0


# -- death and waiting ------------------------------------------------------------------------


def test_a_dead_child_is_a_zombie_until_it_is_waited_for_once():
    machine = Machine()
    parent = machine.agent()
    child = machine.child(parent)
    machine.ends(child.pid, status=3)
    assert machine.task(child.pid).state is TaskState.ZOMBIE
    record = parent.ask("proc.wait", pid=child.pid)
    assert (record["pid"], record["status"], record["signal"]) == (child.pid, 3, None)
    assert record["reason"] == "exit status 3"
    assert child.pid not in machine.kernel.table.tasks
    assert parent.error(parent.call("proc.wait", pid=child.pid)) == "ECHILD"


def test_a_death_by_signal_has_a_signal_and_no_status():
    machine = Machine()
    parent = machine.agent()
    child = machine.child(parent)
    machine.ends(child.pid, status=None, signal=11)
    record = parent.ask("proc.wait")
    assert (record["status"], record["signal"], record["reason"]) == (None, 11, "signal SIGSEGV")


def test_a_wait_tells_the_last_lines_that_the_child_printed():
    machine = Machine()
    parent = machine.agent()
    child = machine.child(parent)
    lines = [f"line {number}" for number in range(TAIL_LINES + 5)]
    machine.event(Output(machine.now_ns, child.pid, "\n".join(lines).encode() + b"\n"))
    machine.ends(child.pid)
    assert parent.ask("proc.wait")["tail"].splitlines() == lines[-TAIL_LINES:]


def test_a_log_keeps_only_its_newest_bytes():
    machine = Machine(log_bytes=100)
    peer = machine.agent()
    for number in range(1000):
        machine.event(Output(machine.now_ns, peer.pid, b"%07d\n" % number))
    text = peer.ask("proc.logs", pid=peer.pid)["text"]
    assert text.endswith("0000999\n")
    assert 100 <= len(text) < 108


def test_a_task_that_is_no_child_of_the_kernel_ends_as_it_said_it_would():
    machine = Machine()
    peer = machine.agent()
    peer.ask("proc.exit", status=4)
    machine.ends(peer.pid, status=None)
    assert machine.operator().ask("proc.wait", pid=peer.pid)["status"] == 4


def test_waiting_for_any_takes_whoever_ends_first_and_then_the_next():
    machine = Machine()
    parent = machine.agent()
    children = [machine.child(parent) for _ in range(2)]
    call = parent.call("proc.wait")
    machine.ends(children[1].pid)
    assert parent.reply(call)["pid"] == children[1].pid
    machine.ends(children[0].pid)
    assert parent.ask("proc.wait")["pid"] == children[0].pid
    assert parent.error(parent.call("proc.wait")) == "ECHILD"


def test_waiting_for_one_child_is_not_ended_by_another():
    machine = Machine()
    parent = machine.agent()
    one, two = (machine.child(parent) for _ in range(2))
    call = parent.call("proc.wait", pid=one.pid)
    machine.ends(two.pid)
    assert parent.end(call) is None
    machine.ends(one.pid)
    assert parent.reply(call)["pid"] == one.pid


def test_two_waits_for_any_child_get_one_child_each():
    machine = Machine()
    parent = machine.agent()
    children = [machine.child(parent) for _ in range(2)]
    calls = [parent.call("proc.wait") for _ in range(2)]
    for child in children:
        machine.ends(child.pid)
    assert {parent.reply(call)["pid"] for call in calls} == {child.pid for child in children}


def test_a_second_wait_for_the_last_child_fails_when_the_first_has_it():
    machine = Machine()
    parent = machine.agent()
    child = machine.child(parent)
    calls = [parent.call("proc.wait") for _ in range(2)]
    machine.ends(child.pid)
    assert parent.reply(calls[0])["pid"] == child.pid
    assert parent.error(calls[1]) == "ECHILD"


def test_two_waits_for_the_same_child_do_not_bring_the_kernel_down():
    machine = Machine()
    parent = machine.agent()
    child = machine.child(parent)
    calls = [parent.call("proc.wait", pid=child.pid) for _ in range(2)]
    machine.ends(child.pid)
    assert parent.reply(calls[0])["pid"] == child.pid
    assert parent.end(calls[1]) is not None


def test_two_operators_may_wait_for_the_same_task():
    machine = Machine()
    operators = [machine.operator(), machine.operator()]
    child = machine.child(operators[0])
    calls = [operator.call("proc.wait", pid=child.pid) for operator in operators]
    machine.ends(child.pid, status=2)
    for operator, call in zip(operators, calls, strict=True):
        assert operator.end(call) is not None
    assert operators[0].reply(calls[0])["status"] == 2


def test_an_operator_looks_on_and_leaves_the_zombie_to_its_parent():
    machine = Machine()
    parent, operator = machine.agent(), machine.operator()
    child = machine.child(parent)
    machine.ends(child.pid, status=5)
    assert operator.ask("proc.wait", pid=child.pid)["status"] == 5
    assert parent.ask("proc.wait", pid=child.pid)["status"] == 5


def test_an_operator_reaps_what_operators_spawned():
    machine = Machine()
    operator = machine.operator()
    child = machine.child(operator)
    machine.ends(child.pid)
    operator.ask("proc.wait", pid=child.pid)
    assert child.pid not in machine.kernel.table.tasks


def test_orphans_become_the_kernels_children():
    machine = Machine()
    parent = machine.agent()
    child = machine.child(parent)
    machine.ends(parent.pid)
    assert machine.task(child.pid).ppid == 0
    assert machine.task(child.pid).state is TaskState.READY


def test_orphaned_zombies_are_kept_up_to_a_limit_oldest_reaped_first():
    machine = Machine()
    pids = [machine.agent().pid for _ in range(12)]
    with at_most(table, "MAX_ORPHAN_ZOMBIES", 10):
        for pid in pids:
            machine.ends(pid)
    assert list(machine.kernel.table.tasks) == pids[2:]


def test_a_wait_that_timed_out_does_not_take_the_child():
    machine = Machine()
    parent = machine.agent()
    child = machine.child(parent)
    call = parent.call("proc.wait", timeout_ms=1)
    machine.pass_time(0.001)
    machine.ends(child.pid)
    assert parent.error(call) == "ETIMEDOUT"
    assert parent.ask("proc.wait")["pid"] == child.pid


def test_an_end_that_is_told_twice_counts_once():
    machine = Machine()
    peer = machine.agent()
    machine.ends(peer.pid, status=1)
    machine.ends(peer.pid, status=2)
    assert machine.task(peer.pid).status == 1


def test_a_process_that_took_a_zombies_pid_is_a_new_task():
    machine = Machine()
    peer = machine.agent("old")
    machine.ends(peer.pid)
    again = peer.another(birth=2)
    again.hello("new")
    assert machine.task(peer.pid).name == "new"
    assert machine.task(peer.pid).state is TaskState.READY
    again.ask("ipc.send", to=peer.pid, data=b"x")


def test_all_calls_of_a_task_end_with_it():
    machine = Machine()
    peer = machine.agent()
    child = machine.child(peer)
    generating = peer.call("llm.generate", prompt="hello", **LONG)
    machine.step()
    calls = [
        generating,
        peer.call("ipc.recv"),
        peer.call("proc.wait", pid=child.pid),
        peer.call("proc.spawn", script="a.py"),
        peer.call("proc.ps"),
        peer.call("llm.tokenize", text="a"),
    ]
    machine.ends(peer.pid)
    assert [peer.error(call) for call in calls] == ["EPIPE"] * len(calls)
    machine.event(ProcessSample(machine.now_ns, ()))
    machine.run()


# -- signals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["TERM", "KILL", "INT", "STOP", "CONT", "USR1", "USR2"])
def test_each_signal_reaches_the_process(name):
    machine = Machine()
    peer = machine.agent()
    peer.call("proc.kill", pid=peer.pid, signal=name)
    assert machine.signals == [(peer.pid, getattr(signal, f"SIG{name}"))]


def test_an_operator_may_signal_any_task_and_a_child_not_its_parent():
    machine = Machine()
    parent = machine.agent()
    child = machine.child(parent)
    machine.operator().ask("proc.kill", pid=child.pid)
    assert child.error(child.call("proc.kill", pid=parent.pid)) == "EPERM"


def test_a_zombie_cannot_be_signalled():
    machine = Machine()
    peer = machine.agent()
    machine.ends(peer.pid)
    operator = machine.operator()
    assert operator.error(operator.call("proc.kill", pid=peer.pid)) == "ESRCH"


def test_a_stopped_task_comes_off_the_model_and_goes_on_where_it_was():
    machine = Machine(slots=1)
    operator, peer = machine.operator(), machine.agent()
    call = peer.call("llm.generate", prompt="hello", max_tokens=20, ignore_end=True)
    for _ in range(5):
        machine.step()
    operator.ask("proc.kill", pid=peer.pid, signal="STOP")
    machine.run()
    assert machine.task(peer.pid).state is TaskState.STOPPED
    assert peer.end(call) is None
    assert machine.task(peer.pid).running == 0
    operator.ask("proc.kill", pid=peer.pid, signal="CONT")
    machine.run()
    timings = peer.reply(call)["timings"]
    assert (timings["restores"], timings["recomputed_tokens"]) == (1, 0)


def test_a_stopped_task_leaves_its_slot_to_others():
    machine = Machine(slots=1, policy="fcfs")
    operator, one, two = machine.operator(), machine.agent(), machine.agent()
    one.call("llm.generate", prompt="hello", **LONG)
    machine.step()
    operator.ask("proc.kill", pid=one.pid, signal="STOP")
    call = two.call("llm.generate", prompt="hello", max_tokens=3, ignore_end=True)
    machine.run()
    assert two.reply(call)["usage"]["generated_tokens"] == 3


def test_a_request_that_a_stopped_task_had_on_its_way_starts_after_cont():
    machine = Machine()
    operator, peer = machine.operator(), machine.agent()
    call = peer.call("llm.generate", prompt="hello", max_tokens=3, ignore_end=True)
    operator.ask("proc.kill", pid=peer.pid, signal="STOP")
    machine.run()  # the tokens of its prompt arrive while it is stopped
    assert peer.end(call) is None
    operator.ask("proc.kill", pid=peer.pid, signal="CONT")
    machine.run()
    assert peer.reply(call)["usage"]["generated_tokens"] == 3


def test_stop_twice_and_cont_twice_are_as_once():
    machine = Machine()
    operator, peer = machine.operator(), machine.agent()
    call = peer.call("llm.generate", prompt="hello", max_tokens=3, ignore_end=True)
    machine.step()
    for name in ("STOP", "STOP", "CONT", "CONT"):
        operator.ask("proc.kill", pid=peer.pid, signal=name)
    machine.run()
    assert peer.reply(call)["usage"]["generated_tokens"] == 3


@pytest.mark.parametrize("has_said_hello", [False, True])
def test_a_new_task_that_was_stopped_is_what_it_was_after_cont(has_said_hello):
    machine = Machine()
    operator = machine.operator()
    child = machine.child(operator, says_hello=False)
    operator.ask("proc.kill", pid=child.pid, signal="STOP")
    assert machine.task(child.pid).state is TaskState.STOPPED
    if has_said_hello:  # it was on its way
        child.hello()
        assert machine.task(child.pid).state is TaskState.STOPPED
    operator.ask("proc.kill", pid=child.pid, signal="CONT")
    wanted = TaskState.READY if has_said_hello else TaskState.NEW
    assert machine.task(child.pid).state is wanted


def test_a_stopped_task_with_a_waiting_call_is_blocked_after_cont():
    machine = Machine()
    operator, peer = machine.operator(), machine.agent()
    peer.call("ipc.recv")
    operator.ask("proc.kill", pid=peer.pid, signal="STOP")
    operator.ask("proc.kill", pid=peer.pid, signal="CONT")
    assert machine.task(peer.pid).state is TaskState.BLOCKED


def test_kill_ends_running_requests_at_once_and_no_token_is_fed_after_the_step_in_flight():
    machine = Machine()
    operator, peer = machine.operator(), machine.agent()
    call = peer.call("llm.generate", prompt="hello", stream=True, **LONG)
    for _ in range(5):
        machine.step()
    operator.ask("proc.kill", pid=peer.pid, signal="KILL")
    assert peer.error(call) == "EPIPE"
    chunks = len(peer.chunks(call))
    machine.run()
    assert len(peer.chunks(call)) == chunks
    assert machine.plans[-1].number - machine.scheduler.totals.steps <= 0
    assert machine.store.lent_bytes == 0


def test_kill_ends_a_stopped_task():
    machine = Machine()
    operator, peer = machine.operator(), machine.agent()
    call = peer.call("llm.generate", prompt="hello", **LONG)
    machine.step()
    operator.ask("proc.kill", pid=peer.pid, signal="STOP")
    operator.ask("proc.kill", pid=peer.pid, signal="KILL")
    machine.ends(peer.pid, status=None, signal=9)
    machine.run()
    assert peer.error(call) == "EPIPE"
    assert machine.task(peer.pid).state is TaskState.ZOMBIE


def test_term_leaves_the_requests_running():
    machine = Machine()
    operator, peer = machine.operator(), machine.agent()
    call = peer.call("llm.generate", prompt="hello", max_tokens=5, ignore_end=True)
    operator.ask("proc.kill", pid=peer.pid, signal="TERM")
    machine.run()
    peer.reply(call)


def test_a_held_hog_acts_on_term_because_it_is_continued():
    machine = Machine()
    operator, peer = machine.operator(), machine.agent()
    peer.call("llm.generate", prompt="hello", **LONG)
    machine.step()
    for cpu_s in (0.0, 1.0):
        machine.now_ns += 1_000_000_000
        machine.event(ProcessSample(machine.now_ns, ((peer.pid, cpu_s, 0),)))
    assert machine.signals == [(peer.pid, signal.SIGSTOP)]
    machine.signals.clear()
    operator.ask("proc.kill", pid=peer.pid, signal="TERM")
    assert machine.signals == [(peer.pid, signal.SIGTERM), (peer.pid, signal.SIGCONT)]


# -- peers that do not read -------------------------------------------------------------------


def test_a_peer_that_does_not_read_is_killed_and_told_why():
    machine = Machine()
    peer, operator = machine.agent(), machine.operator()
    call = peer.call("llm.generate", prompt="hello", stream=True, **LONG)
    machine.step()
    machine.event(PeerStalled(machine.now_ns, peer.connection))
    assert peer.error(call) == "EPIPE"
    assert (peer.pid, signal.SIGKILL) in machine.signals
    machine.ends(peer.pid, status=None, signal=9)
    assert operator.ask("proc.wait", pid=peer.pid)["reason"] == "it does not read its answers"


def test_an_operator_that_does_not_read_ends_no_task():
    machine = Machine()
    peer, operator = machine.agent(), machine.operator()
    call = operator.call("proc.wait", pid=peer.pid)
    machine.event(PeerStalled(machine.now_ns, operator.connection))
    assert operator.error(call) == "EPIPE"
    assert machine.signals == []


def test_a_peer_that_does_not_read_is_killed_even_when_no_call_of_its_waits():
    machine = Machine()
    peer = machine.agent()
    for _ in range(10):
        peer.ask("sys.info")
    machine.event(PeerStalled(machine.now_ns, peer.connection))
    assert (peer.pid, signal.SIGKILL) in machine.signals
