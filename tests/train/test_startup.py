"""What is compiled is kept for the next start, and the time of a start is told by its parts."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_run import experiment, held_out_losses

from research.config import override
from research.train.startup import Startup, process_began

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys, jax
from research.train.compilation import enable_compilation_cache
from research.parallel.hosts import Cluster, initialize_hosts
from research.train.startup import Startup

if len(sys.argv) > 1:
    initialize_hosts(Cluster(sys.argv[1], 2, int(sys.argv[2])))
startup = Startup()
enable_compilation_cache()
print("result", jax.jit(lambda x: x * 3 + 1)(2.0))
startup.done("all")
print("kept", startup.kept, "of", startup.programs, jax.config.jax_compilation_cache_dir)
"""


def start(cache: Path, *arguments: str, **variables: str) -> subprocess.Popen:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    environment |= {"JAX_PLATFORMS": "cpu", "KINTSUGI_CACHE": str(cache), "NPROC": "2"} | variables
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environment, **pipes)


def output_of(process: subprocess.Popen) -> str:
    text = process.communicate(timeout=300)[0]
    assert process.returncode == 0, text
    return text


def compute(cache: Path, *arguments: str, **variables: str) -> str:
    text = output_of(start(cache, "-c", PROGRAM, *arguments, **variables))
    assert "result 7.0" in text
    return text


@pytest.mark.slow
def test_a_second_start_compiles_nothing_and_gives_the_same_numbers(tmp_path: Path) -> None:
    config = override.to_json(experiment(tmp_path))
    (tmp_path / "experiment.py").write_text(
        f"from research.config import override\ndef get_config(): return override.from_json({config!r})"
    )
    for name in ("first", "second"):
        command = ("-m", "scripts.train", str(tmp_path / "experiment.py"), "--run_dir", str(tmp_path / name))
        text = output_of(start(tmp_path / "cache", *command))
        assert "First step after " in text
    first, second = (json.loads((tmp_path / name / "history.jsonl").read_text()) for name in ("first", "second"))
    assert first["programs_kept"] == 0
    assert second["programs_kept"] == second["programs"] == first["programs"] > 2
    assert held_out_losses(tmp_path / "first") == held_out_losses(tmp_path / "second")
    for seconds in (first["startup_seconds"], second["startup_seconds"]):
        assert sum(seconds.values()) == pytest.approx(2 * seconds["all"], abs=0.01)
        assert seconds["imports"] > 0.3  # the process's own beginning counts, not the script's
    assert second["startup_seconds"]["compiling"] < first["startup_seconds"]["compiling"] / 2


def test_a_damaged_entry_ends_nothing_and_is_made_anew(tmp_path: Path) -> None:
    assert "kept 0 of" in compute(tmp_path)
    (entry,) = (tmp_path / "compiled").glob("jit__lambda*-cache")
    whole = entry.read_bytes()
    for damaged in (b"garbage", whole[: len(whole) // 2], b"", whole[:900] + bytes([whole[900] ^ 1]) + whole[901:]):
        entry.write_bytes(damaged)
        assert "The cached program jit__lambda" in compute(tmp_path)
        assert len(entry.read_bytes()) == pytest.approx(len(whole), rel=0.1)
    text = compute(tmp_path)
    assert re.search(r"kept (\d+) of \1 ", text)
    assert "is damaged" not in text


def test_a_cache_that_cannot_be_written_is_reported_once_and_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    text = compute(tmp_path / "file")
    assert text.count("Compiled programs are not cached: ") == 1
    assert "cannot be written (Not a directory). Set KINTSUGI_CACHE" in text
    assert text.count("\n") == 3


def test_jax_own_variables_are_heeded(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    assert str(elsewhere) in compute(tmp_path / "cache", JAX_COMPILATION_CACHE_DIR=str(elsewhere))
    assert "None" in compute(tmp_path / "cache", JAX_ENABLE_COMPILATION_CACHE="0")
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False])
def test_hosts_keep_what_they_compile_where_all_of_them_find_it(tmp_path: Path, shared: bool) -> None:
    """Else one might find what another must compile, which GPUs do together."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    caches = [tmp_path / "0", tmp_path / ("0" if shared else "1")]
    hosts = [start(cache, "-c", PROGRAM, address, str(host)) for host, cache in enumerate(caches)]
    texts = [output_of(host) for host in hosts]
    assert all(text.endswith(f"{tmp_path / '0' / 'compiled' if shared else None}\n") for text in texts)
    assert ("the hosts do not share" in texts[0]) == (not shared)
    assert "not cached" not in texts[1]
    assert not list(tmp_path.glob("*/compiled/shared-*"))


def test_parts_add_up_and_compiling_is_apart() -> None:
    startup = Startup()
    time.sleep(0.05)
    startup._on_duration("/jax/core/compile/backend_compile_duration", 0.03)
    startup.done("state")
    facts = startup.finish()
    seconds = facts["startup_seconds"]
    assert seconds["compiling"] == 0.03
    assert 0.02 <= seconds["state"] < 0.05
    assert (facts["programs"], facts["programs_kept"]) == (1, 0)
    assert "state 0.0, compiling 0.0" in startup.describe()


def test_when_this_process_began() -> None:
    import jax  # noqa: F401 (which took time)

    assert 0.3 < time.monotonic() - process_began() < 3600 * 10
