"""Tests run on 8 simulated CPU devices, with every annotated shape checked."""

import os
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from xla_flags import xla_flags

os.environ["JAX_PLATFORMS"] = "cpu"
# XLA's thread pool. Collectives wait on threads of it, and on two cores 8 devices can wait on one another for ever.
os.environ["NPROC"] = "32"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {xla_flags(devices=8)}"

from jaxtyping import install_import_hook

install_import_hook("research", "beartype.beartype")

# Once for all tests of a process: small runs, and a small tokenizer of each family.
from any_directory import any_directory  # noqa: E402
from browser import chromium, opened  # noqa: E402
from older_transformers import older_python  # noqa: E402
from real_runs import folder  # noqa: E402
from tiny_run import tiny_run  # noqa: E402
from vocabularies import families, files  # noqa: E402

TESTS = Path(__file__).resolve().parent

__all__ = ["any_directory", "chromium", "families", "files", "folder", "older_python", "opened", "tiny_run"]


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """Forget the variables that a test sets, or a module that it imports: processes of later tests would have them."""
    before = dict(os.environ)
    yield
    if os.environ != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(autouse=True, scope="module")
def few_memory_maps() -> Iterator[None]:
    """Forget compiled programs when there are many: the kernel aborts a process at 65,530 memory maps."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_text().count("\n") > 20_000:
        import jax

        jax.clear_caches()


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that nothing is in yet."""
    monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pytest_addoption(parser) -> None:
    parser.addoption("--soak", type=int, default=4, help="how often tests/faults/test_soak.py kills its run")
    parser.addoption("--all", action="store_true", help="run the slow tests and live parity too")
    parser.addoption("--nightly", action="store_true", help="run the tests that take minutes each too")


def pytest_collection_modifyitems(config, items) -> None:
    """Leave out by their marks what is not asked for. Tests whose files are named run also without --all."""
    named = any(Path(argument).resolve() != TESTS for argument in config.args)
    marks = [] if config.getoption("--nightly") else ["nightly"]
    marks += [] if config.getoption("--all") or named else ["slow", "live"]
    marks += [] if find_spec("torch") and find_spec("transformers") else ["live"]
    left_out = [item for item in items if any(map(item.get_closest_marker, marks))]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_configure() -> None:
    # A shell starts background commands with these ignored, and so would be what tests start.
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    import jax

    from research.parallel.hosts import initialize_hosts

    jax.config.update("jax_enable_compilation_cache", False)  # in this process: what one test compiles, no other finds
    initialize_hosts()  # before anything else of JAX, as in every run: some tests train in this process
