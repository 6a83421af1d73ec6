"""Call ids, chunks and outcomes without a socket; and that bodies agree with the kernel's table of calls."""

import inspect
import struct
import subprocess
import sys

import pytest

from agentix import calls, errors, schedcalls
from agentix.mux import Mux
from agentix.vectors import vectors_of
from kernel.abi import codec
from kernel.abi.calls import MAX_MAIL_BYTES, SCHEMAS, validate
from kernel.abi.errors import Errno, KernelError
from kernel.abi.textcalls import MAX_TEXTS

GENERATE = calls.generate("hi", {}, stream=True)
BODY = {"text": "ab", "tokens": [1, 2], "finish_reason": "stop", "usage": {}, "timings": {}}


def chunk(call_id, seq, text):
    return codec.encode_answer(call_id, "chunk", {"text": text, "tokens": []}, seq)


def test_a_call_ends_in_its_first_reply_and_later_answers_are_dropped():
    mux = Mux()
    inflight, frame = mux.start(GENERATE, 50)
    assert codec.decode_call(frame) == (1, "llm.generate", GENERATE.body, 50, None)
    assert mux.feed(codec.encode_answer(1, "reply", BODY)) == (inflight,)
    assert mux.feed(codec.encode_answer(1, "reply", {**BODY, "text": "other"})) == ()
    assert mux.feed(codec.encode_error(1, KernelError(Errno.EIO, "late"))) == ()
    assert inflight.value().text == "ab"
    assert len(mux) == 0


def test_chunks_of_two_calls_keep_their_own_order():
    mux = Mux()
    first, _ = mux.start(GENERATE)
    second, _ = mux.start(GENERATE)
    for call_id, seq, text in ((2, 0, "x"), (1, 0, "a"), (1, 1, "b"), (2, 1, "y")):
        mux.feed(chunk(call_id, seq, text))
    assert [body["text"] for body in first.chunks] == ["a", "b"]
    assert [body["text"] for body in second.chunks] == ["x", "y"]


def test_a_missing_chunk_is_an_error_and_not_a_hole_in_the_text():
    mux = Mux()
    inflight, _ = mux.start(GENERATE)
    mux.feed(chunk(1, 0, "a"))
    mux.feed(chunk(1, 2, "c"))
    with pytest.raises(errors.BadMessage, match="chunk 2 came, wanted 1"):
        inflight.value()


def test_answers_to_unknown_ids_and_messages_of_no_kernel_are_ignored():
    mux = Mux()
    inflight, _ = mux.start(GENERATE)
    assert mux.feed(chunk(9, 0, "a")) == ()
    assert mux.feed(b"AGX2\xff") == ()
    assert mux.feed(b"hello") == ()
    assert not inflight.is_done


def test_the_answer_to_a_forgotten_call_is_dropped():
    mux = Mux()
    inflight, _ = mux.start(GENERATE)
    assert mux.forget(inflight)
    assert not mux.forget(inflight)
    assert mux.feed(codec.encode_answer(1, "reply", BODY)) == ()


def test_a_receive_that_was_given_up_keeps_its_message_for_the_next_one():
    mux = Mux()
    inflight, _ = mux.start(calls.recv(None))
    mux.forget(inflight)
    mux.feed(codec.encode_answer(1, "reply", {"sender": 5, "data": codec.pack({"a": [1]})}))
    assert mux.adopt(None) is inflight
    assert inflight.value() == (5, {"a": (1,)})
    assert mux.adopt(None) is None


def test_a_message_that_came_just_before_its_receive_was_given_up_is_kept_too():
    mux = Mux()
    inflight, _ = mux.start(calls.recv(None))
    mux.feed(codec.encode_answer(1, "reply", {"sender": 5, "data": codec.pack("x")}))
    mux.forget(inflight)
    assert mux.adopt(None) is inflight


def test_after_the_end_every_call_has_it_and_none_can_start():
    mux = Mux()
    inflight, _ = mux.start(GENERATE)
    assert mux.end(errors.KernelGone("died")) == [inflight]
    with pytest.raises(errors.KernelGone, match="died"):
        inflight.value()
    with pytest.raises(errors.KernelGone, match="died"):
        mux.start(GENERATE)


def test_an_error_without_a_call_is_the_end_of_every_call_and_of_those_to_come():
    mux = Mux()
    first, _ = mux.start(GENERATE)
    second, _ = mux.start(calls.ps())
    reason = KernelError(Errno.EPIPE, "it does not read its answers")
    assert mux.feed(codec.encode_error(0, reason)) == [first, second]
    assert mux.is_over
    for inflight in (first, second):
        with pytest.raises(errors.BrokenPipe, match="it does not read its answers"):
            inflight.value()
    mux.end(errors.KernelGone("the kernel closed this connection"))  # comes later, and says less
    with pytest.raises(errors.BrokenPipe, match="it does not read its answers"):
        mux.start(GENERATE)


def test_a_receive_that_was_given_up_by_one_task_is_not_adopted_by_another():
    mux = Mux()
    mine, _ = mux.start(calls.recv(None))
    theirs, frame = mux.start(calls.recv(None)._replace(task=9))
    assert codec.decode_call(frame).task == 9
    for inflight in (mine, theirs):
        mux.forget(inflight)
    assert mux.adopt(8) is None
    assert mux.adopt(9) is theirs
    assert mux.adopt(9) is None
    assert mux.adopt(None) is mine


def test_a_message_over_the_limit_is_refused_before_it_is_sent():
    mux = Mux()
    text = r"llm\.generate: message is 4194352 bytes, the limit is 4194304"
    with pytest.raises(errors.MessageTooLong, match=text):
        mux.start(calls.generate("x" * (codec.MAX_MESSAGE_BYTES + 16), {}))
    assert len(mux) == 0


def test_an_answer_that_lacks_a_field_is_an_agentix_error():
    mux = Mux()
    inflight, _ = mux.start(GENERATE)
    mux.feed(codec.encode_answer(1, "reply", {"text": "a"}))
    with pytest.raises(errors.BadMessage, match="lacks 'tokens'"):
        inflight.value()


@pytest.mark.parametrize("number", list(Errno))
def test_every_errno_has_an_exception_class_of_its_own(number):
    error = errors.error_of(int(number), "text")
    assert type(error) is not errors.AgentixError
    assert (error.errno, error.text, str(error)) == (number, "text", "text")


EXAMPLES = [
    calls.hello("a", 2),
    calls.plain("sys.info"),
    calls.generate("hi", {"max_tokens": 5, "temperature": 0.5, "seed": 3, "stop": ["x"]}, stream=True),
    calls.generate([{"role": "user", "content": "hi"}], {"top_k": 1, "top_p": 0.5, "ignore_end": True}),
    calls.generate([1, 2], {}),
    calls.generate("hi", {"model": "chat", "logit_bias": {5: -100, "6": 1.5}, "logprobs": 2, "min_p": 0.1}),
    calls.generate("hi", {"json_schema": {"type": "object"}, "thinking": None}),
    calls.generate("hi", {"grammar": 'root ::= "a"', "repeat_penalty": 1.1, "special": True}),
    calls.cancel(3),
    calls.tokenize("a", True),
    calls.tokenize("a", True, "chat"),
    calls.detokenize([1]),
    calls.detokenize([1], "chat"),
    *calls.embed(["a", "b"]),
    *calls.embed([[1, 2], [3]], "embed"),
    calls.models(),
    calls.spawn("main", "worker.py", [1, "b"], "w", {"A": "b"}, 3, ["task.create"]),
    calls.spawn("main", "worker.py", [], "w", None, None, group="/a"),
    calls.task_create("critic", 3),
    calls.task_create("critic", None, "/a"),
    calls.leave(0),
    calls.wait(0, 1.5),
    calls.kill(5, "TERM"),
    calls.ps(),
    calls.send(5, {"a": 1}, 1),
    calls.recv(None),
    calls.mem_create("a", 1),
    calls.mem_stat(),
    calls.mem_unlink("a"),
    schedcalls.sched_set(pid=0, nice=5, policy=None),
    schedcalls.sched_set(
        pid=0, nice=5, policy="", slice=0.02, weight=50, sched_class="batch", rt_priority=3, quota={"tokens": None}
    ),
    schedcalls.sched_get(0),
    schedcalls.sched_policies(),
    schedcalls.sched_hint(5),
    schedcalls.sched_hint(None),
    schedcalls.sched_stat(0),
    schedcalls.group_create("/a", {"weight": 5, "policies": ["rr"], "params": {"a": 1}}),
    schedcalls.group_set("/a", {"weight": None}),
    schedcalls.group_attach("/a", 0),
    schedcalls.group_remove("/a"),
    schedcalls.group_stat(""),
    calls.log("line"),
]


@pytest.mark.parametrize("call", EXAMPLES, ids=lambda call: call.method)
def test_the_kernel_accepts_the_body_of_every_call(call):
    decoded = codec.decode_call(codec.encode_call(1, call.method, call.body))
    validate(decoded.method, decoded.body)


def test_tokens_are_sent_as_four_bytes_each_however_many_they_are():
    tokens = [0, 1, 2**32 - 1, *range(200_000)]
    for call in (calls.generate(tokens, {}), calls.detokenize(tokens)):
        frame = codec.encode_call(1, call.method, call.body)
        packed = codec.decode_call(frame).body["tokens"]
        assert struct.unpack(f"<{len(tokens)}I", packed) == tuple(tokens)


@pytest.mark.parametrize("wrong", [-1, 2**32, 1.5, "a", None])
def test_a_token_that_is_none_is_named_by_its_place(wrong):
    for make in (calls.detokenize, lambda tokens: calls.generate(tokens, {})):
        with pytest.raises(errors.InvalidValue) as raised:
            make([7, wrong, 9])
        assert str(raised.value) == f"tokens[1] is {wrong!r}, wanted an int from 0 to 4294967295"


def test_the_sampling_options_are_the_kernels_fields():
    fields = set(SCHEMAS["llm.generate"]) - {"prompt", "messages", "tokens", "tools", "stream"}
    assert set(inspect.get_annotations(calls.Sampling)) == fields


def test_what_the_wire_has_no_form_for_is_put_into_one():
    body = calls.generate("hi", {"json_schema": {"a": 1}, "logit_bias": {5: -100, "6": 1}}).body
    assert (body["json_schema"], body["logit_bias"]) == ('{"a": 1}', {"5": -100, "6": 1})
    assert calls.generate("hi", {"json_schema": "{}"}).body["json_schema"] == "{}"


def test_texts_to_embed_are_cut_into_calls_that_the_kernel_takes():
    assert calls.MAX_TEXTS == MAX_TEXTS
    texts = [str(number) for number in range(2 * MAX_TEXTS + 1)]
    cut = [call.body["texts"] for call in calls.embed(texts)]
    assert [len(part) for part in cut] == [MAX_TEXTS, MAX_TEXTS, 1]
    assert [text for part in cut for text in part] == texts
    long = "你" * calls.MAX_TEXTS_CHARS
    assert [len(call.body["texts"]) for call in calls.embed([long, "a", "b"])] == [1, 2]
    for call in calls.embed([long, "a", "b"]):
        assert len(codec.encode_call(1, call.method, call.body)) < codec.MAX_MESSAGE_BYTES
    assert list(calls.embed([])) == []


@pytest.mark.parametrize("wrong", ["a text", b"bytes"])
def test_one_text_is_no_list_of_texts(wrong):
    with pytest.raises(errors.InvalidValue, match="wanted a list of texts"):
        list(calls.embed(wrong))


def test_vectors_are_an_array_or_lists_of_the_same_numbers(monkeypatch):
    raw = [struct.pack("<3f", 0.5, -1, 2), struct.pack("<3f", 1, 2, 3)]
    array = vectors_of(raw)
    assert (array.shape, str(array.dtype), array.flags.writeable) == ((2, 3), "float32", True)
    assert vectors_of([]).shape == (0, 0)
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert vectors_of(raw) == array.tolist() == [[0.5, -1, 2], [1, 2, 3]]


def test_a_name_that_the_kernel_does_not_know_is_a_segments_a_models_or_a_groups():
    for call, kind in (
        (calls.mem_unlink("a"), errors.NoSuchSegment),
        (calls.tokenize("a", True, "x"), errors.NoSuchModel),
        (schedcalls.group_stat("/a"), errors.NoSuchGroup),
        (calls.task_create("a", None, "/a"), errors.NoSuchGroup),
        (calls.spawn("main", "a.py", [], "", None, None, group="/a"), errors.NoSuchGroup),
    ):
        mux = Mux()
        inflight, _ = mux.start(call)
        mux.feed(codec.encode_error(inflight.id, KernelError(Errno.ENOENT, "no")))
        assert type(inflight.error) is kind


def test_mail_is_bounded_as_the_kernel_bounds_it():
    assert calls.MAX_MAIL_BYTES == MAX_MAIL_BYTES
    with pytest.raises(errors.MessageTooLong, match="message to 5 is 65541 bytes"):
        calls.send(5, b"x" * MAX_MAIL_BYTES, None)


@pytest.mark.parametrize(
    ("timeout", "wire"), [(0, 0), (0.0001, 1), (1.5, 1500), (float("inf"), (1 << 40) - 1), (None, None)]
)
def test_a_timeout_on_the_wire_is_never_shorter_than_asked_for(timeout, wire):
    assert calls.milliseconds(timeout) == wire


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_a_timeout_that_is_no_time_is_refused(timeout):
    with pytest.raises(errors.InvalidValue, match="timeout is"):
        calls.milliseconds(timeout)


def test_importing_agentix_loads_no_heavy_module():
    heavy = ("zmq", "numpy", "llama_cpp", "asyncio", "psutil", "kernel.abi.calls", "dataclasses", "inspect")
    code = f"import sys, agentix; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(("retry_after_ms", "seconds"), [(1500, 1.5), (0, 0.0), (None, None)])
def test_a_call_to_be_tried_again_says_after_how_many_seconds_where_the_kernel_can_tell(retry_after_ms, seconds):
    mux = Mux()
    inflight, _ = mux.start(GENERATE)
    mux.feed(codec.encode_error(inflight.id, KernelError(Errno.EAGAIN, "too long a wait", retry_after_ms)))
    with pytest.raises(errors.TryAgain, match="too long a wait") as raised:
        inflight.value()
    assert raised.value.retry_after == seconds
