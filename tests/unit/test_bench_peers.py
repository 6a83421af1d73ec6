"""The pure parts of bench-peers: loads, readings of each server's stream, figures, tables, the picture."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from itertools import islice
from xml.etree import ElementTree

import pytest

from benchmarks import gateway_cost, gateway_drops, peers, peers_load
from benchmarks.httpstream import Exchange, HttpError
from benchmarks.peers_dialects import LlamaCppPython, LlamaServer, Ollama, OpenAi
from benchmarks.peers_figures import MIX, STARVED_S, Record, Run, figures, requests
from benchmarks.peers_plot import draw
from benchmarks.peers_report import bars, load_tables
from benchmarks.peers_servers import Flags
from benchmarks.vocabulary import make_vocabulary

NAMES = {"ours": "agentix", "tuned": "llama-server A", "turns": "llama-server B", "bare": "llama-server, no flags"}


def record(kind, sent_s, arrivals, ended_s=None, wanted=None, error=""):
    made = Record(kind, wanted if wanted is not None else sum(count for _, count in arrivals), sent_s, error=error)
    made.arrivals, made.ended_s = arrivals, ended_s
    return made


# -- loads ----------------------------------------------------------------------------------------


def test_every_server_is_asked_for_the_same():
    assert list(islice(requests(3), 50)) == list(islice(requests(3), 50))
    assert list(islice(requests(3), 50)) != list(islice(requests(4), 50))


def test_the_mix_is_what_it_says_it_is():
    drawn = Counter(one.kind for one in islice(requests(1), 4000))
    for kind in MIX:
        assert drawn[kind.name] / 4000 == pytest.approx(kind.share, abs=0.025)


def test_no_two_prompts_share_a_prefix_that_a_cache_could_use():
    assert len({one.ids[:4] for one in islice(requests(1), 1000)}) == 1000


def test_a_prompt_as_text_has_a_character_for_each_token():
    asked = next(requests(1))
    assert len(asked.text) == len(asked.ids)
    assert asked.text.isdigit()


def test_no_piece_of_the_whole_vocabulary_ends_inside_a_character():
    table = {shown: byte for byte, shown in _alphabet().items()}
    halves = {"whole": 0, "pairs": 0}
    for kind in halves:
        vocabulary = make_vocabulary(kind, 6000)
        for piece in vocabulary.tokens[5 + 256 :]:
            try:
                bytes(table[character] for character in piece).decode()
            except UnicodeDecodeError:
                halves[kind] += 1
    assert halves["whole"] == 0
    assert halves["pairs"] > 1000


def _alphabet():
    from benchmarks.vocabulary import _byte_alphabet

    return _byte_alphabet()


# -- readings -------------------------------------------------------------------------------------


def read(dialect, lines):
    reading = dialect.reading()
    return [reading.line(line if isinstance(line, bytes) else b"data: " + json.dumps(line).encode()) for line in lines]


def test_tokens_that_llama_server_held_back_count_when_it_tells_of_them():
    news = read(LlamaServer(), [
        {"content": "a", "tokens": [7], "tokens_predicted": 1, "stop": False},
        {"content": "b", "tokens": [9], "tokens_predicted": 4, "stop": False},
        {"tokens_predicted": 5, "stop": True, "timings": {"cache_n": 12}},
    ])  # fmt: skip
    assert [one.tokens for one in news] == [1, 3, 1]
    assert [one.is_end for one in news] == [False, False, True]
    assert news[2].cached_tokens == 12
    assert len(news[1].ids) < news[1].tokens  # the gap shows


def test_tokens_of_agentix_are_counted_by_their_ids():
    news = read(OpenAi(), [
        b": keep-alive", b"",
        {"choices": [{"text": "", "token_ids": [5, 6], "finish_reason": None}]},
        {"choices": [{"text": "", "token_ids": [], "finish_reason": "length"}]},
        {"choices": [], "usage": {"prompt_tokens_details": {"cached_tokens": 64}}},
        b"data: [DONE]",
    ])  # fmt: skip
    assert [one.tokens for one in news] == [0, 0, 2, 0, 0, 0]
    assert news[2].ids == (5, 6)
    assert news[4].cached_tokens == 64
    assert [one.is_end for one in news] == [False] * 5 + [True]


def test_an_event_without_text_is_a_token_of_llama_cpp_python_too_but_its_last_is_none():
    choices = [("a", None), ("", None), ("", "length")]
    news = read(LlamaCppPython(), [{"choices": [{"text": text, "finish_reason": why}]} for text, why in choices])
    assert [one.tokens for one in news] == [1, 1, 0]


def test_ollamas_last_line_says_how_many_there_were():
    lines = [{"response": "a"}, {"response": "b"}, {"response": "", "done": True, "eval_count": 5}]
    news = read(Ollama("m"), [json.dumps(line).encode() for line in lines])
    assert [one.tokens for one in news] == [1, 1, 3]
    assert news[-1].is_end


@pytest.mark.parametrize("dialect", [LlamaServer(), OpenAi(), LlamaCppPython()])
def test_an_error_inside_a_stream_is_one(dialect):
    (news,) = read(dialect, [{"error": {"message": "no room"}}])
    assert "no room" in news.error


# -- the client -----------------------------------------------------------------------------------


def serve_once(answer, talk):
    """Run talk(address) against a server that sends these bytes to whoever connects, then closes."""

    async def both():
        async def serve(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            return await talk(server.sockets[0].getsockname()[:2])

    return asyncio.run(both())


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Agentix-Task: 41\r\n\r\n"


def chunked(*parts):
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)


async def lines_of(address):
    exchange = await Exchange.post(address, "/", {})
    try:
        await exchange.begin()
        return [line async for line in exchange.lines()], exchange.headers
    finally:
        exchange.close()


def test_lines_are_put_together_from_chunks():
    lines, headers = serve_once(HEAD + chunked(b"data: o", b"ne\n\ndata: two\r\n", b"x") + b"0\r\n\r\n", lines_of)
    assert lines == [b"data: one", b"", b"data: two", b"x"]
    assert headers["x-agentix-task"] == "41"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (HEAD + chunked(b"data: one\n"), "cut"),
        (HEAD + b"400\r\nhalf", "inside a chunk"),
        (b"", "closed"),
        (b"SSH-2.0-x\r\n", "no HTTP"),
        (b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\n\r\nlate", "status 429: late"),
    ],
)
def test_an_answer_that_is_none_is_an_error_that_says_so(answer, text):
    with pytest.raises(HttpError, match=text):
        serve_once(answer, lines_of)


def test_a_server_that_is_not_there_is_errors_and_no_hang():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    length = peers_load.Length(warm_s=0, warm_most_s=0.2, least_s=0.2, most_s=2)
    run = asyncio.run(peers_load.closed(OpenAi(), ("127.0.0.1", port), 2, length))
    made = figures([run])
    assert made["requests"] == 0
    assert all("refused" in one.error or "Connect" in one.error for one in run.records if one.error)
    assert any(one.error for one in run.records)


def test_a_stream_that_ends_early_is_an_error_of_its_request():
    event = b'data: {"choices": [{"text": "a", "token_ids": [1], "finish_reason": null}]}\n\n'

    async def talk(address):
        return await peers_load.Load(OpenAi(), address).ask(next(requests(1)))

    record = serve_once(HEAD + chunked(event) + b"0\r\n\r\n", talk)
    assert record.tokens == 1
    assert "before its end" in record.error
    assert record.task == "41"


# -- figures --------------------------------------------------------------------------------------


def test_only_what_came_inside_the_window_counts():
    early = record("short", 0.0, [(5.0, 3), (9.0, 2)], 9.5)
    inside = record("short", 10.0, [(11.0, 4), (13.0, 4)], 13.0)
    across = record("long", 12.0, [(14.0, 1), (25.0, 6)], 26.0)
    made = figures([Run((early, inside, across), 10.0, 20.0, 0.5)])
    assert made["tokens_per_s"] == pytest.approx(0.9)
    assert made["requests"] == made["short_requests"] == 1
    assert made["ttft_p50_s"] == 1.0
    assert made["ttft_p99_s"] == 2.0
    assert made["short_p95_s"] == 3.0
    assert made["load_cpu_share"] == 0.05


def test_rounds_are_put_together_each_by_its_own_window():
    one = Run((record("short", 0.0, [(1.0, 10)], 1.0),), 0.0, 10.0, 0.0)
    other = Run((record("short", 100.0, [(103.0, 30)], 103.0), record("short", 105.0, [(112.0, 99)], 112.0)),
                100.0, 110.0, 0.0)  # fmt: skip
    made = figures([one, other])
    assert made["tokens_per_s"] == 2.0
    assert made["requests"] == 2
    assert made["short_p95_s"] == 3.0


def test_a_request_without_a_token_for_too_long_starves_whether_it_ended_or_not():
    never = record("short", 0.0, [], wanted=16)
    late = record("short", 0.0, [(STARVED_S + 1, 16)], STARVED_S + 1)
    well = record("short", 0.0, [(STARVED_S - 1, 8), (2 * STARVED_S - 2, 8)], 2 * STARVED_S - 2)
    made = figures([Run((never, late, well), 1.0, 3 * STARVED_S, 0.0, unended=1)])
    assert made["starved"] == 3
    assert made["silence_max_s"] == 3 * STARVED_S


def test_errors_and_short_answers_are_told_and_no_requests():
    failed = record("short", 0.0, [(0.5, 1)], 1.0, error="status 500: x")
    cut = record("short", 0.0, [(1.0, 3)], 1.5, wanted=16)
    made = figures([Run((failed, cut), 0.0, 2.0, 0.0)])
    assert (made["errors"], made["first_error"]) == (1, "status 500: x")
    assert (made["requests"], made["cut_short"]) == (1, 1)


def test_a_run_in_which_nothing_came_has_no_percentiles():
    made = figures([Run((), 0.0, 2.0, 0.0)])
    assert made["tokens_per_s"] == 0
    assert "ttft_p95_s" not in made


# -- bars -----------------------------------------------------------------------------------------


def seen(**changes):
    """Figures of a closed load."""
    base = {
        "tokens_per_s": 100.0, "requests_per_s": 3.0, "requests": 90, "short_requests": 1200, "ttft_p95_s": 1.0,
        "ttft_p50_s": 0.5, "ttft_p99_s": 2.0, "short_p50_s": 1.0, "short_p95_s": 2.0, "errors": 0, "starved": 0,
        "cut_short": 0, "silence_max_s": 1.0, "load_cpu_share": 0.01, "later_ttft_p95_s": 1.0,
    }  # fmt: skip
    return base | changes


def test_bars_are_met_and_missed_by_the_right_side():
    loads = {
        ("closed32", "agentix"): seen(),
        ("closed32", "llama-server A"): seen(tokens_per_s=101.0, ttft_p95_s=2.1, short_p95_s=3.9),
        ("closed32", "llama-server, no flags"): seen(tokens_per_s=70.0, ttft_p95_s=5.5),
    }
    met = {row.what: row.met for row in bars(loads, NAMES)}
    assert met["32 clients: tok/s"] is False
    assert met["32 clients: TTFT P95"] is True
    assert met["32 clients: short requests' P95"] is False
    assert met["32 clients: tok/s, no flags"] is True
    assert met["32 clients: TTFT P95, no flags"] is True
    assert not any(what.startswith(("6 clients", "64 conv", "128")) for what in met)


def test_an_error_of_ours_misses_a_bar():
    loads = {("closed128", "agentix"): seen(errors=1)}
    assert [row.what for row in bars(loads, NAMES) if row.met is False] == [
        "128 clients: errors, starved",
        "agentix, all loads: errors, starved, cut short",
    ]


def test_a_side_that_sent_nothing_misses_its_bar():
    nothing = seen(tokens_per_s=0.0)
    del nothing["ttft_p95_s"]
    loads = {
        ("closed32", "agentix"): nothing,
        ("closed32", "llama-server A"): seen(),
        ("closed32", "llama-server, no flags"): seen(),
    }
    met = {row.what: row.met for row in bars(loads, NAMES)}
    assert met["32 clients: tok/s"] is False
    assert met["32 clients: TTFT P95"] is False


def test_the_shortest_waits_of_other_flags_are_told():
    loads = {("flags", "llama-server A"): seen(), ("flags", "llama-server C"): seen(ttft_p95_s=0.25)}
    told = {row.what: row.figure for row in bars(loads, NAMES)}
    assert told["its least TTFT P95 with any of these flags"] == "0.25 s with C"


def test_tables_have_a_line_for_each_load_of_each_server_and_a_dash_for_what_was_not_seen():
    text = load_tables({("closed32", "agentix"): seen(), ("turns", "agentix"): seen()})
    closed, turns = (part.splitlines() for part in text.split("\n\n"))
    assert len(closed) == len(turns) == 3
    assert closed[0].index("errors") == closed[2].index("0       0        0")
    assert " - " in closed[2]  # no long request ended


def test_the_picture_is_well_formed_and_shows_every_number():
    svg = draw({("closed32", "agentix"): seen(), ("closed32", "<other> & co"): seen(tokens_per_s=50.0)}, "facts")
    tree = ElementTree.fromstring(svg)
    texts = [one.text for one in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert "32 clients: <other> & co" in texts
    assert {"100", "50", "facts"} <= set(texts)
    widths = [float(one.get("width")) for one in tree.iter("{http://www.w3.org/2000/svg}rect")][1:3]
    assert widths[0] == pytest.approx(2 * widths[1], rel=0.01)


def test_flags_are_read_as_they_are_written():
    flags = Flags.of("16,off,split")
    assert flags == Flags(16, False, False)
    assert flags.arguments(2)[:4] == ("-np", "16", "-c", "16384")
    with pytest.raises(ValueError, match="'16,off'"):
        Flags.of("16,off")


def test_a_load_that_needs_another_is_refused_without_it(capsys):
    with pytest.raises(SystemExit):
        peers.main(["--only", "turns07"])
    assert "name it too" in capsys.readouterr().err


# -- the gateway's benchmarks ---------------------------------------------------------------------


def test_each_event_is_matched_with_its_own_chunk_in_the_order_of_its_task():
    first, second = record("x", 1.0, [(1.010, 1), (1.020, 1)]), record("x", 2.0, [(2.004, 1)])
    first.task = second.task = "7"
    read_ns = {7: [1_008_000_000, 1_019_000_000, 2_001_000_000, 9_000_000_000]}
    assert gateway_cost.in_gateway_ms([second, first], read_ns) == pytest.approx([2, 1, 3])


def test_an_arrival_is_compared_with_the_probes_token_of_its_step():
    probe_ns = [1_000_000_000, 1_030_000_000, 1_060_000_000]
    found = gateway_cost.behind_ms([0.9, 1.002, 1.029, 1.034, 1.2], probe_ns)
    assert found == pytest.approx([2, -1, 4])


def test_one_of_twenty_clients_hangs_up_in_every_way():
    made = list(gateway_drops.plans(1, 10_000, ["key-1", "key-2"]))
    dropped = [plan for plan in made if plan.when]
    assert len(dropped) == pytest.approx(500, abs=60)
    assert {(plan.when, plan.how) for plan in dropped} == {
        (when, how) for when in gateway_drops.WHEN for how in gateway_drops.HOW
    }
    assert {bool(plan.key) for plan in made} == {True, False}
