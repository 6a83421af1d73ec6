"""Sessions that reach the model's window: refused, or without their oldest turns or tokens; and it is always said."""

from __future__ import annotations

import pytest
from cut_engine import cut_engine  # noqa: F401 - a fixture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from machine import Machine, Peer
from test_sessions import SYSTEM, opened, say, stand, turn, user

pytestmark = pytest.mark.usefixtures("cut_engine")

WINDOW = 512  # of machine.py
KEYS = ("turns", "messages", "tokens", "dropped_turns", "dropped_tokens")


def standing(peer: Peer, session: int) -> list[int]:
    row = stand(peer, session)
    return [row[key] for key in KEYS]


def failure(peer: Peer, call: int) -> str:
    kind, body = peer.end(call)
    assert kind == "error"
    return body["text"]


def contents(machine: Machine, session: int) -> list[str]:
    """What the kernel holds of a session."""
    (found,) = [one for one in machine.kernel.requests.sessions.of(0) if one.number == session]
    return [message["content"] for message in found.messages]


def filled(machine: Machine, peer: Peer, session: int) -> list[dict]:
    """Say things until something is dropped; return the replies."""
    replies = [turn(machine, peer, session, SYSTEM, user("0 " * 10))]
    while "dropped_turns" not in replies[-1]:
        replies.append(turn(machine, peer, session, user(f"{len(replies)} " * 10)))
        assert len(replies) < 20
    return replies


def test_a_turn_that_is_refused_names_session_tokens_and_window_and_nothing_changes():
    machine = Machine()
    peer, session = opened(machine)
    turn(machine, peer, session, SYSTEM, user("one"))
    before = standing(peer, session)
    call = say(peer, session, user("x" * 500))
    machine.run()
    text = failure(peer, call)
    needed = before[2] + len("\nuser: \nassistant: ") + 500
    assert f"session {session}: the prompt is {needed} tokens" in text
    assert f"the window is {WINDOW}" in text
    assert standing(peer, session) == before


def test_an_answer_that_reaches_the_window_says_that_it_was_cut():
    machine = Machine()
    peer, session = opened(machine)
    reply = turn(machine, peer, session, user("x" * 480), max_tokens=100, grammar=None)
    assert reply["finish_reason"] == "length"
    assert stand(peer, session)["tokens"] == WINDOW
    call = say(peer, session, user("more"))
    machine.run()
    assert peer.error(call) == "EFBIG"


def test_the_oldest_turns_are_dropped_and_what_went_is_said_in_the_answer_and_in_the_list():
    machine = Machine()
    peer, session = opened(machine, window="drop")
    replies = filled(machine, peer, session)
    count, last = len(replies), replies[-1]
    assert all("dropped_turns" not in reply for reply in replies[:-1])
    assert 0 < last["dropped_turns"] < count - 1
    row = stand(peer, session)
    assert (row["window"], row["turns"]) == ("drop", count)
    assert (row["dropped_turns"], row["dropped_tokens"]) == (last["dropped_turns"], last["dropped_tokens"])
    held = contents(machine, session)
    assert held[0] == SYSTEM["content"]
    assert held[1] == f"{last['dropped_turns']} " * 10
    assert held[-1] == f"{count - 1} " * 10
    before = replies[-2]["usage"]
    whole = before["prompt_tokens"] + 12 + len(f"\nuser: {held[-1]}\nassistant: ")
    assert last["usage"]["prompt_tokens"] + last["dropped_tokens"] == whole


def test_after_turns_were_dropped_some_more_fit():
    machine = Machine()
    peer, session = opened(machine, window="drop")
    filled(machine, peer, session)
    for number in range(2):
        reply = turn(machine, peer, session, user(f"again {number}"))
        assert "dropped_turns" not in reply
        assert reply["usage"]["cached_tokens"] > 200  # it goes on with what the last one computed


def test_what_opens_the_conversation_is_not_computed_again():
    machine = Machine()
    peer, session = opened(machine, window="drop")
    usage = filled(machine, peer, session)[-1]["usage"]
    assert usage["cached_tokens"] == 1 + 3 * 64  # the system's message has more than three chunks


def test_what_was_computed_of_dropped_turns_takes_no_memory():
    machine = Machine()
    peer, session = opened(machine, window="drop")
    for number in range(20):
        reply = turn(machine, peer, session, user(f"{number} " * 20))
        if "dropped_turns" in reply and not reply["usage"]["cached_tokens"]:
            break
    row = stand(peer, session)
    assert number < 19
    assert row["where"] == "memory"
    assert row["kv_bytes"] < 5 * row["tokens"]  # the fake engine's contexts are four bytes a token


def test_results_of_tools_stay_with_the_question_that_they_are_for():
    machine = Machine()
    peer, session = opened(machine, window="drop")
    turn(machine, peer, session, SYSTEM, user("a" * 60))
    turn(machine, peer, session, user("b" * 60))
    reply = turn(machine, peer, session, {"role": "tool", "content": "c" * 90})
    assert reply["dropped_turns"] == 1
    held = contents(machine, session)
    assert held[:2] == [SYSTEM["content"], "b" * 60]
    assert held[-1] == "c" * 90


def test_a_turn_too_long_by_itself_is_refused_and_nothing_was_dropped():
    machine = Machine()
    peer, session = opened(machine, window="drop")
    turn(machine, peer, session, SYSTEM, user("a" * 30))
    turn(machine, peer, session, user("b" * 30))
    before, held = standing(peer, session), contents(machine, session)
    call = say(peer, session, user("x" * 300))
    machine.run()
    text = failure(peer, call)
    assert f"session {session}: what must stay of the prompt is" in text
    assert f"the window is {WINDOW}" in text
    assert (standing(peer, session), contents(machine, session)) == (before, held)


def test_a_turn_that_fits_without_all_its_room_has_an_answer_that_is_cut():
    machine = Machine()
    peer, session = opened(machine, window="drop")
    turn(machine, peer, session, user("a" * 30))
    reply = turn(machine, peer, session, user("x" * 480), max_tokens=1000, grammar=None)
    assert (reply["dropped_turns"], reply["finish_reason"]) == (1, "length")
    assert stand(peer, session)["tokens"] == WINDOW


@pytest.mark.parametrize("roles", ["user assistant user", "assistant user assistant user"])
def test_one_call_with_a_long_history_keeps_all_of_it_or_fails(roles):
    machine = Machine()
    peer, session = opened(machine, window="drop")
    history = [{"role": role, "content": "x" * 90} for role in roles.split()]
    history[0]["content"] *= 4
    call = say(peer, session, *history)
    machine.run()
    assert peer.error(call) == "EFBIG"


def test_a_dropping_turn_that_is_cancelled_leaves_the_session_as_it_was():
    machines = [Machine(), Machine()]
    found = []
    for cancels, machine in enumerate(machines):
        peer, session = opened(machine, window="drop")
        for number in range(4):
            turn(machine, peer, session, *([SYSTEM] if not number else []), user(f"{number} " * 14))
        before, held = standing(peer, session), contents(machine, session)
        for attempt in range(3 * cancels):
            call = say(peer, session, user(f"no {attempt} " * 10))
            for _ in range(8):
                machine.step()
            assert machine.plans[-1].chunks or machine.plans[-1].decodes
            peer.ask("llm.cancel", call=call)
            machine.run()
            assert peer.error(call) == "EINTR"
            assert (standing(peer, session), contents(machine, session)) == (before, held)
        replies = [turn(machine, peer, session, user(text)) for text in ("hm", "yes " * 14)]
        found.append([(reply["tokens"], reply.get("dropped_turns")) for reply in replies])
    assert found[0] == found[1]
    assert found[0][1][1]


def test_forks_have_the_window_of_their_parent_and_a_parent_what_its_fork_dropped():
    machine = Machine()
    peer, session = opened(machine, window="drop")
    filled(machine, peer, session)
    dropped = stand(peer, session)["dropped_turns"]
    (child,) = peer.ask("ctx.fork", session=session)["sessions"]
    reply = turn(machine, peer, child, user("y" * 120))
    assert stand(peer, child)["window"] == "drop"
    assert stand(peer, child)["dropped_turns"] == dropped + reply["dropped_turns"] > dropped
    assert stand(peer, session)["dropped_turns"] == dropped
    peer.ask("ctx.commit", session=child)
    assert stand(peer, session)["dropped_turns"] == dropped + reply["dropped_turns"]


def test_the_bytes_of_dropped_messages_are_given_back():
    machine = Machine()
    peer, session = opened(machine, window="drop")
    for number in range(60):
        turn(machine, peer, session, user(f"{number} " * 10))
    (found,) = machine.kernel.requests.sessions.of(0)
    assert found.size_bytes < 2 * WINDOW
    assert len(found.messages) + 2 * found.dropped_turns == 2 * 60 - 1


def generate(machine: Machine, peer: Peer, session: int, **body) -> dict:
    call = peer.call("llm.generate", session=session, **({"max_tokens": 12} | body))
    machine.run()
    return peer.reply(call)


def test_the_oldest_tokens_after_those_that_are_kept_are_shifted_out():
    machine = Machine()
    peer, session = opened(machine, window="shift", keep_tokens=100)
    first = [*range(150)]
    said = first + list(generate(machine, peer, session, tokens=first)["tokens"])
    said += [7] * 200 + list(generate(machine, peer, session, tokens=[7] * 200)["tokens"])
    reply = generate(machine, peer, session, tokens=[8] * 150)
    assert reply["dropped_turns"] == 0  # nobody knows of turns
    assert reply["dropped_tokens"] == (len(said) - 100 + 1) // 2
    assert reply["usage"]["prompt_tokens"] == len(said) - reply["dropped_tokens"] + 150
    assert reply["usage"]["cached_tokens"] == 1 + 64
    (found,) = machine.kernel.requests.sessions.of(0)
    wanted = said[:100] + said[100 + reply["dropped_tokens"] :] + [8] * 150 + list(reply["tokens"])
    assert found.tokens == wanted
    assert stand(peer, session)["dropped_tokens"] == reply["dropped_tokens"]


def test_a_text_that_goes_on_shifts_as_tokens_do_and_the_opening_one_stays():
    machine = Machine()
    peer, session = opened(machine, window="shift")
    for number in range(12):
        reply = generate(machine, peer, session, prompt=f"{number} " * 20)
        assert reply["usage"]["prompt_tokens"] + 12 <= WINDOW
    row = stand(peer, session)
    assert row["dropped_tokens"] > 0
    (found,) = machine.kernel.requests.sessions.of(0)
    assert found.tokens[0] == 256  # the fake engine's opening token
    assert len(found.tokens) + row["dropped_tokens"] == 1 + sum(len(f"{n} " * 20) + 12 for n in range(12))


def test_tokens_that_do_not_fit_beside_what_is_kept_are_refused_whether_or_not_the_model_is_loaded():
    machine = Machine()
    peer, session = opened(machine, window="shift", keep_tokens=100)
    generate(machine, peer, session, tokens=[*range(150)])
    before = standing(peer, session)
    for body in ({"tokens": [9] * 412}, {"prompt": "x" * 412}):
        call = peer.call("llm.generate", session=session, **body)
        machine.run()
        assert f"session {session}: what must stay of the prompt is 512 tokens" in failure(peer, call)
    assert standing(peer, session) == before
    unloaded = Machine(is_core_up=False)
    peer, session = opened(unloaded, window="shift")
    call = peer.call("llm.generate", session=session, tokens=[9] * 600)
    unloaded.core_up()
    unloaded.run()
    assert peer.error(call) == "EFBIG"


@pytest.mark.parametrize(
    ("window", "body", "kind"),
    [("drop", {"prompt": "a"}, "messages"), ("shift", {"messages": [user("a")]}, "prompt or tokens")],
)
def test_each_way_is_for_its_kind_of_turns(window, body, kind):
    machine = Machine()
    peer, session = opened(machine, window=window)
    call = peer.call("llm.generate", session=session, **body)
    assert peer.error(call) == "EINVAL"
    assert f"session {session} has the window {window!r}, which is for turns of {kind}" in failure(peer, call)


@pytest.mark.parametrize(
    "body", [{"window": "forget"}, {"keep_tokens": 3}, {"window": "drop", "keep_tokens": 3}]
)
def test_what_a_session_is_not_opened_with(body):
    machine = Machine()
    peer = machine.agent()
    call = peer.call("ctx.open", **body)
    assert peer.error(call) == "EINVAL"
    assert repr(next(iter(body.values()))) in failure(peer, call)
    assert peer.ask("ctx.list")["sessions"] == []


def test_a_core_that_dies_while_turns_are_counted_changes_nothing_of_what_goes():
    found = []
    for dies in (False, True):
        machine = Machine()
        peer, session = opened(machine, window="drop")
        for number in range(4):
            turn(machine, peer, session, *([SYSTEM] if not number else []), user(f"{number} " * 14))
        call = say(peer, session, user("last " * 12))
        machine.answer_asks(most=2)
        if dies:
            machine.core_dies()
            machine.core_up()
        machine.run()
        found.append((peer.reply(call)["tokens"], peer.reply(call)["dropped_turns"]))
    assert found[0] == found[1]


lives = st.lists(
    st.tuples(
        st.sampled_from(["say", "say", "say", "say", "tool", "cancel", "drop memory"]),
        st.integers(1, 260),  # characters said
        st.integers(1, 400),  # tokens of the answer, or steps until it is cancelled
    ),
    min_size=3,
    max_size=16,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lives=lives, system=st.integers(0, 120), slots=st.integers(1, 2))
def test_whatever_is_said_every_turn_ends_and_what_is_kept_is_a_suffix_between_system_and_new(lives, system, slots):
    """The session is told all; a twin, on a machine where nothing goes wrong, only what ended well."""
    machine, alone = Machine(slots=slots, quantum_tokens=2), Machine()
    (peer, session), (other, twin) = opened(machine, window="drop"), opened(alone, window="drop")
    opening = [{"role": "system", "content": "s" * system}] if system else []
    said: list[str] = []  # in turns that ended well, and the answers to it
    dropped = [0, 0]
    for number, (what, size, most) in enumerate(lives):
        role = "tool" if what == "tool" and said else "user"
        new = [*([] if said else opening), {"role": role, "content": f"{number}:" + "x" * size}]
        if what == "drop memory" and len(machine.tiers):
            machine.tiers.drop_oldest()
        before = standing(peer, session)
        call = say(peer, session, *new, max_tokens=min(most, 150))
        if what == "cancel":
            for _ in range(most % 12):
                machine.step()
            peer.ask("llm.cancel", call=call)
        machine.run()
        kind, body = peer.end(call)
        if kind == "error":
            assert body["name"] in ("EINTR", "EFBIG")
            assert standing(peer, session) == before
            continue
        again = turn(alone, other, twin, *new, max_tokens=min(most, 150))
        assert body["tokens"] == again["tokens"]
        assert (body.get("dropped_turns"), body.get("dropped_tokens")) == (
            again.get("dropped_turns"), again.get("dropped_tokens"),
        )  # fmt: skip
        assert body["usage"]["prompt_tokens"] < WINDOW
        assert body["usage"]["prompt_tokens"] + body["usage"]["generated_tokens"] <= WINDOW
        said.append(new[-1]["content"])
        held = contents(machine, session)
        assert held[: len(opening)] == [message["content"] for message in opening]
        rest = held[len(opening) :]
        assert rest == said[len(said) - len(rest) :]
        assert rest[-1] == new[-1]["content"]
        said.append(body["text"])
        dropped[0] += body.get("dropped_turns", 0)
        dropped[1] += body.get("dropped_tokens", 0)
        assert standing(peer, session)[3:] == dropped
