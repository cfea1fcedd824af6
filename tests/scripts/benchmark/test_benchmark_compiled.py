"""Budgets of compiled steps: what breaks them, and what the exit code says. Only one test compiles anything."""

import importlib.util
import json
from collections.abc import Callable
from typing import Any

import pytest

from scripts.benchmark import compiled
from scripts.benchmark.compiled import Program, Result, main

FIGURES = {
    "traffic": 100.0e9,
    "kernels": 1000,
    "cycles": 0,
    "memory": {"temporaries": 10 * 2**30, "fits": True},
    "modelled": {"seconds": 0.1, "mfu": 0.4},
}


@pytest.fixture
def compiled_as(monkeypatch, tmp_path) -> Callable[..., None]:
    """Let the programs have these results instead of compiling them, and budgets from a new file."""
    monkeypatch.setattr(compiled, "BUDGETS", tmp_path / "budgets.json")

    def let(result: Result) -> None:
        monkeypatch.setattr(compiled, "compiled", lambda program: result)

    return let


def grown(factor: float, kind: str) -> dict[str, Any]:
    changed = json.loads(json.dumps(FIGURES))
    holder = {"temporaries": changed["memory"], "seconds": changed["modelled"]}.get(kind, changed)
    holder[kind] *= factor
    return changed


def test_what_was_made_a_budget_is_within_it(compiled_as, capsys):
    compiled_as(Result(FIGURES))
    assert main(["--only", "base_h200"]) == 1
    assert "base_h200 has no budget: run --only base_h200 --update." in capsys.readouterr().out
    assert main(["--only", "base_h200", "--update"]) == 0
    assert main(["--only", "base_h200"]) == 0
    assert "100.0 GB" in capsys.readouterr().out
    written = json.loads(compiled.BUDGETS.read_text())
    assert written["programs"]["base_h200"]["figures"]["kernels"] == 1000
    assert {"jax", "libtpu"} <= written["versions"].keys()


@pytest.mark.parametrize("kind", compiled.BUDGETED)
def test_three_per_cent_more_is_red_in_one_line_a_budget(kind, compiled_as, capsys):
    compiled_as(Result(FIGURES))
    main(["--only", "base_h200", "large_h200", "--update"])
    compiled_as(Result(grown(1.029, kind)))
    assert main(["--only", "base_h200", "large_h200"]) == 0
    compiled_as(Result(grown(1.031, kind)))
    capsys.readouterr()
    assert main(["--only", "base_h200", "large_h200"]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if " over its " in line]
    assert [line.split(":")[0] for line in lines] == ["base_h200", "large_h200"]
    assert all(f": {kind} is " in line and "3.1% over" in line for line in lines)


def test_an_update_changes_only_the_programs_that_it_compiled(compiled_as):
    compiled_as(Result(FIGURES))
    main(["--only", "base_h200", "large_h200", "--update"])
    compiled_as(Result(grown(2.0, "kernels")))
    main(["--only", "base_h200", "--update"])
    programs = json.loads(compiled.BUDGETS.read_text())["programs"]
    assert [programs[name]["figures"]["kernels"] for name in ("base_h200", "large_h200")] == [2000, 1000]


def test_a_missing_compiler_is_no_green(compiled_as, capsys):
    compiled_as(Result(FIGURES))
    main(["--only", "base_v6e", "--update"])
    compiled_as(Result(None, "--compile for v6e:1x1 needs libtpu", missing=True))
    assert main(["--only", "base_v6e"]) == 3
    assert "needs libtpu" in capsys.readouterr().out
    assert main(["--only", "base_v6e", "--update"]) == 3
    assert json.loads(compiled.BUDGETS.read_text())["programs"]["base_v6e"]["figures"] is not None


def test_a_program_that_does_not_compile_is_red_unless_it_never_did(compiled_as, capsys):
    fails = Result(None, "The training step does not fit")
    compiled_as(fails)
    assert main(["--only", "base_v5e"]) == 1
    assert "base_v5e does not compile: The training step does not fit" in capsys.readouterr().out
    main(["--only", "base_v5e", "--update"])
    assert main(["--only", "base_v5e"]) == 0
    compiled_as(Result(FIGURES))
    assert main(["--only", "base_v5e"]) == 1, "now it has figures, and needs a budget"
    main(["--only", "base_v5e", "--update"])
    compiled_as(fails)
    assert main(["--only", "base_v5e"]) == 1


def test_bad_input_is_one_sentence(compiled_as, capsys):
    for options, message in (
        (["--only", "base_h20"], "--only base_h20 is not a program; did you mean base_h200?"),
        (["--json", "nowhere/a.json"], "there is no directory"),
    ):
        assert main(options) == 2
        assert message in capsys.readouterr().err


def test_the_budgets_in_the_repository_are_of_these_programs():
    kept = json.loads(compiled.BUDGETS.read_text())["programs"]
    assert kept.keys() <= compiled.PROGRAMS.keys()
    assert kept.keys() >= {name for name in compiled.PROGRAMS if name.endswith("h200")}
    for name, budget in kept.items():
        fields = {field: budget[field] for field in Program._fields if field in budget}
        assert Program(**fields) == compiled.PROGRAMS[name]


def test_a_line_of_decoding_has_its_bytes_beside_the_least():
    decoding = {"times_least": 1.07, "tokens_per_second": 1000.0, "copies": {"copy.1": 5}}
    text = compiled.line("base_greedy_h200", Result(FIGURES | {"decoding": decoding}))
    assert "1.07 x the least bytes, 1,000 tokens/s, copies 1" in text
    assert "least" not in compiled.line("base_h200", Result(FIGURES))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax_cuda12_plugin") is None, reason="needs JAX's CUDA plugin")
def test_a_program_is_compiled_in_a_process_of_its_own(monkeypatch):
    layers = {f"model.{stack}_layers": "1" for stack in ("encoder", "decoder")}
    tiny = Program("experiments/t5/v1_1_c4.py:small", "1xH100", {"batch_size": "2", **layers})
    result = compiled.compiled(tiny)
    assert result.figures is not None, result.message
    assert result.figures["hardware"] == "1xH100"
    wrong = compiled.compiled(tiny._replace(overrides={"batch_size": "-1"}))
    assert wrong.figures is None
    assert "batch_size" in wrong.message
