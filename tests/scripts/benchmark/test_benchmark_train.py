"""The benchmark of the training step: its figures belong together, and it needs no library of the data pipeline."""

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from research import Mesh
from research.config import ConfigError
from research.model.family import preset
from research.model.flops import train_flops
from scripts.benchmark.train import experiment_of, main, mesh_of, parser, synthetic_batch

ROOT = Path(__file__).parents[3]
TINY = {"vocab_size": 64, "width": 32, "heads": 8, "head_width": 4, "feed_forward": 48, "encoder_layers": 1}
ARGUMENTS = [
    *("--batch_size", "8", "--input_length", "16", "--target_length", "6", "--mesh", "data=2,fsdp=2,tensor=2"),
    *("--steps", "1", "--rounds", "2", "--warmup", "1", "--gemm", "64"),
    *(f"--config.model.{name}={value}" for name, value in TINY.items()),
]


def test_figures_agree_with_each_other_and_with_the_table(tmp_path, capsys):
    assert main([*ARGUMENTS, "--json", str(tmp_path / "result.json")]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    flops = train_flops(preset("t5_v1_1/small", **TINY), 16, 6)
    assert result["flops_per_sequence"] == flops
    for i, seconds in enumerate(result["step_seconds"]):
        assert result["sequences_per_second"][i] == pytest.approx(8 / seconds)
        assert result["tokens_per_second"][i] == pytest.approx(8 * 22 / seconds)
        assert result["mfu_by_matrix_product"][i] == pytest.approx(8 * flops / seconds / result["ceiling_flops"][i])
    assert result["mfu_by_data_sheet"] is None  # a CPU has none
    assert result["hardware"]["devices"] == 8
    assert result["memory"]["foreseen_bytes"] > result["memory"]["temporary_bytes"] > 0
    shown = capsys.readouterr().out
    assert f"{result['parameters']:,} parameters" in shown
    assert result["commit"] in shown


def test_packed_rows_hold_examples_of_about_equal_length_and_the_program_is_kept(tmp_path, capsys):
    paths = {name: tmp_path / name for name in ("json", "hlo")}
    arguments = [f"--{name}={path}" for name, path in paths.items()]
    assert main([*ARGUMENTS, *arguments, "--packed", "3", "--config.model.dropout=0.1"]) == 0
    assert json.loads(paths["json"].read_text())["packed"] == 3
    assert gzip.decompress(paths["hlo"].read_bytes()).startswith(b"HloModule jit_train_step")
    assert "3 examples packed into each" in capsys.readouterr().out
    options, _ = parser().parse_known_args(ARGUMENTS)
    batch = synthetic_batch(experiment_of(options, {}), 6, packed=4)
    assert batch.encoder_segment_ids[7].tolist() == [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4
    assert batch.decoder_segment_ids[0].tolist() == [1, 1, 2, 3, 3, 4]
    assert batch.decoder_positions[0].tolist() == [0, 1, 0, 0, 1, 0]
    assert batch.decoder_loss_weights.shape == (8, 6)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (["--preset", "t5_v1_1/huge"], "There is no preset 't5_v1_1/huge'"),
        (["--mesh", "data=3"], "there are 8"),
        (["--mesh", "model=2"], "--mesh has 'model=2'"),
        (["--batch_size", "6"], "batch_size / microbatches is 6"),
        (["--rounds", "0"], "--rounds is 0"),
        (["--json", "absent/result.json"], "there is no directory"),
        (["--hlo", "absent/step.gz"], "--hlo absent/step.gz: there is no directory"),
        (["--packed", "7"], "--packed is 7: a row has 16 and 6 tokens"),
        (["--config.model.depth=3"], "depth"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(change, sentence, capsys):
    assert main([*ARGUMENTS, *change]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert sentence in error
    assert error.count("\n") == 1


def test_a_mesh_is_read_axis_by_axis():
    assert mesh_of("fsdp=4,data=2") == Mesh(data=2, fsdp=4)
    assert mesh_of("data=-1") == Mesh(data=-1)
    with pytest.raises(ConfigError, match=r"--mesh has 'data'"):
        mesh_of("data")


def test_it_needs_nothing_but_jax_flax_and_optax_and_the_names_of_shapes():
    names = re.findall(r"^[\w-]+", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    allowed = {"jax", "flax", "optax", "numpy", "jaxtyping", "orbax-checkpoint", "rich"}  # the last two come with flax
    modules = {name.replace("-", "_") for name in names if name not in allowed}
    code = f"import sys; sys.modules.update(dict.fromkeys({modules})); from scripts.benchmark import train"
    code += "; train.experiment_of(train.parser().parse_args([]), {})"  # its data load what is not imported before
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
