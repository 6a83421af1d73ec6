"""Sessions: a turn computes what is new, and a turn that fails changes nothing."""

from __future__ import annotations

import pytest
from cut_engine import cut_engine  # noqa: F401 - a fixture
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from machine import MODELS, Machine, Peer, at_most

from kernel import ctxcalls
from kernel.abi.errors import Errno
from kernel.context import sessions
from kernel.engine.base import CHUNK_TOKENS

pytestmark = pytest.mark.usefixtures("cut_engine")

SYSTEM = {"role": "system", "content": "answer " * 30}  # more than three chunks
TURN = {"max_tokens": 12, "grammar": "printable"}  # an answer's text is whole characters then
TOKENS = {"max_tokens": 12, "ignore_end": True}  # nothing is asked of the text side


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def opened(machine: Machine, peer: Peer | None = None, **body) -> tuple[Peer, int]:
    peer = peer or machine.agent()
    return peer, peer.ask("ctx.open", **body)["session"]


def say(peer: Peer, session: int, *messages: dict, **options) -> int:
    return peer.call("llm.generate", session=session, messages=list(messages), **(TURN | options))


def turn(machine: Machine, peer: Peer, session: int, *messages: dict, **options) -> dict:
    call = say(peer, session, *messages, **options)
    machine.run()
    return peer.reply(call)


def stand(peer: Peer, session: int) -> dict:
    (found,) = [one for one in peer.ask("ctx.list")["sessions"] if one["session"] == session]
    return found


def feed(machine: Machine, since: int) -> int:
    """Tokens that the core was fed in the plans from `since` on."""
    return sum(len(row.tokens) for plan in machine.plans[since:] for row in (*plan.chunks, *plan.decodes))


def test_a_turn_computes_its_new_tokens_and_the_last_of_the_answer_whatever_ran_in_between():
    machine = Machine()
    peer, session = opened(machine)
    first = turn(machine, peer, session, SYSTEM, user("one"))
    for _ in range(3):  # on both slots
        machine.agent().call("llm.generate", tokens=[5] * 300, max_tokens=20, ignore_end=True)
    machine.run()
    before = len(machine.plans)
    second = turn(machine, peer, session, user("two"))
    usage = second["usage"]
    held = first["usage"]["prompt_tokens"] + 12
    assert usage["cached_tokens"] == held - 1  # an answer's last token is never fed
    assert feed(machine, before) == usage["prompt_tokens"] - usage["cached_tokens"] + 12 - 1
    assert usage["prompt_tokens"] - held < CHUNK_TOKENS


def test_texts_and_tokens_make_a_session_too():
    machine = Machine()
    peer, session = opened(machine)
    first = peer.call("llm.generate", session=session, prompt="Once " * 20, **TURN)
    machine.run()
    said = list(peer.reply(first)["tokens"])
    second = peer.call("llm.generate", session=session, tokens=[7, 8, 9], **TURN)
    machine.run()
    third = peer.call("llm.generate", session=session, prompt=" and", **TURN)
    machine.run()
    usage = peer.reply(third)["usage"]
    assert usage["prompt_tokens"] == 1 + 100 + len(said) + 3 + 12 + 4  # one opening token
    assert usage["cached_tokens"] == usage["prompt_tokens"] - 4 - 1
    assert peer.reply(second)["usage"]["cached_tokens"] == 1 + 100 + 12 - 1


def test_the_last_answer_is_remembered_unless_the_caller_repeats_it():
    machine = Machine()
    tokens = []
    for repeats in (False, True):
        peer, session = opened(machine)
        first = turn(machine, peer, session, user("one"))
        answer = [{"role": "assistant", "content": first["text"]}] if repeats else []
        tokens.append(turn(machine, peer, session, *answer, user("two"))["tokens"])
        assert stand(peer, session)["messages"] == 3
    assert tokens[0] == tokens[1]


def test_an_answer_that_its_reader_changed_is_computed_anew_from_there():
    machine = Machine()
    peer, session = opened(machine)
    turn(machine, peer, session, SYSTEM, user("one"))
    second = turn(machine, peer, session, {"role": "assistant", "content": "no"}, user("two"))
    assert 192 <= second["usage"]["cached_tokens"] < second["usage"]["prompt_tokens"] - 12


def test_a_session_goes_on_with_the_same_tokens_when_its_memory_was_taken():
    replies = []
    for takes in (False, True):
        machine = Machine()
        peer, session = opened(machine)
        turn(machine, peer, session, SYSTEM, user("one"))
        while takes and len(machine.tiers):
            machine.tiers.drop_oldest()
        assert stand(peer, session)["where"] == ("none" if takes else "memory")
        replies.append(turn(machine, peer, session, user("two")))
    assert replies[0]["tokens"] == replies[1]["tokens"]
    assert replies[1]["usage"]["cached_tokens"] == 0


def test_a_turn_that_is_cancelled_leaves_the_session_as_it_was():
    machine = Machine()
    peer, session = opened(machine)
    turn(machine, peer, session, SYSTEM, user("one"))
    before = stand(peer, session)
    call = say(peer, session, user("no " * 30))
    for _ in range(4):
        machine.step()
    peer.ask("llm.cancel", call=call)
    machine.run()
    assert peer.error(call) == "EINTR"
    after = stand(peer, session)
    assert [after[key] for key in ("turns", "messages", "tokens")] == [
        before[key] for key in ("turns", "messages", "tokens")
    ]
    other_machine = Machine()
    other, twin = opened(other_machine)
    turn(other_machine, other, twin, SYSTEM, user("one"))
    wanted = turn(other_machine, other, twin, user("two"))
    found = turn(machine, peer, session, user("two"))
    assert found["tokens"] == wanted["tokens"]
    assert found["usage"]["cached_tokens"] == wanted["usage"]["cached_tokens"]


def test_cancelling_again_and_again_keeps_a_bounded_number_of_contexts():
    machine = Machine()
    peer, session = opened(machine)
    for attempt in range(6):
        call = say(peer, session, SYSTEM, user(f"{attempt}" * 80))
        for _ in range(9):
            machine.step()
        peer.ask("llm.cancel", call=call)
        machine.run()
    (kept,) = machine.scheduler.kept._by_owner.values()
    assert len(kept) <= 2
    assert turn(machine, peer, session, SYSTEM, user("at last"))["usage"]["cached_tokens"] >= 128


def test_a_turn_that_does_not_fit_the_window_is_refused_and_a_shorter_one_goes_on():
    machine = Machine()
    peer, session = opened(machine)
    first = turn(machine, peer, session, SYSTEM, user("one"))
    call = say(peer, session, user("x" * 500))
    machine.run()
    assert peer.error(call) == "EFBIG"
    second = turn(machine, peer, session, user("two"))
    assert second["usage"]["cached_tokens"] == first["usage"]["prompt_tokens"] + 12 - 1


def test_a_closed_session_gives_its_memory_back_and_ends_its_turn():
    machine = Machine()
    peer, session = opened(machine)
    turn(machine, peer, session, SYSTEM, user("one"))
    assert machine.store.lent_bytes
    call = say(peer, session, user("two"))
    machine.step()
    assert peer.ask("ctx.close", session=session) == {}
    machine.run()
    assert peer.error(call) == "EINTR"
    assert machine.store.lent_bytes == 0
    assert peer.ask("ctx.list")["sessions"] == []


def test_sessions_end_with_their_task():
    machine = Machine()
    peer, session = opened(machine)
    turn(machine, peer, session, SYSTEM, user("one"))
    say(peer, session, user("two"))
    machine.ends(peer.pid)
    machine.run()
    assert machine.store.lent_bytes == 0
    assert machine.operator().ask("ctx.list")["sessions"] == []


def test_nobody_speaks_in_anothers_session():
    machine = Machine()
    peer, session = opened(machine)
    turn(machine, peer, session, user("one"))
    other = machine.agent()
    assert other.error(say(other, session, user("what was said?"))) == "ENOENT"
    assert other.error(other.call("ctx.close", session=session)) == "ENOENT"
    assert stand(peer, session)["turns"] == 1


def test_sessions_of_one_task_do_not_use_each_others_contexts():
    machine = Machine()
    peer, one = opened(machine)
    _, two = opened(machine, peer)
    turn(machine, peer, one, SYSTEM, user("one"))
    assert turn(machine, peer, two, SYSTEM, user("one"))["usage"]["cached_tokens"] == 0


def test_a_session_survives_a_core_and_an_answer_of_nothing():
    machine = Machine()
    peer, session = opened(machine)
    first = turn(machine, peer, session, SYSTEM, user("one"), max_tokens=1)
    machine.core_dies()
    machine.core_up()
    second = turn(machine, peer, session, user("two"))
    assert 192 <= second["usage"]["cached_tokens"] <= first["usage"]["prompt_tokens"]  # whole chunks of a prompt


def test_each_model_has_its_own_sessions():
    machine = Machine.of_three()
    peer, session = opened(machine, model="other")
    turn(machine, peer, session, SYSTEM, user("one"))
    assert stand(peer, session)["model"] == "other"
    assert peer.error(say(peer, session, user("two"), model=MODELS[0].name)) == "EINVAL"
    assert turn(machine, peer, session, user("two"), model="other")["usage"]["cached_tokens"] > 192


@pytest.mark.parametrize(
    ("wrong", "number"),
    [
        ({"tokens": [1, 2]}, Errno.EINVAL),  # made of messages
        ({"messages": [user("two")], "keep": True}, Errno.EINVAL),
        ({"messages": [{"role": "user"}]}, Errno.EINVAL),
    ],
)
def test_what_does_not_go_with_a_session_is_refused_and_changes_nothing(wrong, number):
    machine = Machine()
    peer, session = opened(machine)
    turn(machine, peer, session, user("one"))
    before = stand(peer, session)
    assert peer.error(peer.call("llm.generate", session=session, **wrong)) == number.name
    assert stand(peer, session) == before


def test_thousands_of_turns_over_two_slots_recompute_nothing_while_memory_lasts():
    machine = Machine(snapshot_bytes=1 << 26)
    peer = machine.agent()
    talks = [peer.ask("ctx.open")["session"] for _ in range(60)]  # a first turn longer than a chunk
    for number in range(4):
        calls = [say(peer, session, user(f"{session} {number} " * 9)) for session in talks]
        machine.run()
        assert all(peer.reply(call)["timings"]["recomputed_tokens"] == 0 for call in calls)
        assert all(peer.reply(call)["usage"]["cached_tokens"] > 0 for call in calls if number)


def test_messages_of_sessions_are_bounded_and_a_closed_one_makes_room():
    machine = Machine()
    peer, session = opened(machine)
    turn(machine, peer, session, user("one"))
    with at_most(sessions, "MAX_SESSION_BYTES", 400):
        call = say(peer, session, user("x" * 300))
        assert peer.error(call) == "ENOMEM"
        _, other = opened(machine, peer)
        peer.ask("ctx.close", session=session)
        turn(machine, peer, other, user("x" * 200))


def test_an_operator_sees_where_every_context_is():
    machine = Machine(slots=1)
    peer, session = opened(machine)
    operator = machine.operator()
    turn(machine, peer, session, SYSTEM, user("one"))
    (row,) = operator.ask("ctx.list")["sessions"]
    assert (row["pid"], row["where"], row["turns"]) == (peer.pid, "memory", 1)
    assert row["kv_bytes"] > 4 * 192
    machine.pass_time(5)
    assert operator.ask("ctx.list", pid=peer.pid)["sessions"][0]["idle_s"] == pytest.approx(5, abs=0.1)
    say(peer, session, user("two"))
    machine.step()
    assert operator.ask("ctx.list")["sessions"][0]["where"] == "slot"


def test_sessions_are_listed_some_at_a_time():
    machine = Machine()
    peer, first = opened(machine)
    numbers = [first, *peer.ask("ctx.fork", session=first, count=4)["sessions"]]
    found, after = [], 0
    with at_most(ctxcalls, "MAX_LISTED_SESSIONS", 2):
        while after is not None:
            answer = peer.ask("ctx.list", after=after)
            assert len(answer["sessions"]) <= 2
            found += [row["session"] for row in answer["sessions"]]
            after = found[-1] if answer["more"] else None
    assert found == numbers


# -- forks ----------------------------------------------------------------------------------------


def test_forks_go_on_from_what_was_computed_and_say_what_a_session_alone_would():
    machine = Machine(slots=4)
    peer, session = opened(machine)
    first = turn(machine, peer, session, SYSTEM, user("one"))
    held = first["usage"]["prompt_tokens"] + 12 - 1
    lent = machine.store.lent_bytes
    children = peer.ask("ctx.fork", session=session, count=8)["sessions"]
    assert machine.store.lent_bytes == lent  # its bytes are there once
    calls = [say(peer, child, user(f"way {number}")) for number, child in enumerate(children)]
    calls.append(say(peer, session, user("way 8")))
    machine.run()
    for number, call in enumerate(calls):
        reply = peer.reply(call)
        assert reply["usage"]["cached_tokens"] == held
        alone = Machine()
        other, twin = opened(alone)
        turn(alone, other, twin, SYSTEM, user("one"))
        assert reply["tokens"] == turn(alone, other, twin, user(f"way {number}"))["tokens"]


def test_a_fork_while_the_context_is_being_saved_waits_for_that():
    machine = Machine(slots=4)
    peer, session = opened(machine)
    call = say(peer, session, SYSTEM, user("one"))
    while peer.end(call) is None:
        machine.step()
    assert machine.scheduler.kept._coming
    children = peer.ask("ctx.fork", session=session, count=3)["sessions"]
    calls = [say(peer, child, user("two")) for child in children]
    peer.ask("ctx.close", session=session)
    machine.run()
    assert {peer.reply(call)["usage"]["cached_tokens"] for call in calls} != {0}
    assert len({tuple(peer.reply(call)["tokens"]) for call in calls}) == 1
    for child in children:
        peer.ask("ctx.close", session=child)
    machine.run()
    assert machine.store.lent_bytes == 0


def test_a_fork_that_its_parent_takes_over_is_what_the_parent_goes_on_from():
    machine = Machine()
    peer, session = opened(machine)
    turn(machine, peer, session, SYSTEM, user("one"))
    first, second = peer.ask("ctx.fork", session=session, count=2)["sessions"]
    turn(machine, peer, first, user("two"))
    wanted = turn(machine, peer, second, user("other"))
    assert peer.ask("ctx.commit", session=second) == {"session": session}
    assert stand(peer, session)["turns"] == 2
    usage = turn(machine, peer, session, user("three"))["usage"]
    assert usage["cached_tokens"] == wanted["usage"]["prompt_tokens"] + 12 - 1
    assert peer.error(say(peer, second, user("four"))) == "ENOENT"
    assert peer.error(peer.call("ctx.commit", session=first)) == "EINVAL"  # its parent has gone on


def test_closing_parent_and_forks_in_any_order_leaves_nothing():
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
        machine = Machine()
        peer, session = opened(machine)
        turn(machine, peer, session, SYSTEM, user("one"))
        several = [session, *peer.ask("ctx.fork", session=session, count=2)["sessions"]]
        turn(machine, peer, several[1], user("two"))
        for index in order:
            assert machine.store.lent_bytes > 0
            peer.ask("ctx.close", session=several[index])
        assert machine.store.lent_bytes == 0


def test_memory_taken_from_forks_is_taken_from_all_of_them_and_changes_no_token():
    tokens = []
    for takes in (False, True):
        machine = Machine()
        peer, session = opened(machine)
        turn(machine, peer, session, SYSTEM, user("one"))
        children = peer.ask("ctx.fork", session=session, count=2)["sessions"]
        if takes:
            machine.tiers.drop_oldest()
            assert machine.store.lent_bytes == 0
        tokens.append([turn(machine, peer, child, user("two"))["tokens"] for child in children])
    assert tokens[0] == tokens[1]


steps = st.lists(
    st.tuples(
        st.sampled_from(["say", "say", "say", "fork", "commit", "close", "cancel", "drop memory", "core dies"]),
        st.integers(0, 7),  # which session
        st.integers(1, 60),  # characters said, or steps until it is cancelled
    ),
    min_size=2,
    max_size=14,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps, slots=st.integers(1, 3), room=st.sampled_from([0, 1 << 14, 1 << 24]))
@example(
    steps=[("say", 0, 1), ("say", 0, 13), ("cancel", 0, 2), ("cancel", 0, 1), ("say", 0, 1)], slots=1, room=0
)  # turns cut off while they computed again what had been said
def test_whatever_is_done_with_sessions_an_answer_follows_from_what_was_said_before_it(steps, slots, room):
    """Each session is told twice: amid everything, and alone on a machine where nothing ever goes wrong."""
    machine = Machine(slots=slots, snapshot_bytes=room, quantum_tokens=2, window_tokens=2048)
    peer, first = opened(machine)
    said: dict[int, list[str]] = {first: []}  # by session: what was said to it in turns that ended well
    answers: dict[tuple[str, ...], list[int]] = {}
    for number, (what, which, size) in enumerate(steps):
        session = sorted(said)[which % len(said)]
        text = chr(97 + number) * size
        if what == "say":
            answers[*said[session], text] = turn(machine, peer, session, user(text))["tokens"]
            said[session] = [*said[session], text]
        elif what == "fork" and len(said) < 8:
            (child,) = peer.ask("ctx.fork", session=session)["sessions"]
            said[child] = said[session]
        elif what == "commit" and len(said) > 1:
            call = peer.call("ctx.commit", session=session)
            if peer.end(call)[0] == "reply":
                said[peer.reply(call)["session"]] = said.pop(session)
        elif what == "close" and len(said) > 1:
            peer.ask("ctx.close", session=session)
            del said[session]
        elif what == "cancel":
            call = say(peer, session, user(text))
            for _ in range(size % 9):
                machine.step()
            if peer.end(call) is None:
                peer.ask("llm.cancel", call=call)
            else:
                answers[*said[session], text] = peer.reply(call)["tokens"]
                said[session] = [*said[session], text]
        elif what == "drop memory" and len(machine.tiers):
            machine.tiers.drop_oldest()
        elif what == "core dies":
            machine.core_dies()
            machine.core_up()
        if number % 3:
            machine.run()
    machine.run()
    for texts, tokens in answers.items():
        alone = Machine(window_tokens=2048)
        other, twin = opened(alone)
        for text in texts:
            found = turn(alone, other, twin, user(text))["tokens"]
        assert found == tokens
    machine.ends(peer.pid)
    assert machine.store.lent_bytes == 0


def test_a_turn_of_tokens_that_comes_while_no_core_is_up_goes_on_as_with_one():
    replies = []
    for dies in (False, True):
        machine = Machine()
        peer, session = opened(machine)
        begin(machine, peer, session)
        if dies:
            machine.core_dies()
        call = peer.call("llm.generate", session=session, tokens=[9] * 80, **TOKENS)
        if dies:
            machine.core_up()
        machine.run()
        replies.append(peer.reply(call))
    assert replies[0]["tokens"] == replies[1]["tokens"]
    assert replies[1]["usage"]["cached_tokens"] == 100 + 12 - 1


def test_a_turn_that_comes_while_its_task_is_paused_for_memory_goes_on_as_without():
    tokens = []
    for room in (1 << 24, 3 << 16):
        machine = Machine(slots=1, quantum_tokens=1, snapshot_bytes=room, policy="rr")
        old, (peer, session) = machine.agent(), opened(machine)
        begin(machine, peer, session)
        for one in (old, old, old, old, peer):
            one.call("llm.generate", tokens=[5] * 400, max_tokens=60, ignore_end=True)
        while room < 1 << 24 and not machine.scheduler.paused:
            assert machine.step()
        assert (peer.pid in machine.scheduler._residency._paused) == (room < 1 << 24)
        call = peer.call("llm.generate", session=session, tokens=[9] * 80, **TOKENS)
        machine.run()
        tokens.append(peer.reply(call)["tokens"])
    assert tokens[0] == tokens[1]


def begin(machine: Machine, peer: Peer, session: int) -> None:
    """Have a first turn of 100 tokens."""
    call = peer.call("llm.generate", session=session, tokens=[7] * 100, **TOKENS)
    machine.run()
    peer.reply(call)
