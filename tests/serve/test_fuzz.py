"""Requests drawn from the application's own description: whatever they hold, the answer is never a server error."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from serve.api import create_app

schemathesis = pytest.importorskip("schemathesis")
EXAMPLES = 15
STREAM = "/v1/events"


@pytest.mark.slow
@pytest.mark.usefixtures("filled")
def test_no_request_is_a_server_error(service: Any) -> None:
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(service))
    answers: Counter[int] = Counter()
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path != STREAM:
            answers += sent(operation, EXAMPLES)
    assert not [status for status in answers if status >= 500], answers
    assert {200, 422} <= set(answers)


def sent(operation: Any, examples: int) -> Counter[int]:
    """Send drawn requests to one operation and count the answers."""
    answers: Counter[int] = Counter()

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def send(case: Any) -> None:
        answer = case.call()
        answers[answer.status_code] += 1
        assert answer.status_code < 500, (operation.label, case.body, answer.text)

    send()
    return answers
