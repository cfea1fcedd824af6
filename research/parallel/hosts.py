"""The hosts of a run: connect them, compare their settings, disconnect together."""

import hashlib
import os
import re
import socket
import sys
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from research.config import ConfigError
from research.storage import stop

YEAR = 365 * 24 * 3600  # seconds


def await_hosts(seconds: float) -> None:
    """Leave the distributed runtime together with the other hosts, or alone after `seconds`.

    Once host 0 has exited, the runtime kills the other hosts, even if they were about to print an error.
    """
    leaving = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    leaving.start()
    leaving.join(seconds)


class Cluster(NamedTuple):
    """The hosts of a run, for environments in which JAX detects no cluster."""

    coordinator: str  # address:port, at which host 0 listens
    hosts: int
    host: int  # index of this host, from 0


def initialize_hosts(cluster: Cluster | None = None, patience: int = 300, heartbeat: int = 60) -> None:
    """Start JAX's distributed runtime over `cluster`, the cluster that JAX detects, or this host alone.

    A single host needs the runtime too: without its client, SIGTERM ends the process before it can save. Further calls
    do nothing. If the hosts do not connect within `patience` seconds, the process prints an error and exits with code
    2, where the runtime would abort. Later, if a host sends no heartbeat for `heartbeat` seconds, the runtime reports
    it and aborts the other hosts.
    """
    if jax.distributed.is_initialized():
        return
    late = threading.Timer(patience, _exit_after_timeout, [cluster, patience])
    late.daemon = True
    late.start()
    settings: Any = {"initialization_timeout": 2 * patience, "heartbeat_timeout_seconds": heartbeat}
    try:
        if cluster is None:
            jax.distributed.initialize(**settings)
        else:
            jax.distributed.initialize(*cluster, cluster_detection_method="deactivate", **settings)
    except ValueError as error:
        # JAX raises this ValueError, with no more specific type, if it finds no cluster in the environment.
        if "coordinator_address" not in str(error):
            raise
        # Otherwise several devices of one process communicate over sockets too, and abort when their messages cross.
        jax.config.update("jax_cpu_collectives_implementation", None)
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        alone = f"localhost:{port}"  # by default JAX would listen on all interfaces and let any machine join
        # No other host waits for heartbeats: a process that was suspended, as by a laptop, continues.
        jax.distributed.initialize(
            alone, num_processes=1, process_id=0, coordinator_bind_address=alone, heartbeat_timeout_seconds=YEAR
        )
    finally:
        late.cancel()
    stop.follow_jax()


def _exit_after_timeout(cluster: Cluster | None, seconds: int) -> None:
    hosts = "The hosts that the environment names" if cluster is None else f"{cluster.hosts} hosts"
    where = "" if cluster is None else f" at {cluster.coordinator}"
    each = "" if cluster is None else f", with --host_id 0 to {cluster.hosts - 1}"
    print(
        f"error: {hosts} did not meet{where} in {seconds} s. Start the same command on each{each}; the address must be"
        " that of host 0, and its port must be open.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


# Statuses of JAX's runtime, the first words of its messages, if a collective operation fails: of Gloo, NCCL and TPUs.
# Mistakes and full memories have others, such as INVALID_ARGUMENT, FAILED_PRECONDITION and RESOURCE_EXHAUSTED.
# UNKNOWN and INTERNAL have other causes too, such as a compiler's or a disk's: there the message tells.
FAILED_EXCHANGE = ("UNAVAILABLE", "ABORTED", "CANCELLED", "DEADLINE_EXCEEDED")
AMBIGUOUS = ("UNKNOWN", "INTERNAL")
EXCHANGE = re.compile("gloo|nccl|collective|connection|peer|socket|heartbeat|coordination|all-?(reduce|gather)", re.I)


def is_exchange_failure(error: BaseException | None) -> bool:
    """Tell whether an exchange between several hosts failed, as when one of them is lost: by the runtime's status.

    Some functions of JAX raise the runtime's error as a ValueError.
    """
    while error is not None and jax.process_count() > 1:
        of_runtime = type(error) in (jax.errors.JaxRuntimeError, ValueError)
        status = str(error).partition(":")[0] if of_runtime else ""
        if status in FAILED_EXCHANGE or (status in AMBIGUOUS and EXCHANGE.search(str(error))):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


def check_agreement(settings: Mapping[str, str]) -> None:
    """Check that all hosts have the same settings.

    Raises:
        ConfigError: on every host, if any two differ; the message names the settings and the hosts.
    """
    if jax.process_count() == 1:
        return
    digests = [hashlib.sha256(text.encode()).digest() for text in settings.values()]
    mine = np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), -1)
    everyone = np.asarray(multihost_utils.process_allgather(mine))
    differs = (everyone != everyone[0]).any(axis=-1)
    if differs.any():
        names = ", ".join(name for name, column in zip(settings, differs.T, strict=True) if column.any())
        others = ", ".join(str(host) for host in np.flatnonzero(differs.any(axis=1)))
        raise ConfigError(f"Hosts disagree about {names}: host {others} differs from host 0. Start the same on each.")
