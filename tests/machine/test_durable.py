"""Durable sessions: what has been answered is on the disk, and the next kernel goes on with the same tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from cut_engine import cut_engine  # noqa: F401 - a fixture
from machine import KernelKilled, Machine, Peer, at_most

from kernel import ctxcalls
from kernel.config import ModelConfig
from kernel.context import durable, sessions
from kernel.context.record import SEAL_BYTES, Key, decode, encode, seal, unseal

pytestmark = pytest.mark.usefixtures("cut_engine")

SYSTEM = {"role": "system", "content": "answer " * 30}  # more than three chunks
TURN = {"max_tokens": 12, "grammar": "printable"}  # an answer's text is whole characters then
SAID = ("one", "two " * 40, "three")
KEY = Key("/", "planner", "plan")
MODEL = ModelConfig("fake", "fake", fingerprint="a1")
Records = dict[str, bytes]


def boot(records: Records, **config) -> Machine:
    """A kernel over what another left on the disk."""
    machine = Machine(**({"models": (MODEL,)} | config))
    machine.records = records
    return machine


def open_call(peer: Peer, **body) -> int:
    return peer.call("ctx.open", **({"name": "plan", "durable": True} | body))


def opened(machine: Machine, peer: Peer | None = None) -> tuple[Peer, dict]:
    peer = peer or machine.agent("planner")
    call = open_call(peer)
    machine.run()
    return peer, peer.reply(call)


def say(peer: Peer, session: int, text: str, is_first: bool = False) -> int:
    messages = [SYSTEM] * is_first + [{"role": "user", "content": text}]
    return peer.call("llm.generate", session=session, messages=messages, **TURN)


def turn(machine: Machine, peer: Peer, session: int, text: str, is_first: bool = False) -> dict:
    call = say(peer, session, text, is_first)
    machine.run()
    return peer.reply(call)


def go_on(machine: Machine, seen: Callable[[list[int]], None] = lambda tokens: None) -> int:
    """Open the session and say what is still to be said; `seen` is told of each answer. Return the turns it had."""
    peer, found = opened(machine)
    for number, text in enumerate(SAID[found["turns"] :], found["turns"]):
        seen(turn(machine, peer, found["session"], text, is_first=not number)["tokens"])
    return found["turns"]


def undisturbed() -> list[list[int]]:
    tokens: list[list[int]] = []
    go_on(boot({}), tokens.append)
    return tokens


def refused(machine: Machine, number: str) -> str:
    """Open the session in vain; return why."""
    peer = machine.agent("planner")
    call = open_call(peer)
    machine.run()
    assert peer.error(call) == number
    return peer.end(call)[1]["text"]


# -- kernels that die -----------------------------------------------------------------------------


def test_the_next_kernel_goes_on_with_the_tokens_of_one_that_was_never_killed():
    wanted = undisturbed()
    for count in range(1, 3):
        records: Records = {}
        machine = boot(records)
        peer, found = opened(machine)
        for number in range(count):
            turn(machine, peer, found["session"], SAID[number], is_first=not number)
        (row,) = peer.ask("ctx.list")["sessions"]
        tokens: list[list[int]] = []
        peer, found = opened(again := boot(records))
        assert found == {key: row[key] for key in found}
        peer.ask("ctx.close", session=found["session"])
        assert go_on(again, tokens.append) == count
        assert tokens == wanted[count:]


def test_wherever_a_kernel_is_killed_the_session_is_before_or_after_a_turn_and_has_every_answered_one():
    wanted = undisturbed()
    effects, deaths, kept = 0, 0, set()
    while deaths == effects:
        machine, answered = boot({}), []
        machine.dies_after = effects
        try:
            go_on(machine, answered.append)
        except KernelKilled:
            deaths += 1
        effects += 1
        left = list(machine.wanted)
        for done in range(len(left) + 1):  # the disk may have done some of what it was asked for
            records = dict(machine.records)
            rest: list[list[int]] = []
            other = boot(records)
            for effect in left[:done]:
                other._do_record(effect)
            turns = go_on(other, rest.append)
            answers = [end for call in _generates(machine) if (end := machine.answers[call[0]].ends.get(call[1]))]
            assert len(answers) <= turns <= len(answers) + 1
            assert rest == wanted[turns:]
            kept.add((len(answers), turns))
    assert deaths > 40
    assert {(0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 3), (3, 3)} == kept


def _generates(machine: Machine) -> list[tuple[int, int]]:
    """Every answered generation, as (connection, call)."""
    return [
        (peer, number)
        for peer, answers in machine.answers.items()
        for number, ((kind, body), *_) in answers.ends.items()
        if kind == "reply" and "finish_reason" in body
    ]


def test_an_answer_waits_for_the_disk_and_chunks_do_not():
    machine = boot({})
    peer, found = opened(machine)
    call = peer.call(
        "llm.generate", session=found["session"], messages=[{"role": "user", "content": "one"}], stream=True, **TURN
    )
    while not machine.wanted:
        assert peer.end(call) is None
        machine.answer_asks()
        machine.step()
    assert sum(len(chunk["tokens"]) for chunk in peer.chunks(call)) == 12
    machine.pass_time(5)
    assert peer.end(call) is None
    assert peer.error(say(peer, found["session"], "two")) == "EBUSY"
    machine.write()
    assert peer.reply(call)["durable"] is True


def test_a_deadline_that_passes_while_the_disk_works_takes_no_answer_back():
    machine = boot({})
    peer, found = opened(machine)
    messages = [{"role": "user", "content": "one"}]
    call = peer.call("llm.generate", session=found["session"], messages=messages, deadline_ms=4000, **TURN)
    while not machine.wanted:
        machine.step()
    assert peer.ask("llm.cancel", call=call) == {"cancelled": False}
    machine.pass_time(9)
    machine.write()
    assert peer.reply(call)["durable"] is True


@pytest.mark.parametrize("dies", ["task", "connection", "kernel"])
def test_a_turn_whose_caller_is_gone_before_it_is_written_is_written(dies):
    records: Records = {}
    machine = boot(records)
    peer, found = opened(machine)
    say(peer, found["session"], "one")
    while not machine.wanted:
        machine.step()
    if dies == "task":
        machine.ends(peer.pid)
    elif dies == "connection":
        peer.closes()
    else:
        machine.operator().call("sys.shutdown")
    machine.run()
    assert opened(boot(records))[1]["turns"] == 1


def test_what_was_cancelled_or_failed_writes_nothing():
    records: Records = {}
    machine = boot(records)
    peer, found = opened(machine)
    call = say(peer, found["session"], "one")
    machine.step()
    peer.ask("llm.cancel", call=call)
    machine.run()
    assert records == {}
    assert opened(boot(records))[1]["turns"] == 0


def test_texts_and_tokens_are_durable_too():
    wanted = []
    for kills in (False, True):
        machine = boot(records := {})
        peer, found = opened(machine)
        call = peer.call("llm.generate", session=found["session"], prompt="Once " * 40, **TURN)
        machine.run()
        assert peer.reply(call)["durable"]
        if kills:
            machine = boot(records)
            peer, found = opened(machine)
        call = peer.call("llm.generate", session=found["session"], tokens=[5, 6, 7], **TURN)
        machine.run()
        wanted.append(peer.reply(call)["tokens"])
    assert wanted[0] == wanted[1]


@pytest.mark.parametrize("window", ["drop", "shift"])
def test_a_session_that_has_outgrown_its_window_goes_on_without_what_it_had_dropped(window):
    outcomes = []
    for kills in (False, True):
        machine = boot(records := {})
        peer = machine.agent("planner")
        session, replies = 0, []
        for number in range(7):
            if not session or (kills and number > 1):
                machine = boot(records) if session else machine
                peer = machine.agent("planner")
                call = open_call(peer, window=window)
                machine.run()
                assert peer.reply(call)["turns"] == number
                session = peer.reply(call)["session"]
            said = f"{number} " * 60
            what = {"prompt": said} if window == "shift" else {"messages": [{"role": "user", "content": said}]}
            call = peer.call("llm.generate", session=session, **what, **TURN)
            machine.run()
            replies.append(peer.reply(call))
        (row,) = peer.ask("ctx.list")["sessions"]
        assert sum(reply.get("dropped_tokens", 0) for reply in replies) == row["dropped_tokens"] > 0
        outcomes.append(([reply["tokens"] for reply in replies], row["dropped_turns"], row["dropped_tokens"]))
    assert outcomes[0] == outcomes[1]


def test_an_agent_that_ends_finds_its_session_again_without_a_reboot():
    wanted = undisturbed()
    machine = boot({})
    peer, found = opened(machine)
    turn(machine, peer, found["session"], SAID[0], is_first=True)
    machine.ends(peer.pid)
    tokens: list[list[int]] = []
    assert go_on(machine, tokens.append) == 1
    assert tokens == wanted[1:]


def test_what_was_said_can_be_read_again_a_page_at_a_time():
    machine = boot(records := {})
    go_on(machine)
    machine = boot(records)
    peer, found = opened(machine)
    said, more = [], True
    with at_most(ctxcalls, "PAGE_BYTES", 200):
        while more:
            body = peer.ask("ctx.messages", session=found["session"], after=len(said))
            said, more = said + body["messages"], body["more"]
            assert len(body["messages"]) <= 3
    assert [one["content"] for one in said if one["role"] == "user"] == list(SAID)
    assert said[0] == SYSTEM
    assert body["answer"]["chat_format"] == "hermes"
    assert len(body["answer"]["text"]) == 12
    assert len(said) == found["messages"]


# -- whose it is ----------------------------------------------------------------------------------


def test_a_session_is_open_in_one_task_at_a_time():
    machine = boot({})
    peer, found = opened(machine)
    assert peer.error(open_call(peer)) == "EBUSY"
    other = machine.agent("planner")
    call = open_call(other)
    assert other.error(call) == "EBUSY"
    assert f"task {peer.pid}" in other.end(call)[1]["text"]
    peer.ask("ctx.close", session=found["session"])
    assert opened(machine, other)[1]["turns"] == 0


def test_agents_of_other_names_and_groups_have_others():
    machine = boot({})
    peer, found = opened(machine)
    turn(machine, peer, found["session"], "one")
    operator = machine.operator()
    operator.ask("group.create", path="/a")
    for name, group in (("other", "/"), ("planner", "/a")):
        other = machine.agent(name)
        operator.ask("group.attach", path=group, pid=other.pid)
        assert opened(machine, other)[1]["turns"] == 0


def test_a_call_that_ends_while_the_disk_reads_leaves_the_session_to_others():
    machine = boot({})
    peer = machine.agent("planner")
    call = open_call(peer)
    peer.closes()
    assert peer.error(call) == "EPIPE"
    machine.run()
    opened(machine)


@pytest.mark.parametrize(
    ("name", "body"),
    [("planner", {"name": ""}), ("", {}), ("planner", {"model": "none"}), ("planner", {"name": "x" * 65})],
)
def test_what_cannot_be_found_again_is_refused(name, body):
    machine = boot({})
    peer = machine.agent(name)
    assert peer.error(open_call(peer, **body)) == ("ENOENT" if "model" in body else "EINVAL")
    assert peer.ask("ctx.list")["sessions"] == []
    assert not machine.wanted


def test_closing_keeps_what_is_on_the_disk_and_forgetting_deletes_it():
    records: Records = {}
    machine = boot(records)
    peer, found = opened(machine)
    turn(machine, peer, found["session"], "one")
    assert peer.ask("ctx.close", session=found["session"]) == {}
    peer, found = opened(machine)
    assert found["turns"] == 1
    plain = peer.ask("ctx.open", name="plan")["session"]
    assert peer.error(peer.call("ctx.close", session=plain, forget=True)) == "EINVAL"
    call = peer.call("ctx.close", session=found["session"], forget=True)
    assert peer.end(call) is None
    machine.run()
    assert peer.reply(call) == {}
    assert records == {}
    assert opened(machine, peer)[1]["turns"] == 0


def test_forgetting_a_session_whose_turn_is_being_written_leaves_nothing():
    records: Records = {}
    machine = boot(records)
    peer, found = opened(machine)
    call = say(peer, found["session"], "one")
    while not machine.wanted:
        machine.step()
    peer.call("ctx.close", session=found["session"], forget=True)
    machine.run()
    assert peer.reply(call)["durable"] is True
    assert records == {}


def test_a_fork_is_not_durable_until_it_is_committed():
    tokens = []
    for kills in (False, True):
        machine = boot(records := {})
        peer, found = opened(machine)
        session = found["session"]
        turn(machine, peer, session, "one", is_first=True)
        (child,) = peer.ask("ctx.fork", session=session)["sessions"]
        before = dict(records)
        assert "durable" not in turn(machine, peer, child, "two")
        assert records == before
        assert [row["durable"] for row in peer.ask("ctx.list")["sessions"]] == [True, False]
        call = peer.call("ctx.commit", session=child)
        assert peer.end(call) is None
        machine.run()
        assert peer.reply(call) == {"session": session, "durable": True}
        if kills:
            machine = boot(records)
            peer, found = opened(machine)
            assert found["turns"] == 2
            session = found["session"]
        tokens.append(turn(machine, peer, session, "three")["tokens"])
    assert tokens[0] == tokens[1]


# -- disks and models that are not as they were ---------------------------------------------------


def test_a_disk_that_takes_nothing_costs_durability_and_no_answer():
    wanted = undisturbed()
    records: Records = {}
    machine = boot(records)
    peer, found = opened(machine)
    tokens = []
    for number, (text, error) in enumerate(zip(SAID, ("", "No space left on device", ""), strict=True)):
        machine.record_error = error
        reply = turn(machine, peer, found["session"], text, is_first=not number)
        tokens.append(reply["tokens"])
        assert reply["durable"] is not bool(error)
        assert opened(boot(dict(records)))[1]["turns"] == (number if error else number + 1)
    assert tokens == wanted
    (line,) = [text for text in machine.said if "No space left" in text]
    assert "'plan' of task 'planner' in group /" in line
    assert f"/state/{KEY.file_name}" in line


def test_a_record_that_is_too_long_is_not_written_and_the_turn_is_answered():
    machine = boot(records := {})
    peer, found = opened(machine)
    with at_most(durable, "MAX_RECORD_BYTES", 500):
        assert turn(machine, peer, found["session"], "one " * 100)["durable"] is False
    assert records == {}
    assert any("exceeds the limit of 500" in text for text in machine.said)


def test_a_disk_that_cannot_be_read_is_said_and_the_file_is_left():
    records: Records = {}
    go_on(boot(records))
    before = dict(records)
    machine = boot(records)
    machine.record_error = "Input/output error"
    text = refused(machine, "EIO")
    assert "Input/output error" in text
    assert f"/state/{KEY.file_name} could not be read, and is left as it is" in text
    assert records == before
    machine.record_error = ""
    assert opened(machine)[1]["turns"] == 3


def test_a_record_that_cannot_be_deleted_is_said():
    machine = boot({})
    peer, found = opened(machine)
    turn(machine, peer, found["session"], "one")
    machine.record_error = "Read-only file system"
    call = peer.call("ctx.close", session=found["session"], forget=True)
    machine.run()
    assert peer.error(call) == "EIO"
    assert "is closed, and /state/" in peer.end(call)[1]["text"]
    assert peer.ask("ctx.list")["sessions"] == []


def sealed(body: bytes) -> bytes:
    return seal(body) + body


def spoil(records: Records, change: Callable[[bytes], bytes]) -> None:
    records[KEY.file_name] = change(records[KEY.file_name])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda raw: raw[:-1], "bytes"),
        (lambda raw: raw[:10], "no session"),
        (lambda raw: b"", "no session"),
        (lambda raw: raw + b"x", "bytes"),
        (lambda raw: raw[:200] + bytes([raw[200] ^ 4]) + raw[201:], "its checksum is wrong"),
        (lambda raw: raw[:12] + bytes(len(raw) - 12), "its checksum is wrong"),
        (lambda raw: sealed(b"\xc1"), "not msgpack"),
        (lambda raw: sealed(b"\x80"), "its format is None, wanted 1"),
        (lambda raw: sealed(raw[SEAL_BYTES:].replace(b"planner", b"plunder")), "it is the session"),
    ],
)
def test_a_damaged_record_is_refused_with_the_reason_and_put_aside(change, reason):
    records: Records = {}
    go_on(boot(records))
    spoil(records, change)
    spoilt = records[KEY.file_name]
    machine = boot(records)
    text = refused(machine, "EIO")
    assert reason in text
    assert f"it was moved to /state/{KEY.file_name}.bad, and the next ctx.open begins anew" in text
    assert records == {f"{KEY.file_name}.bad": spoilt}
    assert any("'plan' of task 'planner'" in line and reason in line for line in machine.said)
    assert opened(machine)[1]["turns"] == 0


def test_a_token_that_the_model_does_not_have_is_found_before_it_is_fed():
    records: Records = {}
    go_on(boot(records))
    found = decode(unseal(records[KEY.file_name]), KEY)
    records[KEY.file_name] = sealed(encode(replace(found, tokens=[*found.tokens, 320])))
    assert "it has token 320, and the model 320" in refused(boot(records), "EIO")


def test_a_session_of_another_model_is_refused_and_left():
    records: Records = {}
    go_on(boot(records))
    before = dict(records)
    for model, texts in (
        (ModelConfig("fake", "other", fingerprint="a1"), ("'fake'", "'other'")),
        (ModelConfig("fake", "fake", fingerprint="b2"), ("another file", "a1", "b2")),
    ):
        text = refused(boot(records, models=(model,)), "EINVAL")
        assert all(part in text for part in (*texts, f"/state/{KEY.file_name}"))
        assert records == before


def test_messages_on_disk_count_towards_what_a_task_may_have():
    records: Records = {}
    go_on(boot(records))
    machine = boot(records)
    with at_most(sessions, "MAX_SESSION_BYTES", 400):
        assert "exceed the limit of 400" in refused(machine, "ENOMEM")
    assert opened(machine)[1]["turns"] == 3


@pytest.mark.parametrize("outcome", ["loads", "fails", "fails before the disk has read"])
def test_a_session_of_a_model_that_is_still_loading_waits_for_it(outcome):
    records: Records = {}
    models = (MODEL, ModelConfig("second", "second"))
    machine = boot(records, models=models)
    machine.core_up(1)
    peer = machine.agent("planner")
    call = open_call(peer, model="second")
    machine.run()
    turn(machine, peer, peer.reply(call)["session"], "one")
    machine = boot(records, models=models)
    peer = machine.agent("planner")
    call = open_call(peer, model="second")
    if outcome != "fails before the disk has read":
        machine.write()
    assert peer.end(call) is None
    if outcome == "loads":
        machine.core_up(1)
        assert peer.reply(call)["turns"] == 1
    else:
        machine.core_dies(1, was_ready=False, is_fatal=True, reason="it is no model")
        machine.write()
        assert peer.error(call) == "EIO"
        assert not machine.kernel.requests.sessions._taken
