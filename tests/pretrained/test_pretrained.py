"""A directory is enough: architecture, weights, tokenizer, generation settings and prefixes come from one argument."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import pytest

from research import (
    AdamW,
    Beam,
    ByteLevelBPE,
    Bytes,
    Checkpoint,
    Constant,
    Evaluation,
    Experiment,
    Generation,
    JSONExamples,
    LayerNorm,
    Marian,
    MBart,
    Model,
    ModelGeneration,
    ModelTokenizer,
    Pretrained,
    Report,
    SentencePiece,
    Sinusoidal,
    Summarization,
    Supervised,
    TrainedSentencePiece,
    Translation,
)
from research.config import ConfigError, override
from research.data.tokenizer import Tokenizer, open_tokenizer, unigram
from research.model.family import preset
from research.model.transformer import initial_params
from research.pretrained import find, huggingface
from research.pretrained.tokenizer_files import read_tokenizer
from research.report.comparison import identity
from research.sweep.variants import source_runs
from research.train.loop import train
from research.train.summary import describe_weights
from scripts.convert import main as convert

SIZES = {"width": 16, "heads": 2, "head_width": 8, "feed_forward": 32, "encoder_layers": 1, "decoder_layers": 1}
PREFIXES = {
    "summarization": {"prefix": "summarize: ", "num_beams": 4},
    "translation_en_to_de": {"prefix": "to German: "},
}
STILL = AdamW(schedule=Constant(peak=1e-30, warmup=0))  # a step by it changes no float32
FAMILIES = {
    "t5": ("t5_v1_1/small", SentencePiece("spiece.model", 100)),
    "t5 alone": ("t5_v1_1/small", SentencePiece("tokenizer.json", 100)),
    "mt5": ("mt5/small", SentencePiece("spiece.model", 0)),
    "byt5": ("byt5/small", Bytes(125)),
    "bart": ("bart/base", ByteLevelBPE("")),
    "cc25": ("mbart/large", MBart("sentencepiece.bpe.model", "cc25")),
    "50": ("mbart_50/large", MBart("sentencepiece.bpe.model", "50")),
    "marian": ("marian/tiny", Marian("")),
}


def write(directory: Path, name: str, tokenizer: Tokenizer, rows: int = 0) -> Path:
    """Write a tiny model with random weights and its tokenizer as a Hugging Face directory."""
    marian = {"norm": LayerNorm(), "positions": Sinusoidal(64), "zero_token": tokenizer.pad_id}
    changes = SIZES | (marian if "marian" in name else {})
    model = preset(name, **changes, vocab_size=tokenizer.size + rows, compute="float32", dropout=0.1)
    tokens = {"eos_token": tokenizer.eos_id, "pad_token": tokenizer.pad_id}
    settings = Generation(**tokens, method=Beam(3), max_length=40, no_repeat_ngram=3)
    params = jax.jit(lambda key: initial_params(model, key))(jax.random.key(0))
    huggingface.write_directory(directory, model, params, tokenizer, settings)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"task_specific_params": PREFIXES}))
    return directory


@pytest.fixture(scope="module")
def directories(families, tmp_path_factory) -> dict[str, Path]:
    """A directory of each family; "t5 alone" has its tokenizer as transformers 5 saves it."""
    folder = tmp_path_factory.mktemp("directories")
    made = {
        name: write(folder / name, preset_name, families[name])
        for name, (preset_name, _) in FAMILIES.items()
        if name != "t5 alone"
    }
    alone = shutil.copytree(made["t5"], folder / "t5 alone")
    (alone / "spiece.model").unlink()
    (alone / "tokenizer.json").write_bytes(unigram.tokenizer_json(families["t5"]))
    return made | {"t5 alone": alone}


@pytest.fixture(scope="module")
def t5(directories) -> Path:
    return directories["t5"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Supervised:
    """Documents and summaries, with the tokenizer of the model."""
    folder = tmp_path_factory.mktemp("data")
    for split, count in (("train", 24), ("held_out", 8)):
        lines = [{"document": f"the house number {n} {split}", "summary": f"river {n}"} for n in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    task = Summarization(examples=JSONExamples(f"{folder}/train.jsonl", f"{folder}/held_out.jsonl"))
    return Supervised((task,), ModelTokenizer(), input_length=32, target_length=16)


def experiment(model: Model, data: Supervised, **changes) -> Experiment:
    evaluation = Evaluation(every=1, rows=8, samples=0, examples=4, generation=ModelGeneration())
    fields = {"optimizer": STILL, "steps": 1, "batch_size": 8, "evaluation": evaluation}
    fields |= {"checkpoint": Checkpoint(every=1), "report": Report(every=1, loggers=())}
    return Experiment(model=model, data=data, **fields | changes)


# --- What is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_comes_from_a_directory(directories, data, family):
    directory, vocabulary = directories[family], FAMILIES[family][1]
    model = Pretrained(str(directory))
    assert model.plain == find.find(directory).model
    place = "directory" if family == "marian" else "path"
    if family != "byt5":
        vocabulary = dataclasses.replace(vocabulary, **{place: str(directory / getattr(vocabulary, place))})
    assert model.tokenizer == vocabulary
    made = experiment(model, data)
    assert open_tokenizer(made.data.tokenizer).digest == read_tokenizer(directory).digest
    generation = made.generation
    assert (generation.method, generation.max_length, generation.no_repeat_ngram) == (Beam(3), 16, 3)
    assert made.data.tasks[0].example({"document": ("a",), "summary": ("b",)}) == ("summarize: a", ("b",))
    assert override.from_json(override.to_json(made)) == made


def test_fields_that_are_given_win(t5):
    model = Pretrained(str(t5), dropout=0.3, remat="full", prefixes=())
    assert (model.dropout, model.remat, model.width, model.prefixes) == (0.3, "full", 16, ())
    assert dataclasses.replace(model, dropout=0.1).dropout == 0.1
    assert "dropout 0.3 (there 0.1), remat 'full' (there 'none')" in describe_weights(model)
    assert describe_weights(Pretrained(str(t5))) == f"{t5}; every field as stored there"


def test_one_override_is_enough(t5, directories, data):
    base = experiment(Pretrained(str(t5)), data)
    other = directories["bart"]
    text = f'Pretrained("{other}", attention="blocked")'
    made = override.apply(base, {"model": text, "model.dropout": "0.2"})
    assert made.model == Pretrained(str(other), attention="blocked", dropout=0.2)
    assert (made.weights, made.data.tokenizer.vocabulary) == (str(other), ByteLevelBPE(str(other)))
    assert override.parse(Model, override.as_text(made.model), "model") == made.model


def test_nothing_is_read_if_the_architecture_is_given(t5, tmp_path):
    model = Pretrained(str(t5))
    absent = Pretrained.like(model, path=str(tmp_path / "absent"))
    assert (absent.plain, absent.tokenizer) == (model.plain, None)
    assert describe_weights(absent) == f"{tmp_path / 'absent'}, which can no longer be read"


# --- What is refused --------------------------------------------------------------------------------------------------


def refused(make, *arguments, **fields) -> str:
    with pytest.raises(ConfigError) as error:
        make(*arguments, **fields)
    return str(error.value)


def test_a_directory_that_is_absent_or_another_format(t5, tmp_path):
    assert refused(Pretrained, str(tmp_path / "absent")).startswith(f"{tmp_path / 'absent'} does not exist: give")
    assert refused(override.parse, Model, f'Pretrained("{tmp_path}")', "model").startswith(f"{tmp_path} has no known")


def test_unknown_fields_are_named(t5):
    assert refused(Pretrained, str(t5), droput=0.1) == "Pretrained has no field droput; did you mean dropout?"
    message = refused(override.parse, Model, f'Pretrained("{t5}", droput=0.1)', "model")
    assert message.startswith("model.droput is no field: Pretrained has")
    assert message.endswith("did you mean dropout?")
    assert refused(override.parse, Model, "Pretrained", "model").startswith("model needs path")
    assert "Pretrained(path, ...)" in refused(override.parse, Model, "5", "model")


def test_a_tokenizer_with_more_ids_than_rows(families, tmp_path):
    directory = write(tmp_path / "few", "t5_v1_1/small", families["t5"], rows=-2)
    size = families["t5"].size
    message = f"{directory}: The tokenizer has {size} source ids, but the model has rows for {size - 2} only."
    assert refused(Pretrained, str(directory)) == message
    assert Pretrained(str(directory), tokenizer=None).vocab_size == size - 2  # to give another one


def test_a_directory_without_a_tokenizer(t5, data, tmp_path):
    bare = shutil.copytree(t5, tmp_path / "bare")
    (bare / "spiece.model").unlink()
    (bare / "tokenizer_config.json").unlink()
    model = Pretrained(str(bare))
    assert refused(experiment, model, data).startswith(f"{bare} holds no tokenizer: give its own, data.tokenizer=")
    given = SentencePiece(str(t5 / "spiece.model"))
    assert experiment(model, dataclasses.replace(data, tokenizer=given)).data.tokenizer == given


def test_contradictions_are_refused(t5, directories, data):
    model = Pretrained(str(t5))
    message = refused(experiment, model, data, init="elsewhere")
    here = f"the model's weights are those of {t5}"
    assert message == f"init is 'elsewhere', but {here}: give one of them, model=Pretrained(...)."
    assert experiment(model, data, init=str(t5)).weights == str(t5)
    for changes, name in (
        ({}, "data.tokenizer is ModelTokenizer()"),
        ({"tokenizer": Bytes()}, "evaluation.generation"),
    ):
        message = refused(experiment, model.plain, dataclasses.replace(data, **changes))
        assert message.startswith(name)
        assert message.endswith("it needs model=Pretrained(...), which has one.")
    new = dataclasses.replace(data, tokenizer=TrainedSentencePiece(400))
    assert "give ModelTokenizer(), or name embedding and head in init_fresh" in refused(experiment, model, new)
    assert experiment(model, new, init_fresh=("embedding", "head")).weights == str(t5)
    bans = dataclasses.replace(model, generation=Generation(banned=(3,)))
    assert "with another tokenizer, give Generation" in refused(
        experiment, bans, dataclasses.replace(data, tokenizer=Bytes())
    )
    wider = experiment(dataclasses.replace(model, width=32), data)
    assert refused(find.find_initial, wider, wider.weights) == (
        f"{t5} holds a different model: model.width is 16 there, but 32 here."
    )


def test_another_class_of_model_is_given_itself(t5, monkeypatch):
    weights = find.find(t5)
    monkeypatch.setattr(find, "find", lambda path: weights._replace(model=Own.like(weights.model)))
    assert refused(Pretrained, str(t5)) == (
        f"{t5} holds a model of the class Own: give model=Own(...), and its path as init."
    )


@dataclasses.dataclass(frozen=True)
class Own(Model):
    pass


# --- A run ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_needs_its_directory_no_more(t5, data, own_cache, tmp_path, capsys):
    source = shutil.copytree(t5, tmp_path / "source")
    config = experiment(Pretrained(str(source), dropout=0.0), data)
    first = tmp_path / "first"
    assert train(config, first) == 0
    assert f"{source}; dropout 0.0 (there 0.1)" in " ".join(capsys.readouterr().out.split())
    same = jax.tree.map(lambda one, other: (one == other).all(), find.find(first).params(), find.find(t5).params())
    assert jax.tree.all(same)
    assert train(dataclasses.replace(config, steps=2), first) == 0  # resumed
    shutil.rmtree(source)
    found = find.find(first)
    assert found.tokenizer().digest == read_tokenizer(t5).digest
    again = Pretrained(str(first))
    assert (again.plain, again.prefixes, again.generation) == (
        config.model.plain,
        config.model.prefixes,
        config.generation,
    )
    further = experiment(again, data)
    assert open_tokenizer(further.data.tokenizer).digest == found.tokenizer().digest
    assert identity(further, tmp_path / "second")["init"] == "a run"


@pytest.mark.slow
def test_a_run_with_new_tokens(t5, data, own_cache, tmp_path):
    """It resumes, and is exported without its directory; the export has its rows and ids."""
    source = shutil.copytree(t5, tmp_path / "source")
    config = experiment(Pretrained(str(source), new_tokens=("<sep>", "rivers")), data)
    expected = find.find_initial(config, config.weights).params()
    assert train(config, tmp_path / "run") == 0
    again = override.read(tmp_path / "run" / "config.json")
    assert again == config
    assert train(dataclasses.replace(again, steps=2), tmp_path / "run") == 0
    shutil.rmtree(source)
    found = find.find(tmp_path / "run")
    assert jax.tree.all(jax.tree.map(lambda one, other: (one == other).all(), found.params(), expected))
    assert convert([str(tmp_path / "run"), str(tmp_path / "export")]) == 0
    exported = read_tokenizer(tmp_path / "export")
    assert exported.encode("rivers<sep>") == [exported.size - 1, exported.size - 2]
    assert Pretrained(str(tmp_path / "export")).vocab_size == config.model.vocab_size == exported.size
    theirs = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(tmp_path / "export")
    assert theirs("the rivers<sep> house").input_ids == exported.source(["the rivers<sep> house"])[0]


def test_another_run_is_one_override_too(tiny_run, t5, data, tmp_path):
    """Also in a sweep from the runs of another; with every parameter in init_fresh only the architecture is taken."""
    config = json.loads((tiny_run / "config.json").read_text())
    shutil.copytree(tiny_run, tmp_path / "first")
    (tmp_path / "sweep.json").write_text(json.dumps({"variants": {"first": config}}))
    base = experiment(Pretrained(str(t5), dropout=0.3), data)
    (source,), unfinished = source_runs(tmp_path, base)
    made = override.apply(base, source.overrides)
    assert (made.weights, made.model.dropout, made.model.vocab_size) == (str(tmp_path / "first"), 0.3, 400)
    assert (made.data.tokenizer.vocabulary, unfinished) == (Bytes(), [])
    assert made.generation == Generation(start_token=0, method=Beam(3), max_length=16, no_repeat_ngram=3)
    assert find.find_initial(made, made.weights).params(None, (".*",)) == {}


def test_prefixes_follow_the_model(t5, tiny_run, data):
    examples = data.tasks[0].examples
    tasks = (Translation(examples=examples), Translation(examples=examples, target="fr"),
             Summarization(examples=examples, prefix="tl;dr "))  # fmt: skip
    with_t5 = experiment(Pretrained(str(t5)), dataclasses.replace(data, tasks=tasks))
    assert [task.prefixes for task in with_t5.data.tasks] == [
        (("translation_en_to_de", "to German: "),), (), (("summarization", "tl;dr "),)
    ]  # fmt: skip
    assert with_t5.data.tasks[0].identity != tasks[0].identity
    other = dataclasses.replace(with_t5, model=Pretrained(str(tiny_run)))
    assert [task.prefixes for task in other.data.tasks] == [(), (), (("summarization", "tl;dr "),)]
