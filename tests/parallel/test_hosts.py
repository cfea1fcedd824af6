"""Errors of the runtime that mean that another host is gone, and those that do not."""

import jax
import pytest

from research.parallel import hosts
from research.storage.checkpoint import CheckpointError


@pytest.mark.parametrize(
    ("message", "lost"),
    [
        ("UNKNOWN: Gloo all-reduce failed: connection reset by peer", True),
        ("INTERNAL: NCCL operation failed: unhandled system error", True),
        ("UNAVAILABLE: the coordinator is gone", True),
        ("INTERNAL: Mosaic failed to compile TPU kernel", False),
        ("INTERNAL: CpuCallback error: ZeroDivisionError", False),
        ("UNKNOWN: Error writing file: Input/output error", False),
        ("RESOURCE_EXHAUSTED: out of memory", False),
    ],
)
def test_an_error_of_the_runtime_is_a_lost_host_only_if_an_exchange_failed(
    message: str, lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    error = jax.errors.JaxRuntimeError(message)
    assert hosts.is_exchange_failure(error) == lost
    outer = CheckpointError("the checkpoint of step 3 could not be written")
    outer.__cause__ = error
    assert hosts.is_exchange_failure(outer) == lost
    monkeypatch.setattr(jax, "process_count", lambda: 1)
    assert not hosts.is_exchange_failure(error)
