"""Numbers as people read them."""

import pytest

from research.storage.console import amount, byte_amount, clock


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [(247_577_856.0, "", "247.6 M"), (55.82e9, "FLOP", "55.82 GFLOP"), (12.0, "", "12"), (1500.0, "", "1.5 k")],
)
def test_amounts_are_said_with_a_prefix(value: float, unit: str, said: str) -> None:
    assert amount(value, unit) == said


def test_bytes_and_seconds() -> None:
    assert [byte_amount(2**20 * 5), byte_amount(2**30 * 1.5)] == ["5.0 MiB", "1.50 GiB"]
    assert [clock(59.9), clock(61), clock(3600 * 2 + 5)] == ["0:59", "1:01", "2:00:05"]
