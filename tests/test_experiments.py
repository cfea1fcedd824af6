"""Every experiment file builds, fits its own model, shards over 8 devices and survives JSON."""

import ast
import re
from pathlib import Path

import jax
import pytest

from research import Denoising, Mesh, Supervised
from research.config.load import load_experiment, load_published, load_sweep
from research.config.override import apply, from_json, to_json
from research.model.flops import parameter_count
from research.model.transformer import abstract_params
from research.parallel.mesh import check_divisible, make_mesh
from research.sweep.variants import matched, variants
from research.train.step import abstract_state, state_shardings

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path for path in (ROOT / "experiments").rglob("*.py") if path.name != "__init__.py")
SWEEPS = [path for path in FILES if "\ndef sweep()" in path.read_text()]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_experiment_builds_shards_and_round_trips(path: Path) -> None:
    config = load_experiment(path)
    assert from_json(to_json(config)) == config
    for inputs, targets in widths(config.data):
        assert inputs <= config.data.input_length
        assert config.model.longest is None or max(inputs, targets) <= config.model.longest
    # A published vocabulary may be odd: its rows cannot be split, and the model is whole on every device.
    split = config.model.vocab_size % 2 == 0
    mesh = make_mesh(Mesh(data=2, fsdp=2, tensor=2) if split else Mesh(data=8))
    check_divisible(config, mesh)
    state, placed = abstract_state(config), state_shardings(config, mesh)
    held = sum(
        leaf.dtype.itemsize * _size(where.shard_shape(leaf.shape))
        for leaf, where in zip(jax.tree.leaves(state), jax.tree.leaves(placed), strict=True)
    )
    whole = sum(leaf.dtype.itemsize * leaf.size for leaf in jax.tree.leaves(state))
    assert held < 0.3 * whole if split else held == whole


def widths(data: Denoising | Supervised) -> list[tuple[int, int]]:
    """Tokens a row of encoder and decoder."""
    if isinstance(data, Supervised):
        return [(data.input_length, data.target_length)]
    found = [denoiser.objective.lengths(data.input_length, controls=2) for denoiser in data.denoisers]
    return [(each.inputs, each.targets) for each in found]


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_experiment_is_one_expression_under_a_docstring_with_its_command(path: Path) -> None:
    tree = ast.parse(path.read_text())
    commands = [f"python -m scripts.{script} {path.relative_to(ROOT)}" for script in ("train", "sweep")]
    assert any(command in (ast.get_docstring(tree) or "") for command in commands)
    (function,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "get_config"]
    assert [type(node) for node in function.body] == [ast.Return]


# The papers' models, and what rows of embedding for a vocabulary that shards divide add to them.
PARAMETERS = {
    "t5/v1_1_small_c4.py": 76_961_152,
    "t5/v1_1_base_c4.py": 247_577_856,
    "t5/v1_1_large_c4.py": 783_150_080,
    "t5/v1_1_xl_c4.py": 2_849_757_184,
    "t5/v1_1_xxl_c4.py": 11_135_332_352,
    "t5/nanot5_base_c4.py": 247_577_856,
    "t5/ul2_base_c4.py": 247_577_856,
    "bart/base.py": 139_420_416 + 7 * 768,
    "bart/large.py": 406_291_456 + 7 * 1024,
    "mbart/cc25.py": 610_851_840 + 5 * 1024,
    "finetune/cnn_dailymail_bart_large.py": 406_291_456,
    "finetune/wmt16_mbart.py": 610_851_840,
    "finetune/squad_t5_base.py": 222_903_552,
    "marian/wmt14_base.py": 60_554_496,
    "reproductions/t5_objectives.py": 222_903_552,
    "reproductions/t5_repeats.py": 222_903_552,
    "reproductions/t5_architectures.py": 222_903_552,
    "reproductions/nanot5_optimizers.py": 247_577_856,
    "reproductions/bart_noise.py": 139_420_416 + 7 * 768,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_full_sizes_have_the_parameters_of_the_published_models(name: str) -> None:
    config = load_experiment(ROOT / "experiments" / name)
    assert parameter_count(abstract_params(config.model)) == PARAMETERS[name]


def test_every_other_experiment_is_small() -> None:
    others = {str(path.relative_to(ROOT / "experiments")) for path in FILES} - PARAMETERS.keys()
    for name in others:
        assert parameter_count(abstract_params(load_experiment(ROOT / "experiments" / name).model)) < 10e6


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_can_be_applied(path: Path) -> None:
    found = variants(load_experiment(path), load_sweep(path))
    assert len(found) > 0
    for table in matched(load_published(path), found):
        assert [row for row in table["rows"] if not row["variants"]] == []


def test_every_experiment_is_in_the_index() -> None:
    index = (ROOT / "experiments" / "README.md").read_text()
    assert [name for path in FILES if f"]({(name := str(path.relative_to(ROOT / 'experiments')))})" not in index] == []


# --- What is documented can be typed ----------------------------------------------------------------------------------

OVERRIDE = re.compile(r"--config\.([\w.]+)=('[^']*'|[^\s`,;)]+)")


def overrides_in(text: str) -> list[tuple[str, str]]:
    """Paths and values, but for those that stand for any."""
    found = [(path, " ".join(value.strip("'").split()).rstrip(".")) for path, value in OVERRIDE.findall(text)]
    return [(path, value) for path, value in found if value not in ("MORE", "N", "value") and "..." not in value]


def readme_commands() -> list[tuple[str, dict[str, str]]]:
    """The indented commands with overrides, each with the experiment that it, or the last one before it, trains."""
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("    ")]
    found, experiment = [], ""
    for command in re.sub(r"\\\n|\n {8,}", " ", "\n".join(lines)).splitlines():
        experiment = next(iter(re.findall(r"experiments/[\w/]+\.py", command)), experiment)
        if overrides := overrides_in(command):
            found.append((experiment, dict(overrides)))
    return found


@pytest.mark.parametrize(("experiment", "overrides"), readme_commands(), ids=lambda value: str(value)[:40])
def test_overrides_in_the_readme_are_taken(experiment: str, overrides: dict[str, str]) -> None:
    config = load_experiment(ROOT / experiment)
    assert apply(config, overrides) != config


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_overrides_in_docstrings_are_taken(path: Path) -> None:
    config = load_experiment(path)
    for name, value in overrides_in(ast.get_docstring(ast.parse(path.read_text())) or ""):
        apply(config, {name: value})
