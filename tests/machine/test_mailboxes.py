"""Messages arrive once, in order; a full mailbox makes its senders wait, and so does mail that nobody takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from machine import Machine, Peer, at_most

from kernel.abi.calls import MAX_MAIL_BYTES
from kernel.ipc import mailbox
from kernel.ipc.mailbox import MAIL_BYTES
from kernel.limits import MAX_CALLS, MAX_MAILS, MAX_SENT_BYTES

LARGE = bytes(MAX_MAIL_BYTES)
MOST = MAX_SENT_BYTES // (MAX_MAIL_BYTES + MAIL_BYTES)  # large messages that one task may have under way


def use_up(sender: Peer, to: Peer) -> int:
    """Send what a task may have under way; return how many messages that took."""
    for _ in range(MOST):
        sender.ask("ipc.send", to=to.pid, data=LARGE)
    rest = MAX_SENT_BYTES - MOST * (MAX_MAIL_BYTES + MAIL_BYTES) - MAIL_BYTES
    assert 0 <= rest <= MAX_MAIL_BYTES
    sender.ask("ipc.send", to=to.pid, data=bytes(rest))
    return MOST + 1


def bodies(box: Peer) -> Iterator[dict[str, Any]]:
    """Receive until nothing is there to be received."""
    while (end := box.end(box.call("ipc.recv", timeout_ms=0)))[0] == "reply":
        yield end[1]


def take_all(box: Peer) -> list[bytes]:
    return [body["data"] for body in bodies(box)]


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


def test_messages_of_no_bytes_arrive_and_count():
    machine = Machine()
    box, sender = machine.agent(), machine.agent()
    for _ in range(MAX_MAILS):
        sender.ask("ipc.send", to=box.pid, data=b"")
    late = sender.call("ipc.send", to=box.pid, data=b"")
    assert sender.waits(late)
    assert box.ask("ipc.recv") == {"sender": sender.pid, "data": b""}
    assert sender.reply(late) == {}
    assert take_all(box) == [b""] * MAX_MAILS


# -- what one task may have under way ---------------------------------------------------------


def test_a_sender_whose_mail_nobody_takes_waits_though_mailboxes_have_room():
    machine = Machine()
    box, other, sender = machine.agent(), machine.agent(), machine.agent()
    count = use_up(sender, box)
    assert count < MAX_MAILS
    calls = [sender.call("ipc.send", to=to.pid, data=b"") for to in (box, other)]
    assert all(sender.waits(call) for call in calls)
    at_once = sender.call("ipc.send", to=other.pid, data=b"", timeout_ms=0)
    assert sender.error(at_once) == "ETIMEDOUT"
    assert f"{MAX_SENT_BYTES} bytes" in sender.end(at_once)[1]["text"]
    soon = sender.call("ipc.send", to=other.pid, data=b"", timeout_ms=10)
    machine.pass_time(0.01)
    assert sender.error(soon) == "ETIMEDOUT"


def test_a_sender_goes_on_as_soon_as_any_of_its_mail_is_taken():
    machine = Machine()
    box, other, sender = machine.agent(), machine.agent(), machine.agent()
    use_up(sender, box)
    calls = [sender.call("ipc.send", to=other.pid, data=b"%d" % number) for number in range(9)]
    assert all(sender.waits(call) for call in calls)
    box.ask("ipc.recv")
    assert [sender.reply(call) for call in calls] == [{}] * 9, "one large message made room for nine small ones"
    assert take_all(other) == [b"%d" % number for number in range(9)]


def test_only_as_much_is_let_in_as_was_taken():
    machine = Machine()
    box, other, sender = machine.agent(), machine.agent(), machine.agent()
    use_up(sender, box)
    calls = [sender.call("ipc.send", to=other.pid, data=LARGE) for _ in range(3)]
    for taken in range(3):
        assert [sender.waits(call) for call in calls] == [number >= taken for number in range(3)]
        box.ask("ipc.recv")


def test_a_receiver_takes_what_waits_for_it_whatever_its_sender_has_under_way():
    machine = Machine()
    box, other, sender = machine.agent(), machine.agent(), machine.agent()
    use_up(sender, other)
    calls = [sender.call("ipc.send", to=box.pid, data=data) for data in (LARGE, b"small")]
    for call, data in zip(calls, (LARGE, b"small"), strict=True):
        assert sender.waits(call)
        assert box.ask("ipc.recv") == {"sender": sender.pid, "data": data}
        assert sender.reply(call) == {}


def test_a_receiver_that_waits_is_given_what_an_allowance_would_hold_back():
    machine = Machine()
    box, other, sender = machine.agent(), machine.agent(), machine.agent()
    use_up(sender, other)
    call = box.call("ipc.recv")
    assert sender.ask("ipc.send", to=box.pid, data=LARGE) == {}
    assert box.reply(call)["data"] == LARGE


def test_what_a_sender_holds_back_arrives_in_its_order():
    machine = Machine()
    box, other, sender = machine.agent(), machine.agent(), machine.agent()
    use_up(sender, other)
    sizes = [40_000, 10, 60_000, 0, 5]
    calls = [sender.call("ipc.send", to=box.pid, data=bytes(size)) for size in sizes]
    got = []
    for _ in range(3):
        other.ask("ipc.recv")
        got.append(len(box.ask("ipc.recv")["data"]))
    got += map(len, take_all(box))
    assert got == sizes
    assert [sender.reply(call) for call in calls] == [{}] * len(sizes)


def test_what_was_held_back_queues_up_behind_what_waits_for_room():
    machine = Machine()
    box, other, filler, sender = (machine.agent() for _ in range(4))
    sender.ask("ipc.send", to=box.pid, data=bytes(30_000))
    for _ in range(MAX_MAILS - 1):
        filler.ask("ipc.send", to=box.pid, data=b"")
    calls = [sender.call("ipc.send", to=box.pid, data=b"first")]
    while not sender.waits(sender.call("ipc.send", to=other.pid, data=bytes(20_000))):
        assert len(machine.kernel.post._boxes[other.pid].mails) < MAX_MAILS
    calls += [sender.call("ipc.send", to=box.pid, data=b"second")]
    for _ in range(2):
        box.ask("ipc.recv")
    assert [sender.reply(call) for call in calls] == [{}, {}]
    assert [data for data in take_all(box) if data] == [b"first", b"second"]


def test_a_small_message_does_not_overtake_a_large_one_of_its_sender():
    machine = Machine()
    box, sender = machine.agent(), machine.agent()
    for _ in range(MOST):
        sender.ask("ipc.send", to=box.pid, data=LARGE)
    sender.call("ipc.send", to=box.pid, data=LARGE)
    small = sender.call("ipc.send", to=box.pid, data=b"small")
    assert sender.waits(small), "there is room for it, and not for what was sent before it"
    assert [len(data) for data in take_all(box)] == [MAX_MAIL_BYTES] * (MOST + 1) + [5]


def test_a_small_message_goes_on_when_the_large_one_before_it_gives_up():
    machine = Machine()
    box, other, sender = machine.agent(), machine.agent(), machine.agent()
    for _ in range(MOST):
        sender.ask("ipc.send", to=box.pid, data=LARGE)
    large = sender.call("ipc.send", to=other.pid, data=LARGE, timeout_ms=10)
    small = sender.call("ipc.send", to=other.pid, data=b"small")
    machine.pass_time(0.01)
    assert sender.error(large) == "ETIMEDOUT"
    assert sender.reply(small) == {}
    assert take_all(other) == [b"small"]


def test_other_senders_are_not_kept_out_by_one_with_too_much_under_way():
    machine = Machine()
    box, other, greedy, modest = (machine.agent() for _ in range(4))
    use_up(greedy, other)
    for _ in range(MAX_MAILS):
        modest.ask("ipc.send", to=box.pid, data=b"old")
    blocked = greedy.call("ipc.send", to=box.pid, data=LARGE)
    waiting = modest.call("ipc.send", to=box.pid, data=b"new")
    box.ask("ipc.recv")
    assert modest.reply(waiting) == {}, "it came after the greedy one, and has room"
    assert greedy.waits(blocked)
    assert take_all(box) == [b"old"] * (MAX_MAILS - 1) + [b"new", LARGE]


def test_what_waits_for_room_in_a_mailbox_is_under_way_too():
    machine = Machine()
    box, other, filler, sender = (machine.agent() for _ in range(4))
    for _ in range(MAX_MAILS):
        filler.ask("ipc.send", to=box.pid, data=b"old")
    queued = [sender.call("ipc.send", to=box.pid, data=LARGE, timeout_ms=10) for _ in range(MOST)]
    held_back = sender.call("ipc.send", to=other.pid, data=LARGE)
    assert all(sender.waits(call) for call in (*queued, held_back))
    machine.pass_time(0.01)
    assert [sender.error(call) for call in queued] == ["ETIMEDOUT"] * MOST
    assert sender.reply(held_back) == {}
    assert take_all(box) == [b"old"] * MAX_MAILS


def test_the_death_of_a_receiver_gives_its_senders_their_room_back():
    machine = Machine()
    box, other, sender = machine.agent(), machine.agent(), machine.agent()
    use_up(sender, box)
    lost = [sender.call("ipc.send", to=box.pid, data=LARGE) for _ in range(2)]
    calls = [sender.call("ipc.send", to=other.pid, data=LARGE) for _ in range(2)]
    machine.ends(box.pid)
    assert [sender.error(call) for call in lost] == ["EPIPE"] * 2
    assert [sender.reply(call) for call in calls] == [{}] * 2
    for _ in range(MOST - 2):
        sender.ask("ipc.send", to=other.pid, data=LARGE)
    assert sender.waits(sender.call("ipc.send", to=other.pid, data=LARGE))


def test_mail_of_a_dead_sender_arrives_and_what_it_still_wanted_to_send_does_not():
    machine = Machine()
    box, sender = machine.agent(), machine.agent()
    count = use_up(sender, box)
    sender.call("ipc.send", to=box.pid, data=b"late")
    machine.ends(sender.pid)
    assert len(take_all(box)) == count


def test_each_task_has_an_allowance_of_its_own_and_all_operators_have_one():
    machine = Machine()
    box, other, sender = machine.agent(), machine.agent(), machine.agent()
    one, two = machine.operator(), machine.operator()
    use_up(sender, box)
    use_up(one, box)
    late = two.call("ipc.send", to=other.pid, data=b"")
    assert two.waits(late)
    assert take_all(other) == [b""]
    assert two.reply(late) == {}


def test_a_task_that_only_writes_to_itself_waits_for_itself():
    machine = Machine()
    peer = machine.agent()
    count = use_up(peer, peer)
    late = peer.call("ipc.send", to=peer.pid, data=b"late")
    assert peer.waits(late)
    assert len(take_all(peer)) == count + 1
    peer.call("ipc.send", to=peer.pid, data=LARGE)
    machine.ends(peer.pid)


def test_a_task_that_ends_with_many_sends_waiting_ends_them_all():
    machine = Machine()
    box, other, sender = machine.agent(), machine.agent(), machine.agent()
    for _ in range(MOST):
        sender.ask("ipc.send", to=box.pid, data=LARGE)
    calls = [sender.call("ipc.send", to=other.pid, data=LARGE)]
    calls += [sender.call("ipc.send", to=other.pid, data=bytes(1000)) for _ in range(MAX_CALLS - 1)]
    machine.ends(sender.pid)
    assert all(sender.end(call) is not None for call in calls)
    told = sum(sender.end(call) == ("reply", {}) for call in calls)
    assert take_all(other) == [bytes(1000)] * told, "who was told that it sent, sent"


# -- whatever the order -----------------------------------------------------------------------

acts = st.tuples(
    st.sampled_from(["send", "send", "send", "receive", "receive", "time", "end"]),
    st.integers(0, 1),  # which sender
    st.integers(0, 2),  # which mailbox; the last is the first sender's own
    st.integers(0, 300),  # bytes
)


@settings(max_examples=200, deadline=None)
@given(
    acts=st.lists(acts, max_size=20) | st.lists(acts, min_size=40, max_size=120),
    room=st.integers(1, 4),
    allowance=st.integers(450, 1500),
)
def test_each_message_that_was_accepted_arrives_once_in_its_senders_order(acts, room, allowance):
    with at_most(mailbox, "MAX_MAILS", room), at_most(mailbox, "MAX_SENT_BYTES", allowance):
        machine = Machine()
        senders, boxes = [machine.agent(), machine.operator()], [machine.agent(), machine.agent()]
        boxes.append(senders[0])
        sends: list[tuple[int, int, int, bytes]] = []  # sender, mailbox, call, data
        receives: list[list[int]] = [[] for _ in boxes]
        ended = None
        for number, (act, which, to, size) in enumerate(acts):
            if act == "send" and to != ended:
                data = b"%d:" % number + bytes(size)
                call = senders[which].call("ipc.send", to=boxes[to].pid, data=data, timeout_ms=15)
                sends.append((which, to, call, data))
            elif act == "receive" and to != ended:
                receives[to].append(boxes[to].call("ipc.recv", timeout_ms=25))
            elif act == "time":
                machine.pass_time(0.01)
            elif act == "end" and size > 200 and ended is None:
                ended = 1
                machine.ends(boxes[1].pid)
        machine.pass_time(1)
        for to, box in enumerate(boxes):
            ends = [end[1] for end in map(box.end, receives[to]) if end and end[0] == "reply"]
            got = [(body["sender"], body["data"]) for body in ends]
            got += [] if to == ended else [(body["sender"], body["data"]) for body in bodies(box)]
            for which, pid in ((0, senders[0].pid), (1, 0)):
                mine = [one for one in sends if one[:2] == (which, to)]
                accepted = [data for _, _, call, data in mine if senders[which].end(call) == ("reply", {})]
                arrived = [data for sender, data in got if sender == pid]
                assert arrived == (accepted[: len(arrived)] if to == ended else accepted)
        machine.pass_time(1)
        assert not machine.kernel.post._waiting
