"""Tasks of lm-evaluation-harness on our models. Without lm_eval these tests are skipped."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from research import Generation
from research.config import ConfigError
from research.decode.loaded_model import LoadedModel, load
from research.model.transformer import initial_params
from research.pretrained import find, huggingface
from research.pretrained.tokenizer_files import write_tokenizer
from scripts import harness

ROWS = [{"question": f"number {number}?", "choices": ["even", "odd"], "label": number % 2} for number in range(6)]
TASKS = {
    "choice": "output_type: multiple_choice\ndoc_to_text: '{{question}}'\ndoc_to_choice: '{{choices}}'\n"
    "doc_to_target: label\nmetric_list: [{metric: acc}]\n",
    "writing": "output_type: generate_until\ndoc_to_text: '{{question}}'\ndoc_to_target: '{{choices[label]}}'\n"
    "generation_kwargs: {until: ['a'], max_gen_toks: 6}\nmetric_list: [{metric: exact_match}]\n",
    "rolling": "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{question}}'\n"
    "metric_list: [{metric: word_perplexity}]\n",
}


@pytest.fixture(scope="module")
def directory(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run, directory = find.find(tiny_run), tmp_path_factory.mktemp("model") / "model"
    params = jax.tree.map(lambda leaf: 3 * leaf, initial_params(run.model, jax.random.key(0)))
    huggingface.write(directory, run.model, params, Generation(0, 1, 0))
    write_tokenizer(run.tokenizer(), directory)
    return directory


@pytest.fixture(scope="module")
def model(directory: Path) -> LoadedModel:
    return load(directory, batch_size=8)


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for name, text in TASKS.items():
        head = f"task: own_{name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {rows}}}}}\n"
        (tmp_path / f"{name}.yaml").write_text(head + "test_split: test\n" + text)
    return tmp_path


def test_likelihoods_are_those_of_the_text_without_its_end(model: LoadedModel) -> None:
    pairs = [("number 3? ", "odd"), ("", "x")]
    found = harness.likelihoods(model, pairs)
    for (total, greedy), source, target in zip(found, ("number 3?", ""), (" odd", "x"), strict=True):
        logits, ids = model.logits([source], [target])[0], model.batch([source], [target]).decoder_target_tokens[0]
        rows = np.asarray(jax.nn.log_softmax(logits, -1))[:-1]
        ids = np.asarray(ids)[: len(rows)]
        assert total == pytest.approx(float(rows[np.arange(len(ids)), ids].sum()), rel=1e-5)
        assert greedy == bool((rows.argmax(-1) == ids).all())


def test_outputs_end_before_the_strings_of_the_task(model: LoadedModel) -> None:
    (whole,) = model.generate(["number 3?"], max_length=8)
    settings: dict[str, Any] = {"until": [whole[2], "\n\n"], "max_gen_toks": 8, "do_sample": False}
    assert harness.outputs(model, ["number 3?"], settings) == [whole[: whole.index(whole[2])]]
    with pytest.raises(ConfigError, match="A task sets top_k for its outputs: only do_sample, max_gen_toks, temp"):
        harness.outputs(model, ["x"], settings | {"top_k": 3})


def test_the_harness_scores_its_tasks(directory: Path, tasks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lm_eval")
    shared = [f"--include_path={tasks}", f"--output={tasks}/out.json", "--tasks"]
    assert harness.main([str(directory), *shared, "own_choice", "own_writing"]) == 0
    results = json.loads((tasks / "out.json").read_text())["results"]
    loaded = load(directory)
    best = [
        max(
            (0, 1),
            key=lambda place: harness.likelihoods(loaded, [(row["question"], f" {row['choices'][place]}")])[0][0],
        )
        for row in ROWS
    ]
    right = np.mean([chosen == row["label"] for chosen, row in zip(best, ROWS, strict=True)])
    assert results["own_choice"]["acc,none"] == pytest.approx(right)
    assert results["own_writing"]["exact_match,none"] == 0
    (tasks / "out.json").unlink()
    assert harness.main([str(directory), *shared, "own_rolling"]) == 2
    assert "which an encoder-decoder does not have" in capsys.readouterr().err
    assert harness.main([str(directory), *shared, "none_such"]) == 2
    assert "The harness has no task none_such" in capsys.readouterr().err


def test_requests_keep_their_order(model: LoadedModel) -> None:
    pytest.importorskip("lm_eval")
    wanted = [("a", {"max_gen_toks": 3}), ("b", {"max_gen_toks": 5}), ("c", {"max_gen_toks": 3})]
    found = harness.adapted(model).generate_until([SimpleNamespace(args=args) for args in wanted])
    assert found == [model.generate([text], max_length=own["max_gen_toks"])[0] for text, own in wanted]
