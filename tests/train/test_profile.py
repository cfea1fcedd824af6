"""A trace has the chosen steps, by the names of the model's parts, and changes no number."""

import dataclasses
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from tiny_run import experiment

from research import Profile
from research.config import ConfigError
from research.parallel.mesh import make_mesh
from research.train.loop import train
from research.train.profile import Trace
from research.train.step import compile_eval_step, compile_train_step
from scripts.benchmark.train import synthetic_batch

SCOPES = (
    "encoder", "decoder", "encoder/self_attention", "decoder/self_attention", "decoder/cross_attention",
    "encoder/feed_forward", "decoder/feed_forward", "logits", "loss", "optimizer",
)  # fmt: skip


def scopes(names: str) -> set[str]:
    """Those among the scopes that stand in names of operations, as jit(train_step)/jvp(encoder)/while/.../dot."""
    paths = re.findall(r"jit\(\w+\)/[\w()/,>-]+", names)
    words = [re.findall(r"\w+", path) for path in paths]
    return {scope for scope in SCOPES if any(_in_order(scope.split("/"), word) for word in words)}


def _in_order(parts: list[str], words: list[str]) -> bool:
    rest = iter(words)
    return all(part in rest for part in parts)


@pytest.mark.parametrize("remat", ["none", "full"])
def test_every_part_of_the_compiled_step_has_its_name(tmp_path: Path, remat: str) -> None:
    config = experiment(tmp_path)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, remat=remat))
    mesh, batch = make_mesh(config.mesh), synthetic_batch(config, 12)
    step = compile_train_step(config, mesh, batch).as_text()
    assert scopes(step) == {*SCOPES}
    assert "transpose(jvp(decoder))" in step  # and the gradient of each
    assert scopes(compile_eval_step(config, mesh, batch).as_text()) == {*SCOPES} - {"optimizer"}


@pytest.mark.slow
def test_a_run_writes_a_trace_and_gives_the_same_numbers(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path / "cache"))
    config = experiment(tmp_path, steps=5)
    traced = dataclasses.replace(config, profile=Profile(first=2, steps=2))
    for name, each in (("plain", config), ("traced", traced)):
        assert train(each, tmp_path / name) == 0
    plain, found = (_numbers(tmp_path / name) for name in ("plain", "traced"))
    assert plain == found
    assert len(plain) > 5

    assert f"A trace of 2 steps is in {tmp_path / 'traced' / 'profile'}" in capsys.readouterr().out
    (written,) = (tmp_path / "traced" / "profile").rglob("*.xplane.pb")
    assert list(written.parent.glob("*.trace.json.gz"))
    assert scopes(written.read_bytes().decode("latin-1")) == {*SCOPES}
    assert not (tmp_path / "plain" / "profile").exists()

    # The same run goes on with another trace, and one that comes too late is said to be missing.
    longer = dataclasses.replace(config, steps=7, profile=Profile(first=9))
    assert train(longer, tmp_path / "traced") == 0
    assert "Nothing was traced: the run ended before step 14." in capsys.readouterr().out


def _numbers(run: Path) -> list[str]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [re.sub(r'"\w*second\w*": [\d.e+-]+', "", line) for line in lines]


def test_a_trace_has_its_steps_alone(tmp_path: Path, monkeypatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda where: events.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: events.append("stop"))
    for first, steps, ends in ((1, 1, 3), (2, 2, 5), (2, 9, 3), (9, 1, 3)):
        events.clear()
        with Trace(Profile(first, steps), tmp_path, 100) as trace:
            for number in range(100, 100 + ends):
                trace.begin(number, jnp.zeros(()))
                events.append(str(number + 1 - 100))
                trace.end(number + 1, jnp.zeros(()))
        inside = "".join(events).partition("start")[2].partition("stop")[0]
        assert inside == "".join(str(step) for step in range(first, min(first + steps, ends + 1)))
        assert events.count("start") == events.count("stop") == (first <= ends)


def test_a_profile_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"profile\.steps is 0"):
        Profile(steps=0)
    with pytest.raises(ConfigError, match=r"profile\.first is 0"):
        Profile(first=0)
