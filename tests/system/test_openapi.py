"""Whatever a client sends to what the OpenAPI document describes, the answer is no error of the server's."""

from __future__ import annotations

import json

import pytest
from gateways import gateway

schemathesis = pytest.importorskip("schemathesis")

from hypothesis import HealthCheck, settings  # noqa: E402
from schemathesis.checks import not_a_server_error  # noqa: E402

from agentix.gateway.openapi import DOCUMENT  # noqa: E402

schema = schemathesis.openapi.from_dict(DOCUMENT)


@pytest.fixture(scope="module")
def served():
    with gateway(slots=4, window_tokens=256, slot_tokens=256) as made:
        yield made


@schema.parametrize()
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_request_makes_a_server_error(case, served):
    if isinstance(case.body, dict):
        for name in ("max_tokens", "max_completion_tokens"):  # answers are short: it is the requests that are tried
            if isinstance(case.body.get(name), int):
                case.body[name] = min(case.body[name], 8)
            else:
                case.body.setdefault(name, 8)
    answer = case.call(base_url=served.url, timeout=60)
    case.validate_response(answer, checks=(not_a_server_error,))
    if answer.status_code >= 400:
        error = json.loads(answer.content)["error"]
        assert error["message"]
        assert error["type"]
        assert error["code"]
