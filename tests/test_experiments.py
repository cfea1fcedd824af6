"""Every experiment file builds at every size, fits its own model, shards over 8 devices and survives JSON."""

import ast
import gzip
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import jax
import pytest

from research import Denoising, Experiment, Mesh, Pretrained, Supervised
from research.config.classes import RENAMED
from research.config.load import open_experiment
from research.config.override import apply, as_text, from_json, to_json
from research.model.flops import parameter_count
from research.model.transformer import abstract_params
from research.parallel.mesh import check_divisible, make_mesh
from research.sweep.variants import matched, variants
from research.train.state import abstract_state

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "experiments"
FILES = sorted(path for path in FOLDER.rglob("*.py") if "\ndef get_config(" in path.read_text())
SWEEPS = [path for path in FILES if "\ndef sweep(" in path.read_text()]


def sizes(path: Path) -> list[str]:
    """The sizes that the annotation of get_config() lists; one empty text where there are none."""
    (function,) = [node for node in ast.parse(path.read_text()).body if getattr(node, "name", "") == "get_config"]
    assert isinstance(function, ast.FunctionDef)
    literals = [
        node for argument in function.args.args for node in ast.walk(argument) if isinstance(node, ast.Constant)
    ]
    return [f":{node.value}" for node in literals] or [""]


def name_of(path: Path) -> str:
    return str(path.relative_to(FOLDER))


EXPERIMENTS = [name_of(path) + size for path in FILES for size in sizes(path)]


def config_of(name: str) -> Experiment:
    return open_experiment(f"{FOLDER}/{name}").config


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_builds_shards_and_round_trips(name: str) -> None:
    config = config_of(name)
    assert from_json(to_json(config)) == config
    for inputs, targets in widths(config.data):
        assert inputs <= config.data.input_length
        assert config.model.longest is None or max(inputs, targets) <= config.model.longest
    mesh = make_mesh(Mesh(data=2, fsdp=2, tensor=2))
    check_divisible(config, mesh)
    whole, placed = jax.tree.leaves(abstract_state(config)), jax.tree.leaves(abstract_state(config, mesh))
    held = sum(leaf.dtype.itemsize * _size(leaf.sharding.shard_shape(leaf.shape)) for leaf in placed)
    assert held < 0.3 * sum(leaf.dtype.itemsize * leaf.size for leaf in whole)


def widths(data: Denoising | Supervised) -> list[tuple[int, int]]:
    """Tokens a row of encoder and decoder."""
    if isinstance(data, Supervised):
        return [(data.input_length, data.target_length)]
    found = [denoiser.objective.lengths(data.input_length, num_special_tokens=2) for denoiser in data.denoisers]
    return [(each.inputs, each.targets) for each in found]


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_experiment_is_one_expression_under_a_docstring_with_its_command(path: Path) -> None:
    tree = ast.parse(path.read_text())
    command = rf"(python -m scripts\.|kintsugi )(train|sweep) {path.relative_to(ROOT)}(:\w+)? "
    assert re.search(command, ast.get_docstring(tree) or "")
    (function,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "get_config"]
    assert [type(node) for node in function.body] == [ast.Return]


# The papers' models.
PARAMETERS = {
    "t5/v1_1_c4.py:small": 76_961_152,
    "t5/v1_1_c4.py:base": 247_577_856,
    "t5/v1_1_c4.py:large": 783_150_080,
    "t5/v1_1_c4.py:xl": 2_849_757_184,
    "t5/v1_1_c4.py:xxl": 11_135_332_352,
    "t5/multitask.py:small": 60_506_624,
    "t5/multitask.py:base": 222_903_552,
    "t5/multitask.py:large": 737_668_096,
    "t5/multitask.py:3b": 2_851_598_336,
    "t5/multitask.py:11b": 11_307_321_344,
    "t5/nanot5_base_c4.py": 247_577_856,
    "t5/ul2_base_c4.py": 247_577_856,
    "mt5/mc4.py:small": 300_176_768,
    "mt5/mc4.py:base": 582_401_280,
    "mt5/mc4.py:large": 1_229_581_312,
    "mt5/mc4.py:xl": 3_742_619_648,
    "mt5/mc4.py:xxl": 12_921_057_280,
    "byt5/mc4.py:small": 299_637_760,
    "byt5/mc4.py:base": 581_653_248,
    "byt5/mc4.py:large": 1_228_183_552,
    "byt5/mc4.py:xl": 3_737_801_728,
    "byt5/mc4.py:xxl": 12_906_899_328,
    "hplt/t5.py:small": 87_969_408,
    "hplt/t5.py:base": 275_029_248,
    "hplt/t5.py:large": 807_070_720,
    "bart/bart.py:base": 139_420_416,
    "bart/bart.py:large": 406_291_456,
    "mbart/cc25.py": 610_851_840,
    "finetune/summarize.py:cnn_dailymail_bart_large": 406_291_456,
    "finetune/translate.py:wmt16_mbart": 610_851_840,
    "finetune/answer.py:squad_t5_base": 222_903_552,
    "marian/wmt14_base.py": 60_554_496,
    "flan/flan.py:xl": 2_849_757_184,
    "marian/flax_wmt17.py": 209_129_472,
    "marian/algoperf_wmt.py": 133_595_136,
    "marian/joeynmt_iwslt14.py": 19_252_224,
    "reproductions/t5_objectives.py": 222_903_552,
    "reproductions/t5_repeats.py": 222_903_552,
    "reproductions/t5_architectures.py": 222_903_552,
    "reproductions/t5_downstream.py": 222_903_552,
    "reproductions/nanot5_optimizers.py": 247_577_856,
    "reproductions/bart_noise.py": 139_420_416,
}
# Files whose sizes are tasks of one model.
ONE_MODEL = {
    "t5/finetune.py": 222_903_552,
    "mt5/finetune.py": 582_401_280,
    "byt5/finetune.py": 581_653_248,
    "bart/finetune.py": 406_291_456,
}
PARAMETERS |= {name + size: count for name, count in ONE_MODEL.items() for size in sizes(FOLDER / name)}


@pytest.mark.parametrize("name", PARAMETERS)
def test_full_sizes_have_the_parameters_of_the_published_models(name: str) -> None:
    assert parameter_count(abstract_params(config_of(name).model)) == PARAMETERS[name]


def test_every_other_experiment_is_small() -> None:
    for name in set(EXPERIMENTS) - PARAMETERS.keys():
        assert parameter_count(abstract_params(config_of(name).model)) < 10e6


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_can_be_applied(path: Path) -> None:
    file = open_experiment(path)
    found = variants(file.config, file.sweep)
    assert len(found) > 0
    for table in matched(file.published, found):
        assert [row for row in table["rows"] if not row["variants"]] == []


# The contents of each file of commit a1b8262, where sizes were files. A number that changes there on purpose
# is another experiment: it gets a file or a size of its own, or loses its line here with the reason in the commit.
GOLDEN = json.loads(gzip.decompress((ROOT / "tests" / "goldens" / "experiments.json.gz").read_bytes()))
MOVED = {f"t5/v1_1_{size}_c4.py": f"t5/v1_1_c4.py:{size}" for size in ("small", "base", "large", "xl", "xxl")}
MOVED |= {f"bart/{size}.py": f"bart/bart.py:{size}" for size in ("base", "large")}
MOVED |= {
    f"finetune/{file}.py": f"finetune/{name}"
    for file, name in (
        ("python_summaries", "summarize.py:python"),
        ("dialogsum", "summarize.py:dialogsum"),
        ("xquad", "answer.py:xquad"),
        ("squad_t5_base", "answer.py:squad_t5_base"),
        ("wmt16_mbart", "translate.py:wmt16_mbart"),
    )
}


@pytest.mark.parametrize("name", GOLDEN)
def test_experiments_are_equal_to_those_of_the_files_that_were_copies(name: str) -> None:
    file, golden = open_experiment(f"{FOLDER}/{MOVED.get(name, name)}"), GOLDEN[name]
    assert spelt_out(file.config) == from_json(json.dumps(golden["config"]))
    assert file.has("sweep") == ("sweep" in golden)
    if "sweep" in golden:
        assert [apply(file.config, change) for change in file.sweep] == [
            apply(file.config, change) for change in golden["sweep"]
        ]
        assert [list(change) for change in file.sweep] == [list(change) for change in golden["sweep"]]
        assert [
            [table.source, list(table.scores), [[_texts(row), list(values)] for row, values in table.rows],
             list(table.lower_is_better)]
            for table in file.published
        ] == [
            [source, scores, [[_renamed(row), values] for row, values in rows], lower]
            for source, scores, rows, lower in golden["published"]
        ]  # fmt: skip


def spelt_out(config: Experiment) -> Experiment:
    """The experiment as the files were that named a model's fields, weights, tokenizer and generation one by one."""
    if not isinstance(config.model, Pretrained):
        return config
    assert config.model.tokenizer is not None
    return replace(
        config,
        model=config.model.plain,
        init=config.weights,
        data=replace(config.data, tokenizer=config.model.tokenizer),
        evaluation=replace(config.evaluation, generation=config.generation),
    )


def _texts(row: Mapping[str, object]) -> dict[str, str]:
    return {name: value if isinstance(value, str) else as_text(value) for name, value in row.items()}


def _renamed(row: Mapping[str, str]) -> dict[str, str]:
    """Overrides of the golden with the present names of their classes."""
    return {
        name: re.sub(r"\w+(?=\()", lambda match: RENAMED.get(match[0], match[0]), text) for name, text in row.items()
    }


# --- The index --------------------------------------------------------------------------------------------------------

INDEX = (FOLDER / "README.md").read_text()
ROWS = {row[1]: row[0] for row in re.findall(r"^(\| \[[^\]]+\]\(([^)]+\.py)\) \|.*)$", INDEX, re.MULTILINE)}


def test_the_index_has_every_experiment_and_no_other() -> None:
    assert sorted(ROWS) == sorted(map(name_of, FILES))
    for path in FILES:
        assert all(f"`{size}`" in ROWS[name_of(path)] for size in sizes(path) if size), path


@pytest.mark.parametrize("name", ROWS)
def test_the_index_says_where_the_result_is_or_that_it_was_not_run(name: str) -> None:
    status = ROWS[name].rstrip(" |").rpartition(" | ")[2]
    not_run = "not run yet" in (ast.get_docstring(ast.parse((FOLDER / name).read_text())) or "")
    assert (status == "not run") == not_run
    links = re.findall(r"\]\(([^)]+)\)", status)
    assert bool(links) != not_run
    assert all((FOLDER / link).is_file() for link in links)
    for date in re.findall(r"\[LOG.md, (\S+)\]", status):
        assert f"\n## {date}" in (FOLDER / "LOG.md").read_text()


PAGES = [
    *(
        ROOT / "README.md",
        ROOT / "SECURITY.md",
        *(ROOT / "docs").rglob("*.md"),
        FOLDER / "LOG.md",
        FOLDER / "README.md",
    ),
    *(path for path in (ROOT / "scripts").rglob("*") if path.suffix in (".py", ".md", ".sh", ".sbatch", ".yaml", "")),
    *(FOLDER / "results").rglob("*.json"),
]
PLACEHOLDERS = ("NAME", "FILE", "x", "MINE")


def test_every_experiment_that_a_page_names_is_there() -> None:
    texts = {path: path.read_text() for path in (*filter(Path.is_file, PAGES), *FILES)}
    named = {
        (path, name + one)
        for path, text in texts.items()
        for name, size in re.findall(r"experiments/([\w/]+\.py)(:\w+|:\{[\w,]+\})?", text)
        for one in ([f":{each}" for each in size[2:-1].split(",")] if "{" in size else [size])
        if Path(name).stem not in PLACEHOLDERS
    }
    assert len(named) > 50
    known = {*EXPERIMENTS, *map(name_of, FILES)}
    assert sorted((str(path), name) for path, name in named if name not in known) == []


# --- What is documented can be typed ----------------------------------------------------------------------------------

OVERRIDE = re.compile(r"--config\.([\w.]+)=('[^']*'|[^\s`,;)]+)")


def overrides_in(text: str) -> list[tuple[str, str]]:
    """Paths and values, but for those that stand for any."""
    found = [(path, " ".join(value.strip("'").split()).rstrip(".")) for path, value in OVERRIDE.findall(text)]
    return [(path, value) for path, value in found if value not in ("MORE", "N", "value") and "..." not in value]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
@pytest.mark.usefixtures("any_directory")
def test_overrides_in_docstrings_are_taken(path: Path) -> None:
    config = open_experiment(path).config
    for name, value in overrides_in(ast.get_docstring(ast.parse(path.read_text())) or ""):
        apply(config, {name: value})
