"""A model loaded in Python gives what the commands write, and what Hugging Face's PyTorch models compute."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from annotations import unchecked_annotations

from research import Beam, Generation, Mesh, Sampling, load
from research.config import ConfigError
from research.decode.loaded_model import LoadedModel, open_model
from research.decode.search import forward
from research.model.transformer import initial_params
from research.pretrained import find, huggingface
from research.pretrained.tokenizer_files import write_tokenizer
from scripts import generate, score

SOURCES = ["a longer line of text", "short", "The <extra_id_0> of a list."]
TARGETS = ["a list", "b", "another, longer target"]


@pytest.fixture(scope="module")
def directory(tiny_run, tmp_path_factory) -> Path:
    """A Hugging Face directory with weights so large that what is written depends on the line."""
    run, directory = find.find(tiny_run), tmp_path_factory.mktemp("loaded") / "model"
    params = jax.tree.map(lambda leaf: 3 * leaf, initial_params(run.model, jax.random.key(0)))
    huggingface.write_directory(directory, run.model, params, run.tokenizer(), Generation(0, 1, 0))
    return directory


@pytest.fixture(scope="module")
def model(directory) -> LoadedModel:
    return load(directory)


def output_of(script, capsys, *arguments: object) -> list[str]:
    assert script.main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.slow
def test_generate_writes_what_the_command_writes(model, directory, capsys):
    expected = output_of(generate, capsys, directory, "--generation.max_length=6", *SOURCES)
    written = model.generate(SOURCES, max_length=6)
    assert [" ".join(text.splitlines()) for text in written] == expected
    assert len(set(expected)) == 3
    beam = ["--generation.max_length=6", "--generation.method=Beam(3)", "--generation.outputs=2", "--scores"]
    lines = output_of(generate, capsys, directory, *beam, SOURCES[0])
    found = model.hypotheses(SOURCES[:1], max_length=6, method=Beam(3), outputs=2)[0]
    assert [f"{each.score:.4f}\t{' '.join(each.text.splitlines())}" for each in found] == lines
    sampled = ["--generation.max_length=6", "--generation.method=Sampling(temperature=2.0)", "--seed=3"]
    texts = model.generate(SOURCES, max_length=6, method=Sampling(temperature=2.0), seed=3)
    assert [" ".join(text.splitlines()) for text in texts] == output_of(generate, capsys, directory, *sampled, *SOURCES)
    assert texts != written


def test_an_empty_text_has_an_empty_output_and_a_warning(model):
    with pytest.warns(UserWarning, match="1 lines are empty"):
        assert model.generate(["short", ""], max_length=4)[1] == ""


def test_score_gives_what_the_command_gives(model, directory, capsys, tmp_path):
    pairs = "".join(f"{source}\t{target}\n" for source, target in zip(SOURCES, TARGETS, strict=True))
    (tmp_path / "pairs.tsv").write_text(pairs)
    lines = [line.split("\t") for line in output_of(score, capsys, directory, "--input", tmp_path / "pairs.tsv")]
    nll, tokens = model.score(SOURCES, TARGETS)
    assert [(f"{-total:.3f}", str(count)) for total, count in zip(nll, tokens, strict=True)] == [
        (f"{float(total):.3f}", count) for total, count in lines
    ]


def test_logits_are_those_of_the_batch_whatever_the_batches(model):
    logits, batch = model.logits(SOURCES, TARGETS), model.batch(SOURCES, TARGETS)
    assert logits.shape == (*batch.decoder_target_tokens.shape, model.config.vocab_size)
    real = batch.decoder_loss_weights > 0
    assert real.sum(1).tolist() == [len(target) + 1 for target in TARGETS]  # bytes, and EOS
    whole = np.asarray(forward(model.config, model.params, batch))
    np.testing.assert_allclose(logits[real], whole[real], rtol=1e-4, atol=1e-4)
    assert not logits[~real].any()
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    chosen = np.take_along_axis(log_probabilities, batch.decoder_target_tokens[..., None], -1)[..., 0]
    np.testing.assert_allclose(-np.where(real, chosen, 0).sum(1), model.score(SOURCES, TARGETS).nll, rtol=1e-4)
    many = open_model(Path(model_path(model)), batch_size=1)
    again = many.logits(SOURCES * 3, TARGETS * 3)  # nine rows on eight devices: two batches
    np.testing.assert_allclose(again[6:], logits, rtol=1e-4, atol=1e-4)


def model_path(model: LoadedModel) -> str:
    """The directory that the weights of a Hugging Face model are read from."""
    return str(model.weights.params.args[0])  # type: ignore[attr-defined]


@pytest.mark.slow
def test_attention_of_a_layer(model):
    batch = model.batch(SOURCES[:1], TARGETS[:1])
    (s, t), heads = batch.widths, model.config.heads
    shapes = {"encoder": (heads, s, s), "decoder": (heads, t, t), "cross": (heads, t, s)}
    for part, shape in shapes.items():
        weights = model.attention(SOURCES[0], TARGETS[0], layer=0, part=part)
        assert weights.shape == shape
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)


def test_a_mesh_gives_the_same(model, directory):
    on_mesh = load(directory, mesh=Mesh(data=2, tensor=2, fsdp=2), batch_size=2)
    assert on_mesh.generate(SOURCES, max_length=6) == model.generate(SOURCES, max_length=6)
    np.testing.assert_allclose(on_mesh.logits(SOURCES, TARGETS), model.logits(SOURCES, TARGETS), rtol=1e-3, atol=1e-3)


def test_a_run_its_checkpoint_and_a_saved_copy_are_one_model(tiny_run, tmp_path):
    run = load(tiny_run)
    scores = run.score(SOURCES, TARGETS).nll
    np.testing.assert_array_equal(load(tiny_run / "checkpoints" / "2").score(SOURCES, TARGETS).nll, scores)
    assert (load(str(tiny_run / "checkpoints" / "1")).score(SOURCES, TARGETS).nll != scores).all()
    run.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["model_type"] == "t5"
    np.testing.assert_array_equal(load(tmp_path / "saved").score(SOURCES, TARGETS).nll, scores)
    with pytest.raises(ConfigError, match="must not exist, or be an empty directory"):
        run.save(tmp_path / "saved")


def test_other_parameters(model):
    zero = model.with_params(jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), model.params))
    assert not zero.logits(SOURCES, TARGETS).any()
    assert model.logits(SOURCES, TARGETS).any()
    with pytest.raises(ConfigError, match="names and shapes are not those of the model"):
        model.with_params({"embedding": model.params["embedding"]})


@pytest.mark.parametrize(
    ("use", "sentence"),
    [
        (lambda model: model.generate("a text"), "texts must be a list of strings, such as"),
        (lambda model: model.generate([3]), "texts must be a list of strings, such as"),
        (lambda model: model.generate(["a"], max_lenght=3), "max_lenght is no field"),
        (lambda model: model.generate(["a"], max_length="x"), "max_length is 'x': allowed is an integer."),
        (lambda model: model.generate(["a"], method=3), "method is 3: allowed is Greedy()"),
        (lambda model: model.generate(["a"], seed=-1), "seed is -1: it must lie in [0, 2**32)."),
        (lambda model: model.generate(["a"], target_language="de_DE"), "this tokenizer has no language codes"),
        (lambda model: model.score(["a"], []), "There are 1 sources and 0 targets: give equal numbers, at least one."),
        (lambda model: model.logits([], []), "There are 0 sources and 0 targets"),
        (lambda model: model.attention("a", "b", layer=1), "layer is 1: there are 1, from 0 to 0."),
        (lambda model: model.attention("a", "b", layer=0, part="both"), "part is 'both': allowed is encoder"),
        (lambda model: load("absent"), "absent does not exist: give a run directory"),
        (lambda model: load(model_path(model), batch_size=0), "batch_size is 0: it must be above 0."),
        (lambda model: load(model_path(model), compute="int8"), "compute is 'int8': allowed is"),
        (lambda model: load(model_path(model), tokenizer="absent"), "absent is not a tokenizer"),
        (lambda model: load(model_path(model), mesh=Mesh(tensor=3)), "mesh is"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(model, use, sentence):
    with unchecked_annotations(), pytest.raises(ConfigError) as caught:
        use(model)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_weights_are_known_when_they_are_loaded(directory, tmp_path):
    shutil.copytree(directory, tmp_path / "copy")
    weights = tmp_path / "copy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="copy"):
        load(tmp_path / "copy")


@pytest.mark.live
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_live_parity_of_text_with_hugging_face(family, families, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    goldens = pytest.importorskip("scripts.make_goldens")
    tokenizer = families[family]
    options = {"forced_eos_token_id": None} if family == "bart" else {"decoder_start_token_id": 0}
    reference = goldens.build(goldens.VARIANTS[family], seed=4, vocab_size=tokenizer.size, **options)
    reference.save_pretrained(tmp_path)
    write_tokenizer(tokenizer, tmp_path)
    model, theirs = load(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    source, target = "the house and the river", "der Fußgänger"
    ids, labels = (theirs(text, return_tensors="pt").input_ids for text in (source, target))
    with torch.no_grad():
        outputs = reference(input_ids=ids, labels=labels)
        written = reference.generate(ids, max_new_tokens=9, do_sample=False, num_beams=1)[0]
    logits = model.logits([source], [target])
    np.testing.assert_allclose(logits, outputs.logits.numpy(), rtol=1e-4, atol=1e-4 * np.abs(logits).max())
    nll, tokens = model.score([source], [target])
    assert tokens[0] == labels.shape[1]
    assert nll[0] / tokens[0] == pytest.approx(outputs.loss.item(), rel=1e-4)
    (ours,) = model.generate([source], max_length=9)
    assert ours == theirs.decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False)
