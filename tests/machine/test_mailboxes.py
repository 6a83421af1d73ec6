"""Messages arrive once, in order; a full mailbox makes its senders wait."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from machine import Machine

from kernel.limits import MAX_MAILS


def test_messages_arrive_in_the_order_in_which_they_were_sent():
    machine = Machine()
    box, one, two = (machine.agent() for _ in range(3))
    sent = [(one if number % 3 else two, b"%d" % number) for number in range(20)]
    for sender, data in sent:
        sender.ask("ipc.send", to=box.pid, data=data)
    got = [box.ask("ipc.recv") for _ in sent]
    assert got == [{"sender": sender.pid, "data": data} for sender, data in sent]


def test_receivers_that_wait_are_served_in_the_order_in_which_they_came():
    machine = Machine()
    box, sender = machine.agent(), machine.agent()
    calls = [box.call("ipc.recv") for _ in range(3)]
    for number in range(3):
        sender.ask("ipc.send", to=box.pid, data=b"%d" % number)
    assert [box.reply(call)["data"] for call in calls] == [b"0", b"1", b"2"]


def test_a_full_mailbox_lets_one_sender_in_for_each_message_taken_and_keeps_their_order():
    machine = Machine()
    box, sender = machine.agent(), machine.agent()
    calls = [sender.call("ipc.send", to=box.pid, data=b"%d" % number) for number in range(MAX_MAILS + 3)]
    assert [sender.end(call) is None for call in calls] == [False] * MAX_MAILS + [True] * 3
    got = [box.ask("ipc.recv")["data"]]
    assert [sender.end(call) is None for call in calls[-3:]] == [False, True, True]
    got += [box.ask("ipc.recv")["data"] for _ in range(MAX_MAILS + 2)]
    assert got == [b"%d" % number for number in range(MAX_MAILS + 3)]
    assert all(sender.reply(call) == {} for call in calls)


def test_a_sender_that_gave_up_has_sent_nothing():
    machine = Machine()
    box, sender = machine.agent(), machine.agent()
    for _ in range(MAX_MAILS):
        sender.ask("ipc.send", to=box.pid, data=b"old")
    late = sender.call("ipc.send", to=box.pid, data=b"late", timeout_ms=10)
    machine.pass_time(0.01)
    assert sender.error(late) == "ETIMEDOUT"
    got = [box.ask("ipc.recv")["data"] for _ in range(MAX_MAILS)]
    assert got == [b"old"] * MAX_MAILS
    assert box.error(box.call("ipc.recv", timeout_ms=0)) == "ETIMEDOUT"


def test_a_receiver_that_gave_up_takes_no_message():
    machine = Machine()
    box, sender = machine.agent(), machine.agent()
    box.call("ipc.recv", timeout_ms=10)
    machine.pass_time(0.01)
    sender.ask("ipc.send", to=box.pid, data=b"later")
    assert box.ask("ipc.recv")["data"] == b"later"


def test_a_dead_sender_that_waited_has_sent_nothing():
    machine = Machine()
    box, sender = machine.agent(), machine.agent()
    for _ in range(MAX_MAILS):
        sender.ask("ipc.send", to=box.pid, data=b"old")
    sender.call("ipc.send", to=box.pid, data=b"late")
    machine.ends(sender.pid)
    assert [box.ask("ipc.recv")["data"] for _ in range(MAX_MAILS)] == [b"old"] * MAX_MAILS
    assert box.error(box.call("ipc.recv", timeout_ms=0)) == "ETIMEDOUT"


def test_mail_waits_for_a_task_that_has_not_said_hello():
    machine = Machine()
    parent = machine.agent()
    parent.call("proc.spawn", script="a.py")
    pid = machine.launched()
    parent.ask("ipc.send", to=pid, data=b"first thing")
    assert parent.error(parent.call("ipc.send", to=pid + 1, data=b"")) == "ESRCH"


def test_an_operator_sends_as_pid_0():
    machine = Machine()
    box = machine.agent()
    machine.operator().ask("ipc.send", to=box.pid, data=b"hi")
    assert box.ask("ipc.recv")["sender"] == 0


def test_a_dead_tasks_mailbox_is_gone():
    machine = Machine()
    box, sender = machine.agent(), machine.agent()
    machine.ends(box.pid)
    assert sender.error(sender.call("ipc.send", to=box.pid, data=b"")) == "ESRCH"


@settings(max_examples=100, deadline=None)
@given(acts=st.lists(st.sampled_from(["send", "receive", "time"]), max_size=60), room=st.integers(1, 4))
def test_whatever_the_order_each_message_that_was_accepted_arrives_once_in_order(acts, room):
    import kernel.ipc.mailbox as module

    was, module.MAX_MAILS = module.MAX_MAILS, room
    try:
        machine = Machine()
        box, sender = machine.agent(), machine.agent()
        sends, receives = [], []
        for number, act in enumerate(acts):
            if act == "send":
                data = b"%d" % number
                sends.append((sender.call("ipc.send", to=box.pid, data=data, timeout_ms=15), data))
            elif act == "receive":
                receives.append(box.call("ipc.recv", timeout_ms=25))
            else:
                machine.pass_time(0.01)
        machine.pass_time(1)
        accepted = [data for call, data in sends if sender.end(call) == ("reply", {})]
        got = [end[1]["data"] for end in map(box.end, receives) if end and end[0] == "reply"]
        while (end := box.end(box.call("ipc.recv", timeout_ms=0)))[0] == "reply":
            got.append(end[1]["data"])
        assert got == accepted
    finally:
        module.MAX_MAILS = was
