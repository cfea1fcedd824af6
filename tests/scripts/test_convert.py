"""scripts.convert: what is written reads back bit for bit, and what cannot be is refused and leaves nothing."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import rewrite

from research import Generation, LayerNorm, MaximalUpdate, Model, Sinusoidal, Standard, Tied
from research.config import override
from research.data.batch import Batch
from research.model.transformer import bind, initial_params
from research.pretrained import find, huggingface, marian
from research.pretrained.tokenizer_files import write_tokenizer
from scripts import generate
from scripts.convert import main


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def same(first, second) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, first, second))


def test_a_run_to_hugging_face_reads_back_bit_for_bit(tiny_run, capsys):
    assert main([str(tiny_run), "written"]) == 0
    assert "written: 19,184 parameters from " in capsys.readouterr().out
    run, found = find.find(tiny_run), find.find(Path("written"))
    assert same(found.params(), run.params())
    assert found.tokenizer().digest == run.tokenizer().digest
    assert os.listdir() == ["written"]
    Path("empty").mkdir()
    assert main(["written", "empty", "--no_tokenizer"]) == 0
    assert same(find.find(Path("empty")).params(), run.params())
    assert not Path("empty/tokenizer_config.json").exists()


def test_a_run_in_mup_is_written_as_a_standard_model_that_computes_the_same(tiny_run):
    shutil.copytree(tiny_run, "run")
    config = override.read(Path("run/config.json"))
    maximal = replace(config.model, parametrization=MaximalUpdate(8, 2, 4, 16))
    rewrite(Path("run"), replace(config, model=maximal))
    assert main(["run", "written"]) == 0
    found = find.find(Path("written"))
    assert found.model.parametrization == Standard()
    standard = replace(found.model, compute="float32")
    inputs = jnp.arange(3, 15)[None]
    logits = [
        bind(model, jax.tree.map(jnp.asarray, params))(Batch(inputs, inputs, inputs))
        for model, params in ((maximal, find.find(Path("run")).params()), (standard, found.params()))
    ]
    np.testing.assert_allclose(*logits, rtol=1e-4, atol=1e-5)


def marian_model(size: int) -> Model:
    return Model(
        size, 16, 2, 8, 24, 1, 1, activation="relu", gated=False, biases=True, norm=LayerNorm(1e-6), norm_first=False,
        positions=Sinusoidal(64, last_included=True), scaled_scores=True, scaled_embedding=True, head=Tied(False),
        logits_bias=True, zero_token=size,
    )  # fmt: skip


def test_marian_to_marian_keeps_weights_and_vocabulary(families):
    Path("in").mkdir()
    model = marian_model(families["marian"].size - 1)
    params = initial_params(model, jax.random.key(0))
    marian.write(Path("in/model.npz"), model, params)
    write_tokenizer(families["marian"], Path("in"))
    assert main(["in/model.npz", "out.npz"]) == 0
    found = find.find(Path("out.npz"))
    assert same(found.params(), params)
    assert found.tokenizer().digest == families["marian"].digest
    assert sorted(os.listdir()) == ["in", "out.npz", "out.tokenizer"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["there"], "there exists: nothing is overwritten, so name a new one."),
        (["file"], "file exists: nothing is overwritten, so name a new one."),
        (["absent/new"], "there is no directory"),
        (["new", "--model.activatoin=silu"], "activatoin is no field"),
        (["new", "--steps=3"], "--steps=3 is not understood: overrides look like --model.activation=silu"),
        (["new", "--model.vocab_size=100"], "The tokenizer has 359 source ids, but the model has rows for 100 only."),
        (["new", "--model.vocab_size=416"], "The parameters' names and shapes are not those of the model's"),
        (["new.npz"], "new.npz"),
        (["new", "--tokenizer=gone"], "gone is not a tokenizer"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(tiny_run, capsys, arguments, sentence):
    Path("there").mkdir()
    Path("there/kept").write_text("")
    Path("file").write_text("")
    assert main([str(tiny_run), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert sentence in err
    assert err.count("\n") == 1
    assert sorted(str(path) for path in Path().rglob("*")) == ["file", "there", "there/kept"]


@pytest.mark.parametrize("target", ["new", "new.npz"])
def test_a_failure_amid_writing_leaves_nothing(tiny_run, families, monkeypatch, target):
    def fail(*_) -> None:
        raise OSError("No space left on device")

    source = tiny_run
    if target == "new.npz":
        source = Path("model.npz")
        model = marian_model(families["marian"].size - 1)
        marian.write(source, model, initial_params(model, jax.random.key(0)))
        write_tokenizer(families["marian"], Path("model.tokenizer"))
    before = sorted(os.listdir())
    monkeypatch.setattr("research.pretrained.tokenizer_files.write_tokenizer", fail)
    with pytest.raises(OSError, match="No space left"):
        main([str(source), target])
    assert sorted(os.listdir()) == before


@pytest.mark.live
def test_transformers_loads_all_of_it_and_writes_the_same(tiny_run, capsys):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    assert main([str(tiny_run), "written"]) == 0
    model, report = transformers.T5ForConditionalGeneration.from_pretrained("written", output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not report[kind], report
    tokenizer = transformers.AutoTokenizer.from_pretrained("written")
    options = generate.parser().parse_args(["written", "x"])
    generator = generate.open_generator(options, {"max_length": "8"})
    lines = ["The part of a list.", "Häuser"]
    framed, _ = generator.prepare(lines)
    ours = {number: found[0].tokens for batch in generator.run(framed) for number, found in batch.items()}
    for number, line in enumerate(lines):
        ids = tokenizer(line, return_tensors="pt").input_ids
        assert ids[0].tolist() == framed[number]
        with torch.no_grad():
            theirs = model.eval().generate(ids, max_new_tokens=8, do_sample=False, num_beams=1)[0, 1:].tolist()
        assert theirs == ours[number]
    assert huggingface.read_generation(Path("written")) == Generation(0, 1, 0)
