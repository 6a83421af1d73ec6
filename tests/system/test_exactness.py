"""The benchmark of exactness in a short form: sessions on the real core, with forks, core deaths and a small memory."""

from __future__ import annotations

from benchmarks.exactness import QUICK, QUICK_MODELS, prove


def test_sessions_say_the_same_in_bad_company_as_alone():
    rows = prove(QUICK._replace(models=QUICK_MODELS[:1], flips=1), seed=3, cases_bar=20)
    missed = [f"{row.what}: {row.figure}, wanted {row.bar}" for row in rows if row.met is False]
    assert not missed
