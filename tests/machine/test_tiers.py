"""Contexts on disk: memory is taken from who is away, nothing is computed again, a disk that fails changes no token."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machine import Machine, Peer

CHARS = 150  # of a first turn: each context takes some hundred bytes
TURN = {"max_tokens": 8, "grammar": "printable"}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def small(**config) -> Machine:
    """A machine with memory for eight contexts, and a disk for all."""
    return Machine(**({"slots": 2, "snapshot_bytes": 8 << 16, "swap_bytes": 1 << 30, "window_tokens": 1024} | config))


def turn(machine: Machine, peer: Peer, session: int, text: str) -> dict:
    call = say(peer, session, text)
    machine.run()
    return peer.reply(call)


def say(peer: Peer, session: int, text: str) -> int:
    return peer.call("llm.generate", session=session, messages=[user(text)], **TURN)


def opened(machine: Machine, count: int) -> tuple[Peer, list[int]]:
    """An agent with so many sessions that had a turn each."""
    peer = machine.agent()
    sessions = [peer.ask("ctx.open")["session"] for _ in range(count)]
    for session in sessions:
        turn(machine, peer, session, f"{session} " * CHARS)
    return peer, sessions


def where(peer: Peer) -> list[str]:
    return [row["where"] for row in peer.ask("ctx.list")["sessions"]]


def test_more_contexts_than_memory_holds_go_to_disk_and_none_is_computed_again():
    machine = small()
    peer, sessions = opened(machine, 20)
    assert set(where(peer)) == {"memory", "disk"}
    for number in range(3):
        for session in sessions:
            reply = turn(machine, peer, session, f"and {number}?")
            assert reply["usage"]["cached_tokens"] > 300
    assert machine.scheduler.totals.recomputed_tokens == 0
    assert machine.store.held_bytes <= machine.store.limit_bytes


def test_turns_of_all_sessions_at_once_wait_for_their_contexts_and_all_are_answered():
    machine = small()
    peer, sessions = opened(machine, 20)
    for number in range(2):
        calls = [say(peer, session, f"and {number}?") for session in sessions]
        machine.run()
        assert all(peer.reply(call)["usage"]["cached_tokens"] > 300 for call in calls)


def test_sessions_that_always_have_something_to_say_take_turns_with_the_memory():
    machine = small()
    peer, sessions = opened(machine, 20)
    calls = {session: say(peer, session, "and?") for session in sessions}
    turns = dict.fromkeys(sessions, 0)
    while min(turns.values()) < 3:
        assert machine.step() or machine.copies
        for session, call in calls.items():
            if peer.end(call) is not None:
                turns[session] += 1
                calls[session] = say(peer, session, "and?")
        assert max(turns.values()) <= min(turns.values()) + 2


def test_a_higher_class_goes_before_others_in_the_line_for_memory():
    machine = small(slots=1)
    peer, sessions = opened(machine, 20)
    peer.ask("sched.setattr", sched_class="batch")
    urgent, (session,) = opened(machine, 1)
    for other in sessions[:10]:
        turn(machine, peer, other, "and?")
    assert where(urgent) == ["disk"]
    calls = [say(peer, other, "and?") for other in sessions]
    call = say(urgent, session, "and?")
    while urgent.end(call) is None:
        assert machine.step() or machine.copies
    assert urgent.reply(call)["usage"]["cached_tokens"] > 300
    assert sum(peer.end(one) is not None for one in calls) < 12


def test_an_idle_core_lets_contexts_be_written_and_taking_their_memory_moves_nothing():
    machine = small(snapshot_bytes=1 << 24)
    peer, sessions = opened(machine, 3)
    assert machine.tiers.written_bytes > 0
    assert where(peer) == ["memory"] * 3
    written = machine.tiers.written_bytes
    tiers = machine.tiers
    while tiers._clean:
        tiers.drop_oldest()
    assert where(peer) == ["disk"] * 3
    assert tiers.written_bytes == written
    assert turn(machine, peer, sessions[0], "and?")["usage"]["cached_tokens"] > 300


def test_a_context_that_cannot_be_read_is_said_and_computed_again_with_the_same_tokens():
    tokens = []
    for error in ("", "Input/output error"):
        machine = small()
        peer, sessions = opened(machine, 20)
        assert where(peer)[0] == "disk"
        machine.disk_error = error
        reply = turn(machine, peer, sessions[0], "and?")
        tokens.append(reply["tokens"])
        machine.disk_error = ""
        assert (reply["usage"]["cached_tokens"] == 0) == bool(error)
        assert any("Input/output error" in text and "computed again" in text for text in machine.said) == bool(error)
        assert turn(machine, peer, sessions[1], "and?")["usage"]["cached_tokens"] > 300  # nobody else is affected
    assert tokens[0] == tokens[1]


def test_a_full_disk_is_said_once_and_everything_goes_on():
    machine = small()
    machine.disk_error = "No space left on device"
    peer, sessions = opened(machine, 20)
    assert [text for text in machine.said if "No space left on device" in text]
    assert len(machine.said) < 8
    assert set(where(peer)) == {"memory", "none"}
    assert all(turn(machine, peer, session, "and?")["tokens"] for session in sessions)


def test_a_flipped_bit_on_disk_is_found_and_the_context_is_computed_again():
    machine = small()
    peer, sessions = opened(machine, 20)
    for content in machine.disk.values():
        content[70] ^= 1
    wanted = machine.scheduler.totals.failed_restores
    assert turn(machine, peer, sessions[0], "and?")["tokens"]
    assert machine.scheduler.totals.failed_restores == wanted + 1


def test_a_disk_without_room_keeps_those_that_were_used_last():
    machine = small(swap_bytes=12 * 4096)
    peer, _ = opened(machine, 20)
    places = where(peer)
    assert places[-1] == "memory"
    assert "disk" in places
    assert places[0] == "none"


def test_a_read_that_finds_no_room_is_given_up_in_time_and_the_context_computed_again():
    machine = small(slots=1, quantum_tokens=1)
    peer, sessions = opened(machine, 20)
    others = [machine.agent() for _ in range(6)]
    calls = [one.call("llm.generate", tokens=[5] * 400, max_tokens=60, ignore_end=True) for one in others]
    for _ in range(60):
        machine.step()
    for one in others:  # they hold memory, and do not run
        machine.operator().ask("proc.kill", pid=one.pid, signal="STOP")
    call = say(peer, sessions[0], "and?")
    machine.run()
    machine.pass_time(10)
    machine.run()
    assert peer.reply(call)["tokens"]
    for one in others:
        machine.operator().ask("proc.kill", pid=one.pid, signal="CONT")
    machine.run()
    assert all(one.reply(call)["tokens"] for one, call in zip(others, calls, strict=True))


def test_closing_what_is_on_disk_or_on_its_way_leaves_nothing():
    machine = small()
    peer, sessions = opened(machine, 20)
    calls = [say(peer, session, "and?") for session in sessions[:6]]
    machine.answer_asks()
    assert machine.copies
    for session in sessions:
        peer.ask("ctx.close", session=session)
    machine.run()
    assert all(peer.error(call) == "EINTR" for call in calls)
    assert machine.store.lent_bytes == 0
    assert machine.tiers.space.used_bytes == 0


@pytest.mark.parametrize("dies", [False, True])
def test_forks_of_what_is_on_disk_read_it_once(dies):
    machine = small()
    peer, sessions = opened(machine, 20)
    children = peer.ask("ctx.fork", session=sessions[0], count=3)["sessions"]
    before = machine.tiers.read_bytes
    calls = [say(peer, child, "and?") for child in children]
    if dies:
        machine.core_dies()
        machine.core_up()
    machine.run()
    assert len({tuple(peer.reply(call)["tokens"]) for call in calls}) == 1
    size = peer.reply(calls[0])["usage"]["cached_tokens"]
    assert size > 300
    read = machine.tiers.read_bytes - before
    assert 0 < read < 2 * 4 * size


steps = st.lists(
    st.tuples(st.sampled_from(["say", "say", "say", "close", "fork", "cancel", "dies", "disk"]), st.integers(0, 99)),
    min_size=5,
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(steps=steps, room=st.sampled_from([1 << 16, 3 << 16, 6 << 16]), disk=st.sampled_from([0, 3 * 4096, 1 << 30]))
def test_whatever_happens_memory_and_disk_hold_what_they_should(steps, room, disk):
    machine = small(snapshot_bytes=room, swap_bytes=disk)
    peer = machine.agent()
    sessions = [peer.ask("ctx.open")["session"] for _ in range(4)]
    calls = []
    for what, which in steps:
        session = sessions[which % len(sessions)]
        if what == "say":
            calls.append(say(peer, session, f"{which} " * (which + 1)))
        elif what == "close" and len(sessions) > 1:
            peer.ask("ctx.close", session=session)
            sessions.remove(session)
        elif what == "fork" and len(sessions) < 9:
            call = peer.call("ctx.fork", session=session)
            if peer.end(call)[0] == "reply":
                sessions += peer.reply(call)["sessions"]
        elif what == "cancel" and calls:
            peer.call("llm.cancel", call=calls[which % len(calls)])
        elif what == "dies" and machine.engine:
            machine.core_dies()
            machine.core_up()
        elif what == "disk":
            machine.disk_error = "" if machine.disk_error else "Input/output error"
        for _ in range(which % 13):
            machine.step()
    machine.run()
    machine.pass_time(20)
    machine.run()
    assert all(peer.end(call) is not None for call in calls)
    machine.ends(peer.pid)
    machine.run()
    assert machine.store.lent_bytes == 0
    assert machine.tiers.space.used_bytes == 0
