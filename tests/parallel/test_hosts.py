"""The start of the runtime, and its errors: those that mean that another host is gone, and those that do not."""

from typing import Any

import jax
import pytest

from research.parallel import hosts
from research.storage import stop
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


def test_a_host_alone_waits_for_no_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the runtime aborts a process that was suspended for longer than the time-out of heartbeats."""
    calls: list[dict[str, Any]] = []

    def initialize(*arguments: Any, **settings: Any) -> None:
        calls.append(settings)
        if "num_processes" not in settings:
            raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: False)
    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(jax.config, "update", lambda name, value: None)
    monkeypatch.setattr(stop, "follow_jax", lambda: None)
    hosts.initialize_hosts(heartbeat=60)
    assert calls[0]["heartbeat_timeout_seconds"] == 60
    assert calls[1]["heartbeat_timeout_seconds"] >= 7 * 24 * 3600
