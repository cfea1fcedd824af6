"""scripts.evaluate: what a model writes for tasks, scored; files of outputs scored as the libraries' commands do."""

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import pytest
from tiny_run import held_out_losses, rewrite
from tuned_directories import write_model

from research import BLEU, ChrF, Generation, Supervised, TextToText, TSVExamples
from research.config import override
from research.decode.generate import Generator
from research.decode.loaded_model import load
from research.model.transformer import initial_params
from research.pretrained import find, huggingface
from research.pretrained.tokenizer_files import write_tokenizer
from scripts import evaluate, generate, score, significance

PAIRS = [(f"{chr(97 + number)} source of {'many ' * (number % 7)}words", f"target {number}") for number in range(21)]
EXAMPLES = 'examples=TSVExamples("all.tsv", test="all.tsv")'
TASK = f'--task=TextToText({EXAMPLES}, prefix="do: ", metrics=(ChrF(), Accuracy()))'
FEW = "--generation.max_length=6"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("all.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in PAIRS))


@pytest.fixture(scope="module")
def model(tiny_run, tmp_path_factory) -> Path:
    """A directory of weights so large that what is written depends on the line."""
    run, directory = find.find(tiny_run), tmp_path_factory.mktemp("model") / "model"
    params = jax.tree.map(lambda leaf: 3 * leaf, initial_params(run.model, jax.random.key(0)))
    huggingface.write(directory, run.model, params, Generation(0, 1, 0))
    write_tokenizer(run.tokenizer(), directory)
    return directory


@pytest.fixture
def run(tiny_run, tmp_path) -> Path:
    """A run whose experiment says that it is of a task."""
    shutil.copytree(tiny_run, tmp_path / "run")
    experiment = override.read(tmp_path / "run" / "config.json")
    tasks = (TextToText(examples=TSVExamples("all.tsv", "all.tsv"), metrics=(BLEU("char"), ChrF())),)
    data = Supervised(tasks, experiment.data.tokenizer, input_length=20, target_length=6)
    rewrite(tmp_path / "run", replace(experiment, data=data))
    return tmp_path / "run"


def say(capsys, *arguments: object) -> str:
    assert evaluate.main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def rows(path: str | Path) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_predictions_are_those_of_generate_and_losses_those_of_score(model, capsys):
    said = say(capsys, model, TASK, FEW, "--output=out", "--batch_size=8")
    (result,) = json.loads(Path("out/scores.json").read_text())["results"].values()
    assert "sequence_accuracy" in said
    assert result["signatures"]["chrf"] in said
    assert result["examples"] == len(PAIRS)
    assert result["generation"]["max_length"] == 6
    Path("in.txt").write_text("".join(f"do: {source}\n" for source, _ in PAIRS))
    assert generate.main([str(model), "--input=in.txt", "--output=plain.txt", FEW]) == 0
    found = rows("out/predictions.jsonl")
    written = Path("plain.txt").read_bytes().decode().removesuffix("\n").split("\n")
    assert [generate.one_line(row["prediction"]) for row in found] == written
    assert len({row["prediction"] for row in found}) > 2
    assert [row["number"] for row in found] == list(range(1, 22))
    assert [(row["source"][4:], *row["references"]) for row in found] == PAIRS
    Path("pairs.tsv").write_text("".join(f"do: {source}\t{target}\n" for source, target in PAIRS))
    assert score.main([str(model), "--input=pairs.tsv", "--output=nll.txt"]) == 0
    totals = [line.split("\t") for line in Path("nll.txt").read_text().splitlines()]
    for row, (total, tokens) in zip(found, totals, strict=True):
        assert row["target_nll"] == pytest.approx(-float(total), abs=1e-4)
        assert row["target_tokens"] == int(tokens)
    loss = -sum(float(total) for total, _ in totals) / sum(int(tokens) for _, tokens in totals)
    assert result["loss"] == pytest.approx(loss, rel=1e-5)
    assert result["perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)
    assert sorted(os.listdir("out")) == ["predictions.jsonl", "scores.json"]


def test_a_run_is_evaluated_on_its_own_tasks_beside_its_checkpoints(run, capsys):
    said = say(capsys, run, "--split=held_out", "--generation.method=Beam(3)", "--examples=9")
    scores = json.loads((run / "evaluations" / "held_out-2" / "scores.json").read_text())
    (result,) = scores["results"].values()
    assert (scores["step"], scores["split"], result["examples"]) == (2, "held_out", 9)
    assert result["generation"]["method"]["beams"] == 3
    assert result["generation"]["max_length"] == 6  # as long as targets are
    assert result["truncated sources"] == sum(len(f"{source}") + 1 > 20 for source, _ in PAIRS[:9]) > 0
    assert set(result["scores"]) == {"bleu_char", "chrf"}
    assert "example 3" in said
    assert evaluate.main([str(run), "--split=held_out"]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    say(capsys, run / "checkpoints" / "1", "--split=held_out", "--examples=9")
    assert significance.main([str(run / "evaluations" / f"held_out-{step}") for step in (1, 2)]) == 0
    assert "bleu_char" in capsys.readouterr().out


def test_a_model_alone_is_limited_by_its_positions_or_by_what_is_given(model, capsys):
    lengths = ["--config.data.input_length=20", "--config.data.target_length=5"]
    say(capsys, model, TASK, FEW, "--output=whole")
    said = say(capsys, model, TASK, FEW, *lengths, "--output=cut")
    results = [
        next(iter(json.loads(Path(f"{name}/scores.json").read_text())["results"].values())) for name in ("whole", "cut")
    ]
    assert [result["truncated sources"] for result in results] == [0, len(PAIRS)]
    assert [result["truncated targets"] for result in results] == [0, len(PAIRS)]
    assert results[0]["target_tokens"] > results[1]["target_tokens"] == 5 * len(PAIRS)
    assert results[0]["loss"] != results[1]["loss"]
    assert "truncated targets" in said


def test_texts_longer_than_a_model_s_positions_are_cut_and_counted(families, capsys):
    """Both in what is written and in what is scored."""
    write_model(Path("bart"), "bart", families["bart"])
    positions = find.find(Path("bart")).model.longest
    Path("long.tsv").write_text(f"short\ta\n{'long ' * positions}\t{'b ' * positions}\n")
    say(capsys, "bart", TASK.replace("all.tsv", "long.tsv"), "--generation.max_length=4", "--output=out")
    (result,) = json.loads(Path("out/scores.json").read_text())["results"].values()
    assert (result["truncated sources"], result["truncated targets"]) == (1, 1)
    assert rows("out/predictions.jsonl")[1]["target_tokens"] == positions


def test_a_directory_without_max_length_writes_up_to_the_longest_target_and_says_so(model, capsys, tmp_path):
    shutil.copytree(model, "unstated")
    path = Path("unstated/generation_config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_length": None}))
    Path("long.tsv").write_text(f"short\ta\nlong\t{'b' * 40}\n")
    task = TASK.replace("all.tsv", "long.tsv")
    assert evaluate.main(["unstated", task, "--output=out"]) == 0
    said = capsys.readouterr()
    assert "note: the model's files state no max_length: outputs of long.tsv have at most 41 tokens, as its" in said.err
    assert evaluate.main(["unstated", task, "--output=given", "--config.data.target_length=7"]) == 0
    assert "have at most 7 tokens, as data.target_length" in capsys.readouterr().err
    for name, most in (("out", 41), ("given", 7)):
        (result,) = json.loads(Path(f"{name}/scores.json").read_text())["results"].values()
        assert result["generation"]["max_length"] == most
    assert evaluate.main([str(model), task]) == 0
    assert "max_length:" not in capsys.readouterr().err  # its files state one


def test_outputs_that_are_cut_are_counted_in_every_evaluation_and_generation(model, capsys):
    said = say(capsys, model, TASK, FEW, "--output=out")
    (result,) = json.loads(Path("out/scores.json").read_text())["results"].values()
    texts = [f"do: {source}" for source, _ in PAIRS]
    with pytest.warns(UserWarning, match="outputs are cut at generation.max_length, 6: they have no end") as warned:
        found = load(model).hypotheses(texts, max_length=6)
    cut = sum(one.tokens[-1] != 1 for (one,) in found)
    assert result["unfinished outputs"] == cut > 0
    assert f"{cut}  cut at generation.max_length, with no end of their own" in said
    assert str(warned[0].message).startswith(f"{cut} of {len(PAIRS)} outputs are cut")
    assert generate.main([str(model), FEW, *texts]) == 0
    assert f"note: {cut} of {len(PAIRS)} outputs are cut at generation.max_length, 6" in capsys.readouterr().err


def test_scores_of_the_file_that_was_written_are_the_same(model, capsys):
    say(capsys, model, TASK, FEW, "--output=out")
    (whole,) = json.loads(Path("out/scores.json").read_text())["results"].values()
    say(capsys, "--predictions=out/predictions.jsonl", "--metrics", "ChrF()", "Accuracy()", "--output=again.json")
    (again,) = json.loads(Path("again.json").read_text())["results"].values()
    assert again["scores"] == whole["scores"]
    assert again["signatures"] == whole["signatures"]


def test_a_killed_evaluation_goes_on_to_the_same_end(model, capsys, monkeypatch):
    arguments = [str(model), TASK, FEW, "--batch_size=8"]
    assert evaluate.main([*arguments, "--output=whole"]) == 0
    for method, lines in (("_decode", 2), ("_score", 5)):  # after a batch of what is written, and of the targets
        done = []
        original = getattr(Generator, method)

        def counted(self, *given, done=done, original=original):
            if len(done) == 1:
                raise KeyboardInterrupt
            done.append(given)
            return original(self, *given)

        with monkeypatch.context() as patch:
            patch.setattr(Generator, method, counted)
            assert evaluate.main([*arguments, "--output=killed"]) == 130
        assert Path("killed/predictions.jsonl.partial").read_bytes().count(b"\n") == lines
    capsys.readouterr()
    for other in ("--examples=3", "--config.data.input_length=20", "--config.data.target_length=20"):
        assert evaluate.main([*arguments, "--output=killed", other]) == 2
        assert "was begun by another command" in capsys.readouterr().err
    assert evaluate.main([*arguments, "--output=killed"]) == 0
    assert Path("killed/predictions.jsonl").read_text() == Path("whole/predictions.jsonl").read_text()
    results = [json.loads(Path(f"{name}/scores.json").read_text())["results"] for name in ("whole", "killed")]
    assert results[0] == results[1]


def test_a_denoising_run_gives_the_held_out_loss_of_its_training(tiny_run, tmp_path, capsys):
    shutil.copytree(tiny_run, tmp_path / "denoised")
    said = say(capsys, tmp_path / "denoised")
    scores = json.loads((tmp_path / "denoised/evaluations/held_out-2/scores.json").read_text())
    result = scores["results"]["denoising"]
    assert result["loss"] == pytest.approx(held_out_losses(tiny_run)[-1], rel=1e-6)
    assert result["perplexity"] == pytest.approx(math.exp(result["loss"]))
    assert result["rows"] == 16
    assert "token_accuracy" in said


def test_files_are_scored_as_by_sacrebleus_command(capsys):
    predictions, first, second = (
        [f"{word} cat number {n} sat on a {thing} ." for n in range(8)]
        for word, thing in (("The", "mat"), ("a", "mat"), ("The", "red mat"))
    )
    for name, lines in (("hyp", predictions), ("ref1", first), ("ref2", second)):
        Path(f"{name}.txt").write_text("\n".join(lines) + "\n")
    files = ["--predictions=hyp.txt", "--references", "ref1.txt", "ref2.txt"]
    metrics = ['BLEU("none", lowercase=True)', "ChrF()"]
    said = say(capsys, *files, "--metrics", *metrics, "--output=scores.json")
    (found,) = json.loads(Path("scores.json").read_text())["results"].values()
    command = [sys.executable, "-m", "sacrebleu", "ref1.txt", "ref2.txt", "-i", "hyp.txt", "-w", "9"]
    for name, options in (("bleu_none_lowercase", ["-tok", "none", "-lc"]), ("chrf", ["-m", "chrf"])):
        expected = json.loads(subprocess.run([*command, *options], capture_output=True, check=True).stdout)
        assert round(found["scores"][name], 9) == expected["score"]
        assert found["signatures"][name] == expected["signature"]
        assert f"{expected['score']:.2f}" in said
    Path("gen.jsonl").write_text("".join(json.dumps({"outputs": [{"text": line}]}) + "\n" for line in predictions))
    Path("ref.jsonl").write_text(
        "".join(json.dumps({"references": pair}) + "\n" for pair in zip(first, second, strict=True))
    )
    say(capsys, "--predictions=gen.jsonl", "--references=ref.jsonl", "--metrics", *metrics, "--output=json.json")
    (again,) = json.loads(Path("json.json").read_text())["results"].values()
    assert again == found


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Give a model, or --predictions."),
        (["MODEL", "--predictions=hyp.txt"], "Give a model or --predictions, not both."),
        (["MODEL"], "is not a run directory: give --task or --experiment."),
        (["MODEL", TASK, "--config.steps=3"], "--config.steps changes an experiment"),
        (["MODEL", TASK, "--config.data.lengths=3"], "lengths is no field"),
        (["MODEL", TASK, "--split=held_out", "--examples=0"], "--examples is 0: above 0, or all."),
        (["MODEL", TASK.replace("all.tsv", "absent.tsv")], "absent.tsv"),
        (["MODEL", '--task=TextToText(examples=TSVExamples("all.tsv"))'], "no test split"),
        (
            ["--predictions=ru.txt", "--references=ru.txt", "--metrics=ROUGE()"],
            "reads only the letters a to z",
        ),
        (["--predictions=zh.txt", "--references=zh.txt", "--metrics=BLEU()"], 'give BLEU(tokenize="zh") or BLEU('),
        (["MODEL", "--task=Poetry()"], "--task is Poetry(...): allowed is"),
        (["MODEL", TASK.replace("ChrF()", "Accuracy()")], "metrics give sequence_accuracy twice"),
        (["MODEL", TASK.replace("ChrF()", 'BLEU("ja-mecab")')], 'BLEU cannot use the tokenizer "ja-mecab" here'),
        (["MODEL", TASK, "--generation.beams=3"], "beams is no field"),
        (["MODEL", TASK, "--output=."], "exists: nothing is overwritten"),
        (["MODEL", TASK, "--output=absent/out"], "there is no directory"),
        (["MODEL", TASK, "--beams=3"], "--beams=3 is not understood"),
        (["RUN", "--split=test"], "--split is test: for denoising it must be held_out."),
        (["RUN", "--generation.max_length=3"], "--generation... is for tasks"),
        (["RUN", "--examples=3", "--seed=2"], "--examples and --seed is for tasks"),
        (
            ["--predictions=hyp.txt", "--metrics", "BLEU()", "--examples=3"],
            "--examples cannot be used with --predictions",
        ),
        (["--predictions=hyp.txt", "--metrics", "BLEU()", "--config.seed=3"], "--config... cannot be used with"),
        (["--predictions=hyp.txt", "--metrics", "BLEU()"], "hyp.txt has no references: give files of references"),
        (["--predictions=hyp.txt", "--references=all.tsv"], "--predictions needs --metrics"),
        (["--predictions=absent.txt", "--metrics", "BLEU()"], "absent.txt: there is no such file."),
        (
            ["--predictions=hyp.txt", "--metrics", "BLEU()", "--references=all.tsv"],
            "hyp.txt has 2 predictions and all.tsv 21 lines: give one for each.",
        ),
        (
            ["--predictions=hyp.txt", "--metrics", "METEOR()", "--references=all.tsv"],
            "--metrics is METEOR(...): allowed is",
        ),
        (
            ["--predictions=bad.jsonl", "--metrics", "BLEU()"],
            'bad.jsonl, line 1 has no text under "prediction", nor in the first of its "outputs".',
        ),
    ],
)
def test_bad_input_is_one_sentence(model, tiny_run, capsys, monkeypatch, arguments, sentence):
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_ja_mecab.MeCab", None)
    Path("hyp.txt").write_text("a\nb\n")
    Path("ru.txt").write_text("В 1990 году\n" + "Обычное предложение\n" * 20)
    Path("zh.txt").write_text("他们正在雨中的街道上奔跑。\n" * 2)
    Path("bad.jsonl").write_text('{"a": 1}\n')
    before = set(os.listdir())
    places = {"MODEL": str(model), "RUN": str(tiny_run)}
    assert evaluate.main([places.get(argument, argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert sentence in err
    assert err.count("\n") == 1
    assert set(os.listdir()) == before
    assert not (tiny_run / "evaluations").exists()
