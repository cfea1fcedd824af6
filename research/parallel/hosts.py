"""The hosts of a run: joining them, comparing what they were told, leaving together."""

import hashlib
import os
import socket
import sys
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from research.config import ConfigError


def await_hosts(seconds: float) -> None:
    """Leaves the distributed runtime together with the other hosts, or without them when the time is over.

    A host whose first one has gone is ended by the runtime, whatever it was about to say.
    """
    leaving = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    leaving.start()
    leaving.join(seconds)


class Cluster(NamedTuple):
    """Who takes part, where no environment says so."""

    coordinator: str  # address:port, at which host 0 listens
    hosts: int
    host: int  # this one's number, from 0


def initialize_hosts(cluster: Cluster | None = None, patience: int = 300, heartbeat: int = 60) -> None:
    """Starts JAX's runtime over this cluster, or the one that the environment names, or over this one alone.

    Alone too, because without the runtime's client SIGTERM ends a process before it can save. Called again, it does
    nothing. Where the hosts do not meet within `patience` seconds, the process ends, with a sentence and exit code 2:
    left to itself, the runtime would abort it. Once they have met it does: when a host has given no sign of life for
    `heartbeat` seconds, the runtime says so and aborts the others.
    """
    if jax.distributed.is_initialized():
        return
    late = threading.Timer(patience, _end_unmet, [cluster, patience])
    late.daemon = True
    late.start()
    settings: Any = {"initialization_timeout": 2 * patience, "heartbeat_timeout_seconds": heartbeat}
    try:
        if cluster is None:
            jax.distributed.initialize(**settings)
        else:
            jax.distributed.initialize(*cluster, cluster_detection_method="deactivate", **settings)
    except ValueError as error:
        # JAX raises this, and nothing more telling, where it finds no cluster in the environment.
        if "coordinator_address" not in str(error):
            raise
        # Without it several devices of one process would talk over sockets too, and abort when their messages cross.
        jax.config.update("jax_cpu_collectives_implementation", None)
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        alone = f"localhost:{port}"  # where JAX would listen to every machine, and let each take part
        jax.distributed.initialize(alone, num_processes=1, process_id=0, coordinator_bind_address=alone)
    finally:
        late.cancel()


def _end_unmet(cluster: Cluster | None, seconds: int) -> None:
    who = "The hosts that the environment names" if cluster is None else f"{cluster.hosts} hosts"
    where = "" if cluster is None else f" at {cluster.coordinator}"
    each = "" if cluster is None else f", with --host_id 0 to {cluster.hosts - 1}"
    print(
        f"error: {who} did not meet{where} in {seconds} s. Start the same command on each{each}; the address must be"
        " the first one's, and its port open.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


def check_agreement(said: Mapping[str, str]) -> None:
    """Raises ConfigError, on every host, where hosts say other things; it names them."""
    if jax.process_count() == 1:
        return
    digests = [hashlib.sha256(text.encode()).digest() for text in said.values()]
    mine = np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), -1)
    everyone = np.asarray(multihost_utils.process_allgather(mine))
    differs = (everyone != everyone[0]).any(axis=-1)
    if differs.any():
        names = ", ".join(name for name, column in zip(said, differs.T, strict=True) if column.any())
        others = ", ".join(str(host) for host in np.flatnonzero(differs.any(axis=1)))
        raise ConfigError(f"Hosts disagree about {names}: host {others} differs from host 0. Start the same on all.")
