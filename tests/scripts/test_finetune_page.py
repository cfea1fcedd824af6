"""The commands of docs/finetune.md on eight devices, from a BART with 50,265 rows, which eight do not divide."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from xla_flags import xla_flags

from research.pretrained.tokenizer_files import read_tokenizer, write_tokenizer
from scripts.plan import main as plan

ROOT = Path(__file__).resolve().parents[2]
SUMMARIZE = ROOT / "experiments" / "finetune" / "summarize.py"
ROWS = 50_265
SMALL = {
    **{"steps": 2, "batch_size": 8, "evaluation.every": 2, "evaluation.rows": 8, "evaluation.examples": 4},
    **{"checkpoint.every": 2, "data.input_length": 32, "data.target_length": 16},
    "optimizer": "AdamW(schedule=Linear(peak=3e-3, warmup=1))",
}


@pytest.fixture(scope="module")
def folder(families, tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("page")
    sizes = {f"{stack}_{name}": 2 for stack in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    wide = dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 32)
    config = transformers.BartConfig(d_model=16, max_position_embeddings=64, **sizes, **wide)
    assert config.vocab_size == ROWS
    transformers.BartForConditionalGeneration(config).save_pretrained(folder / "bart")
    write_tokenizer(families["bart"], folder / "bart")
    lines = [json.dumps({"document": f"the house number {n}", "summary": f"river {n}"}) for n in range(500)]
    (folder / "train.jsonl").write_text("\n".join(lines))
    return folder


def kintsugi(folder: Path, *arguments: str) -> None:
    variables = {"PYTHONPATH": str(ROOT), "XLA_FLAGS": xla_flags(devices=8), "KINTSUGI_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "scripts", *arguments]
    done = subprocess.run(command, cwd=folder, env=os.environ | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.live
@pytest.mark.parametrize("mesh", ["Mesh(fsdp=8)", "Mesh(data=4, tensor=2)"])
def test_a_run_is_trained_evaluated_and_converted(folder, tmp_path, mesh):
    task = f'[Summarization(examples=JSONExamples("{folder}/train.jsonl"))]'
    given = SMALL | {"model": f'Pretrained("{folder}/bart")', "data.tasks": task, "mesh": mesh}
    overrides = [f"--config.{name}={value}" for name, value in given.items()]
    kintsugi(tmp_path, "train", str(SUMMARIZE), "--run_dir", "run", *overrides)
    kintsugi(tmp_path, "evaluate", "run/checkpoints/best", "--split", "held_out", f"--config.mesh={mesh}")
    (scores,) = (tmp_path / "run").glob("evaluations/*/scores.json")
    (result,) = json.loads(scores.read_text())["results"].values()
    assert abs(result["loss"] - np.log(ROWS)) < 1
    kintsugi(tmp_path, "convert", "run/checkpoints/best", "my-model")
    before, after = (load_file(path / "model.safetensors") for path in (folder / "bart", tmp_path / "my-model"))
    assert after["model.shared.weight"].shape == before["model.shared.weight"].shape == (ROWS, 16)
    assert 0 < np.abs(after["model.shared.weight"] - before["model.shared.weight"]).max() < 0.1
    assert read_tokenizer(tmp_path / "my-model").digest == read_tokenizer(folder / "bart").digest
    import transformers

    transformers.BartForConditionalGeneration.from_pretrained(tmp_path / "my-model")


def test_the_shipped_recipe_is_planned_on_eight_chips(capsys):
    recipe = f"{SUMMARIZE}:cnn_dailymail_bart_large"
    for mesh in ("Mesh(fsdp=8)", "Mesh(data=4, tensor=2)"):
        assert plan([recipe, "--hardware", "8xH200", f"--config.mesh={mesh}"]) == 0
        assert "fits (estimated)" in capsys.readouterr().out
