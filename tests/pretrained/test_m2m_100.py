"""M2M-100 from its directory alone: fine-tuning, generation and export, with the tokens of transformers."""

import json
import shutil

import pytest
from tuned_directories import write_model

from research import (
    AdamW,
    Checkpoint,
    Constant,
    Evaluation,
    Experiment,
    JSONExamples,
    ModelGeneration,
    ModelTokenizer,
    Pretrained,
    Report,
    Supervised,
    Translation,
)
from research.config import override
from research.data.tokenizer import open_tokenizer
from research.pretrained import find
from research.pretrained.tokenizer_files import read_tokenizer
from research.train.loop import train
from scripts.convert import main as convert
from scripts.evaluate import main as evaluate
from scripts.generate import main as generate

TEXTS = ["the house and the mountain", "die Häuser der Straße", "我们 今天 去 学校"]


@pytest.fixture(scope="module")
def directory(families, tmp_path_factory):
    directory = tmp_path_factory.mktemp("m2m") / "m2m"
    write_model(directory, "m2m_100", families["m2m_100"])
    published = {"bos_token_id": 0, "decoder_start_token_id": 2, "eos_token_id": 2, "pad_token_id": 1}
    (directory / "generation_config.json").write_text(json.dumps(published | {"max_length": 12}))
    return directory


def experiment(path, data) -> Experiment:
    for split, count in (("train", 16), ("held_out", 4)):
        lines = [{"source": f"the house number {n} {split}", "target": f"die Häuser {n}"} for n in range(count)]
        (data / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    examples = JSONExamples(f"{data}/train.jsonl", f"{data}/held_out.jsonl")
    task = Translation(examples=examples, source="source", target="target", languages=("en", "de"))
    return Experiment(
        model=Pretrained(str(path)),
        data=Supervised((task,), ModelTokenizer(), input_length=24, target_length=24),
        optimizer=AdamW(schedule=Constant(peak=1e-3, warmup=0)),
        steps=1,
        batch_size=8,
        evaluation=Evaluation(every=1, rows=4, samples=0, examples=4, generation=ModelGeneration()),
        checkpoint=Checkpoint(every=1),
        report=Report(every=1, loggers=()),
    )


def test_a_directory_is_enough(directory, families, tmp_path):
    made = experiment(directory, tmp_path)
    assert made.model.plain == find.find(directory).model
    assert open_tokenizer(made.data.tokenizer).digest == families["m2m_100"].digest
    assert override.from_json(override.to_json(made)) == made
    tokenizer = families["m2m_100"]
    found = find.with_controls(made.generation, made.model, tokenizer, "de")
    assert (found.start_token, found.eos_token, found.pad_token) == (2, 2, 1)
    assert found.forced_first == tokenizer.language_id("de")


@pytest.mark.slow
def test_a_run_is_generated_from_evaluated_and_exported(directory, families, own_cache, tmp_path, capsys):
    source, run, export = shutil.copytree(directory, tmp_path / "source"), tmp_path / "run", tmp_path / "export"
    assert train(experiment(source, tmp_path), run) == 0
    shutil.rmtree(source)
    languages = ["--source_language=en", "--target_language=de"]
    assert convert([str(run), str(export), "--target_language=de"]) == 0
    assert read_tokenizer(export).digest == find.find(run).tokenizer().digest == families["m2m_100"].digest
    capsys.readouterr()
    written = []
    for model in (run, export):
        limits = ["--generation.max_length=12", "--generation.method=Greedy()"]
        assert generate([str(model), *TEXTS, *languages, *limits]) == 0
        written.append(capsys.readouterr().out.splitlines())
    assert written[0] == written[1]
    assert evaluate([str(run), "--split=held_out"]) == 0
    assert generate([str(run), "a", "--source_language=en", "--target_language=xx"]) == 2
    assert "The language is 'xx': allowed is af, am, ar" in capsys.readouterr().err

    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(export, src_lang="en")
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(export).eval()
    ours = families["m2m_100"]
    found = find.find(export).generation(ours, "de")
    assert found.forced_first == tokenizer.get_lang_id("de") == model.generation_config.forced_bos_token_id
    for text, line in zip(TEXTS, written[1], strict=True):
        ids = tokenizer(text, return_tensors="pt")
        assert ids.input_ids[0].tolist() == ours.source([text], "en")[0]
        (row,) = model.generate(**ids, max_new_tokens=12, num_beams=1, do_sample=False).tolist()
        assert row[:2] == [2, ours.language_id("de")]
        assert ours.text(row) == line
