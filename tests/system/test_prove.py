"""The long proof in a short form: the real llama.cpp core under random schedules and a real kill -9."""

from __future__ import annotations

from benchmarks.prove import prove


def test_random_schedules_of_the_real_engine_change_no_token():
    rows = prove("default", ["q8_0", "f16"], cases=6, seconds=90, requests=6, live=1)
    missed = [f"{row.what}: {row.figure}, wanted {row.bar}" for row in rows if row.met is False]
    assert not missed
