"""A trained model is recognised wherever it lies, and a run that starts from it starts from that very model."""

import argparse
import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import test_t5x
from native_marian import VARIANTS, YAML, make, save
from tiny_run import experiment, held_out_losses, rewrite

from research import (
    AdamW,
    ByteLevelBPE,
    Constant,
    Experiment,
    Generation,
    Marian,
    MBart,
    Mesh,
    SentencePiece,
    TrainedSentencePiece,
)
from research.config import ConfigError, override
from research.data.tokenizer import open_tokenizer
from research.parallel.mesh import make_mesh
from research.parallel.rules import flatten
from research.pretrained import find, huggingface, run_files
from research.pretrained.run_files import checkpoint_of
from research.pretrained.tokenizer_files import write_tokenizer
from research.train.loop import train
from research.train.run import check_rows
from research.train.state import TrainState, abstract_state, new_state, state_shardings
from scripts import evaluate

STILL = AdamW(schedule=Constant(peak=1e-30, warmup=0))  # a step by it changes no float32


def same(first, second) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, first, second))


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KINTSUGI_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def hugging_face(tiny_run, tmp_path_factory) -> Path:
    """The run's last model as a Hugging Face directory."""
    found, directory = find.find(tiny_run), tmp_path_factory.mktemp("hugging_face") / "model"
    huggingface.write(directory, found.model, found.params(), found.generation(found.tokenizer(), None))
    write_tokenizer(found.tokenizer(), directory)
    return directory


@pytest.fixture
def copy(tiny_run, tmp_path) -> Path:
    """The run, for a test to damage."""
    return shutil.copytree(tiny_run, tmp_path / "copy")


def asked(tiny_run: Path, **changes) -> Experiment:
    """The run's experiment, with its data where they are."""
    return dataclasses.replace(override.from_json((tiny_run / "config.json").read_text()), **changes)


# --- Recognised -------------------------------------------------------------------------------------------------------


def test_a_run_and_its_checkpoints(tiny_run):
    whole, first = find.find(tiny_run), find.find(tiny_run / "checkpoints" / "1")
    assert (whole.format, first.format) == ("run", "run")
    assert whole.model == asked(tiny_run).model
    params = whole.params()
    assert same(params, find.find(tiny_run / "checkpoints" / "2").params())
    assert not same(params, first.params())
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    tokenizer = whole.tokenizer()
    assert whole.generation(tokenizer, None) == Generation(0, 1, 0)


def test_the_best_checkpoint_by_its_name(tiny_run, copy, monkeypatch):
    best = json.loads((tiny_run / "RESULT.json").read_text())["best"]["step"]
    assert checkpoint_of(tiny_run / "checkpoints" / "best") == tiny_run / "checkpoints" / str(best)
    monkeypatch.setattr(run_files, "best_step", lambda checkpoint: 1)
    assert same(find.find(copy / "checkpoints/best").params(), find.find(copy / "checkpoints/1").params())
    shutil.rmtree(copy / "checkpoints" / "1")
    with pytest.raises(ConfigError, match="copy has no best checkpoint"):
        find.find(copy / "checkpoints" / "best").params()


def test_a_hugging_face_directory(tiny_run, hugging_face):
    found, run = find.find(hugging_face), find.find(tiny_run)
    assert found.format == "Hugging Face"
    find.check_same_model(run.model, found.model, hugging_face)
    assert same(found.params(), run.params())
    assert found.tokenizer().digest == run.tokenizer().digest
    assert found.generation(None, None) == found.generation(found.tokenizer(), None) == Generation(0, 1, 0)


def test_a_t5x_checkpoint(tmp_path):
    test_t5x.write(tmp_path, test_t5x.target("t5"))
    found = find.find(tmp_path)
    assert found.format == "T5X"
    assert same(found.params(), huggingface.read_params(test_t5x.GOLDENS / "t5", found.model))
    with pytest.raises(ConfigError, match="T5X stores no tokenizer with its weights: give one with --tokenizer"):
        found.tokenizer()


def test_a_file_of_marian(tmp_path, families):
    options = VARIANTS["base"]
    path = save(tmp_path / "model.npz", arrays := make(options), YAML.format(**options))
    found = find.find(path)
    assert found.format == "Marian"
    assert np.array_equal(found.params()["embedding"], arrays["Wemb"])
    assert found.generation(None, None) == Generation(start_token=17, eos_token=0, pad_token=0, banned=(1,))
    with pytest.raises(ConfigError, match="holds no tokenizer"):
        found.tokenizer()
    write_tokenizer(families["marian"], tmp_path)
    assert found.tokenizer().digest == families["marian"].digest
    write_tokenizer(families["separate"], tmp_path / "model.tokenizer")
    assert found.tokenizer().digest == find.find(path).tokenizer().digest == families["separate"].digest


@pytest.mark.live
def test_a_file_of_fairseq(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    import test_fairseq

    state = test_fairseq.tensors(test_fairseq.build("bart"))
    arguments = argparse.Namespace(**test_fairseq.ARGUMENTS)
    found = find.find(test_fairseq.save(tmp_path / "model.pt", state, args=arguments))
    assert found.format == "fairseq"
    assert np.array_equal(found.params()["embedding"], state["encoder.embed_tokens.weight"].numpy())
    assert found.generation(None, None) == Generation(start_token=2, eos_token=2, pad_token=1)


def test_anything_else_is_one_sentence_that_names_the_formats(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "weights.h5").write_text("")
    for path, said in (
        (tmp_path, "has no known format: give a run directory or one of its checkpoints, a Hugging"),
        (tmp_path / "weights.h5", "has no known format"),
        (tmp_path / "absent", "does not exist: give a run directory or one of its checkpoints, a Hugging Face"),
    ):
        with pytest.raises(ConfigError) as error:
            find.find(path)
        assert str(error.value).startswith(f"{path} {said}")
        assert str(error.value).endswith("Marian's .npz, or fairseq's .pt.")


def vocabularies(files: Path) -> list:
    model = SentencePiece(str(files / "t5.model"))
    return [
        (model, SentencePiece("gone.model")),
        (model, TrainedSentencePiece(pieces=700)),
        (ByteLevelBPE(str(files / "bart")), ByteLevelBPE("gone")),
        (MBart(str(files / "mbart.model"), "50"), MBart("gone.model", "50")),
        (Marian(str(files / "marian")), Marian("gone")),
        (dataclasses.replace(model, languages=("en_XX",)), TrainedSentencePiece(pieces=700, languages=("en_XX",))),
    ]


@pytest.mark.parametrize("number", range(6))
def test_a_run_has_its_own_vocabulary_wherever_the_first_one_went(families, files, copy, number):
    given, said = vocabularies(files)[number]
    tokenizer = open_tokenizer(given)
    (copy / "tokenizer.model").unlink(missing_ok=True)
    tokenizer.save(copy / "tokenizer.model")
    data = dataclasses.replace(asked(copy).data, tokenizer=said)
    rewrite(copy, asked(copy, data=data), data={"data.tokenizer": tokenizer.digest})
    assert find.find(copy).tokenizer().digest == tokenizer.digest


# --- Damaged ----------------------------------------------------------------------------------------------------------


def damage(checkpoint: Path) -> None:
    path = max((path for path in (checkpoint / "state").rglob("*") if path.is_file()), key=lambda p: p.stat().st_size)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_a_broken_newest_checkpoint_is_passed_over_and_not_touched(copy):
    expected = find.find(copy / "checkpoints" / "1").params()
    damage(copy / "checkpoints" / "2")
    (copy / "checkpoints" / "3.orbax-checkpoint-tmp").mkdir()
    assert same(find.find(copy).params(), expected)
    assert (copy / "checkpoints" / "2").is_dir()
    with pytest.raises(ConfigError, match=r"has no checkpoint that verifies: state/.* was changed\.$"):
        find.find(copy / "checkpoints" / "2").params()
    damage(copy / "checkpoints" / "1")
    with pytest.raises(ConfigError, match=r"has no checkpoint that verifies: state/.* was changed\.$"):
        find.find(copy).params()
    shutil.rmtree(copy / "checkpoints" / "1")
    shutil.rmtree(copy / "checkpoints" / "2")
    with pytest.raises(ConfigError, match=r"has no checkpoint yet\.$"):
        find.find(copy).params()


def test_a_checkpoint_passed_over_is_named(copy, capsys):
    damage(copy / "checkpoints" / "2")
    find.find(copy).params()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: {copy}: step 1 is used, since 2 (state/")
    assert line.endswith(" was changed) is damaged.")


@pytest.mark.parametrize("damage", ["a digit", "empty", "missing"])
def test_the_record_of_the_checkpoint_decides_the_model_and_its_data(tiny_run, copy, capsys, damage):
    expected, path = find.find(tiny_run), copy / "config.json"
    text = path.read_text()
    match damage:
        case "a digit":
            path.write_text(text.replace('"max_distance": 128', '"max_distance": 129').replace(" 48,", " 49,"))
            assert path.read_text() != text
        case "empty":
            path.write_text("")
        case "missing":
            path.unlink()
    for place in (copy, copy / "checkpoints" / "1"):
        found = find.find(place)
        assert found.model == expected.model
        assert same(found.params(), find.find(tiny_run / place.relative_to(copy)).params())
        assert evaluate.base_experiment(evaluate.parser().parse_args([str(place)])) == asked(tiny_run)
    said = capsys.readouterr().err
    assert said == f"note: {path} is missing or damaged: the record in the checkpoint of step 2 decides.\n"


def test_a_record_that_was_changed_decides_nothing(copy):
    record = copy / "checkpoints" / "2" / "meta" / "metadata"
    record.write_text(record.read_text().replace('"max_distance": 128', '"max_distance": 129'))
    assert find.find(copy).model == asked(copy).model  # by the record of step 1
    with pytest.raises(ConfigError, match=r"has no checkpoint that verifies: meta/metadata was changed"):
        find.find(copy / "checkpoints" / "2").params()


def test_a_tokenizer_other_than_that_of_the_record_is_refused(copy):
    rewrite(copy, asked(copy), data={"data.tokenizer": "0" * 64})
    with pytest.raises(ConfigError, match=r"tokenizer\.model is not the tokenizer that the run was trained with"):
        find.find(copy).tokenizer()


# --- What a run starts from -------------------------------------------------------------------------------------------


def test_a_run_starts_from_the_very_model_and_needs_it_no_more(tiny_run, hugging_face, tmp_path, capsys):
    source = shutil.copytree(hugging_face, tmp_path / "source")
    config = asked(tiny_run, init=str(source), optimizer=STILL, steps=1, seed=9)
    assert train(config, tmp_path / "new") == 0
    assert f"Starting from {source} (Hugging Face format)." in capsys.readouterr().out
    assert held_out_losses(tmp_path / "new") == held_out_losses(tiny_run)[-1:]
    assert same(find.find(tmp_path / "new").params(), find.find(tiny_run).params())
    shutil.rmtree(source)
    assert train(dataclasses.replace(config, steps=2), tmp_path / "new") == 0
    assert len(held_out_losses(tmp_path / "new")) == 2


def first_state(config: Experiment, seed: int) -> TrainState:
    """The state that a run starts from, by the weights of its `init`."""
    mesh = make_mesh(Mesh(), jax.devices()[:1])
    weights = None if config.init is None else find.find_initial(config, config.init)
    given = None if weights is None else weights.params(state_shardings(config, mesh).params, config.init_fresh)
    return new_state(config, mesh, jax.random.key(seed), given)


@pytest.mark.parametrize("step", [1, 2])
def test_a_run_starts_from_any_checkpoint_of_another_and_draws_nothing(tiny_run, step, monkeypatch):
    source = tiny_run / "checkpoints" / str(step)
    config = asked(tiny_run, init=str(source), average_decay=0.9)
    random = first_state(dataclasses.replace(config, init=None), seed=1)
    abstract_state(config)  # shapes, which are traced
    monkeypatch.setattr("research.train.state.initial_params", None)
    state = first_state(config, seed=1)
    assert same(state.params, find.find(source).params())
    assert same(state.average, state.params)
    assert same((state.step, state.opt_state), (random.step, random.opt_state))
    assert not same(state.params, random.params)


def refused(config: Experiment, directory: Path, monkeypatch) -> str:
    """What is said before anything is compiled, prepared or written."""

    def never(*_, **__) -> None:
        raise AssertionError("too late")

    for name in ("compile_train_step", "prepare", "new_state"):
        monkeypatch.setattr(f"research.train.run.{name}", never)
    with pytest.raises(ConfigError) as error:
        train(config, directory)
    assert not directory.exists()
    return str(error.value)


def test_another_model_is_refused_by_its_fields(tiny_run, hugging_face, tmp_path, monkeypatch):
    model = asked(tiny_run).model
    other = dataclasses.replace(model, feed_forward=48, gated=False, remat="full", dropout=0.1)
    for source in (tiny_run, hugging_face):
        said = refused(asked(tiny_run, model=other, init=str(source)), tmp_path / "new", monkeypatch)
        fields = "model.feed_forward is 32 there, but 48 here; model.gated is True there, but False here"
        assert said == f"{source} holds a different model: {fields}."


def test_what_init_does_not_find_is_refused_though_an_earlier_start_left_a_directory(tiny_run, tmp_path):
    (tmp_path / "new" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ConfigError, match="absent does not exist: give a run directory"):
        train(asked(tiny_run, init=str(tmp_path / "absent")), tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["checkpoints"]


def test_a_tokenizer_larger_than_the_weights_to_start_from(tiny_run):
    """The sentence names both ways out, which the one about `init_fresh` does not undo."""
    with pytest.raises(ConfigError, match=r"model.vocab_size is 400: .* size, which is 500\.$"):
        check_rows(asked(tiny_run), 500)
    with pytest.raises(ConfigError, match=r"is 500; .* embedding and head in init_fresh, or take its tokenizer\.$"):
        check_rows(asked(tiny_run, init=str(tiny_run)), 500)
    check_rows(asked(tiny_run), 400)


@pytest.mark.parametrize("kind", ["run", "Hugging Face"])
def test_another_vocabulary_needs_fresh_parameters_by_name(tiny_run, hugging_face, tmp_path, monkeypatch, kind):
    source = str(tiny_run if kind == "run" else hugging_face)
    larger = asked(tiny_run, init=source, model=dataclasses.replace(asked(tiny_run).model, vocab_size=416))
    for fresh, unlike in (((), "embedding, head"), (("embedding",), "head"), (("decoder/.*",), "embedding, head")):
        said = refused(dataclasses.replace(larger, init_fresh=fresh), tmp_path / "new", monkeypatch)
        cannot = f"{source} has a different vocabulary, so {unlike} cannot be loaded: list them in init_fresh, "
        assert said == cannot + "or set model.vocab_size to 400 and take its tokenizer."
    named = dataclasses.replace(larger, init_fresh=("embedding", "head"))
    random = flatten(first_state(dataclasses.replace(named, init=None, init_fresh=()), seed=1).params)
    found = flatten(first_state(named, seed=1).params)
    theirs = flatten(find.find(tiny_run).params())
    assert found.keys() == theirs.keys()
    for path, leaf in found.items():
        assert np.array_equal(leaf, random[path] if path in ("embedding", "head") else theirs[path]), path


def test_an_expression_that_matches_nothing_is_refused(tiny_run, hugging_face, tmp_path, monkeypatch):
    for source in (tiny_run, hugging_face):
        config = asked(tiny_run, init=str(source), init_fresh=("embeding",))
        said = refused(config, tmp_path / "new", monkeypatch)
        assert said.startswith("init_fresh: 'embeding' matches no parameter; there are decoder/layers/")
    with pytest.raises(ConfigError, match="init_fresh needs init: set both, or neither"):
        experiment(tmp_path, init_fresh=("head",))
