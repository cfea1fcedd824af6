"""scripts.generate and scripts.score: from text and pairs, however they are given, to a line each, in order."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from research import Generation
from research.decode.generate import Generator
from research.model.transformer import initial_params
from research.pretrained import find, huggingface
from research.pretrained.tokenizer_files import write_tokenizer
from scripts import generate, score

LINES = ["a longer line of text", "", "short", "The <extra_id_0> of a list."]
FEW = "--generation.max_length=6"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in.txt").write_text("\n".join(LINES) + "\r\n")
    Path("in.jsonl").write_text("\n".join(json.dumps({"id": n, "text": text}) for n, text in enumerate(LINES)) + "\n\n")
    Path("pairs.tsv").write_text("a longer source\tb\nc\tlonger target\td\n")


@pytest.fixture(scope="module")
def model(tiny_run, tmp_path_factory) -> Path:
    """A directory of weights so large that what is written depends on the line."""
    run, directory = find.find(tiny_run), tmp_path_factory.mktemp("model") / "model"
    params = jax.tree.map(lambda leaf: 3 * leaf, initial_params(run.model, jax.random.key(0)))
    huggingface.write(directory, run.model, params, Generation(0, 1, 0))
    write_tokenizer(run.tokenizer(), directory)
    return directory


@pytest.fixture(scope="module")
def expected(model) -> list[str]:
    """What the lines give, each alone."""
    return [answer(model, line) for line in LINES]


def answer(model: Path, line: str) -> str:
    options = generate.parser().parse_args([str(model), "x"])
    generator = generate.open_generator(options, {"max_length": "6"})
    ((found,),) = [next(iter(outputs.values())) for outputs in generator.run(generator.prepare([line])[0])]
    return generate.one_line(found.text)


def say(script, capsys, *arguments: object) -> str:
    """What a command that succeeds says."""
    assert script.main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def test_text_is_taken_from_arguments_files_and_standard_input(model, expected, capsys, standard_input):
    written = "".join(f"{line}\n" for line in expected)
    assert expected[1] == ""
    assert len(set(expected)) > 2
    assert say(generate, capsys, model, FEW, *LINES) == written
    assert say(generate, capsys, model, FEW, "--input=in.txt") == written
    standard_input("\n".join(LINES))
    assert say(generate, capsys, model, "--input", "-", FEW) == written
    assert say(generate, capsys, model, FEW, "--input=in.jsonl", "--output=out.txt") == ""
    assert Path("out.txt").read_text() == written
    assert say(generate, capsys, model, FEW, "--input=in.txt", "--output=out.jsonl", "--scores") == ""
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == LINES
    assert all(row["outputs"][0].keys() == {"text", "score"} for row in rows)
    assert say(generate, capsys, model, FEW, "--input=in.jsonl", "--output=kept.jsonl") == ""
    rows = [json.loads(line) for line in Path("kept.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [0, 1, 2, 3]
    assert sorted(os.listdir()) == ["in.jsonl", "in.txt", "kept.jsonl", "out.jsonl", "out.txt", "pairs.tsv"]


def test_every_reader_of_lines_has_one_rule(capsys, standard_input):
    content = "\ufeffa\rb\tc\x0b\r\nd\u2028e\tf\n".encode()
    Path("in.tsv").write_bytes(content)

    def texts(script, *arguments: str) -> list[str]:
        options = generate.parser().parse_args(["model", *arguments])
        rows = generate.read(options) if script is generate else score.read(options)
        return ["\t".join(row.values()) for row in rows]

    assert texts(generate, "--input=in.tsv") == texts(score, "--input=in.tsv") == ["a\rb\tc\x0b", "d\u2028e\tf"]
    standard_input(content.decode())
    assert texts(generate, "--input=-") == ["a\rb\tc\x0b", "d\u2028e\tf"]
    Path("in.tsv").write_bytes(b"a\xff\n")
    assert texts(generate, "--input=in.tsv", "--bad_bytes=replace") == ["a\ufffd"]
    assert "in.tsv is not UTF-8 text: U+FFFD replaces its bytes in 1 places" in capsys.readouterr().err


def test_an_output_is_one_line_and_keeps_its_letters():
    options = generate.parser().parse_args(["model"])
    assert generate.plain({}, [{"text": "a\r\nb\u2028\x0bc\rd\n"}], options) == ["a b\u2028\x0bc d"]


def test_a_conversation_through_a_pipe(model, expected, capsys, standard_input):
    standard_input(f"{LINES[0]}\n{LINES[2]}\n")
    assert say(generate, capsys, model, FEW, "--interactive").splitlines() == [expected[0], expected[2]]
    standard_input(f"{LINES[2]}\n\n{LINES[0]}\n")
    said = say(generate, capsys, model, FEW, LINES[0], "--interactive").splitlines()
    assert said == [expected[0], expected[2]]


def test_a_killed_command_goes_on_unless_something_else_is_asked(model, expected, capsys, monkeypatch):
    arguments = [str(model), "--input=in.txt", "--output=out.txt", "--batch_size=8", FEW]
    decoded = []
    original = Generator._decode

    def counted(self, numbers, rows):
        if len(decoded) == 1:
            raise KeyboardInterrupt
        decoded.append(numbers)
        return original(self, numbers, rows)

    Path("in.txt").write_text("\n".join(LINES * 5))  # three batches of the eight devices here
    with monkeypatch.context() as patch:
        patch.setattr(Generator, "_decode", counted)
        assert generate.main(arguments) == 130
    partial = Path("out.txt.partial").read_bytes()
    assert partial.count(b"\n") == 3  # what was asked, the empty lines, a batch
    capsys.readouterr()
    assert generate.main([*arguments, "--compute=bfloat16"]) == 2
    assert "was begun by another command or for other lines" in capsys.readouterr().err
    assert Path("out.txt.partial").read_bytes() == partial
    assert say(generate, capsys, *arguments) == ""
    assert Path("out.txt").read_text().splitlines() == expected * 5


def test_pairs_are_scored_from_tabs_objects_and_standard_input(model, capsys, standard_input):
    lines = say(score, capsys, model, "--input=pairs.tsv").splitlines()
    totals = [line.split("\t") for line in lines]
    assert [int(tokens) for _, tokens in totals] == [2, len("longer target\td") + 1]  # bytes, and EOS
    assert all(float(total) < 0 for total, _ in totals)
    standard_input(Path("pairs.tsv").read_text())
    assert say(score, capsys, model, "--input=-").splitlines() == lines
    rows = [{"text": "a longer source", "target": "b", "id": 7}]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert say(score, capsys, model, "--input=pairs.jsonl", "--output=out.jsonl") == ""
    (row,) = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert row["id"] == 7
    assert row["tokens"] == len(row["token_scores"]) == 2
    assert f"{row['score']:.4f}" == totals[0][0]
    assert abs(sum(row["token_scores"]) - row["score"]) < 1e-6


@pytest.mark.parametrize(
    ("script", "arguments", "sentence"),
    [
        (generate, [], "Standard input has no lines: give lines of text, or --input."),
        (generate, ["a", "--input=in.txt"], "Give lines of text, or --input, and not both."),
        (generate, ["a", "--generation.beams=4"], "beams is no field"),
        (generate, ["a", "--config.steps=4"], "overrides look like --generation.max_length=200"),
        (generate, ["a", "--seed=-1"], "--seed is -1: it must lie in [0, 2**32)."),
        (generate, ["a", "--batch_size=0"], "--batch_size is 0: it must be above 0."),
        (generate, ["a", "--source_language=en"], "this tokenizer has no language codes"),
        (generate, ["a", "--target_language=en"], "this tokenizer has no language codes"),
        (generate, ["a", "--mesh=Mesh(tensor=3)"], "mesh is"),
        (
            generate,
            ["a", "--tokenizer=absent"],
            "absent is not a tokenizer: give a directory or a SentencePiece model.",
        ),
        (generate, ["a", "", "--strict"], "Line 2 is empty."),
        (generate, ["a", "--output=in.txt"], "in.txt exists: nothing is overwritten"),
        (generate, ["a", "--output=absent/out.txt"], "there is no directory"),
        (generate, ["--interactive", "--output=out.txt"], "--output needs lines of text or --input."),
        (generate, ["--input=absent.txt"], "--input absent.txt: there is no such file."),
        (generate, ["--input=pairs.jsonl"], "pairs.jsonl, line 2 is not a JSON object with text under text."),
        (generate, ["--input=latin.txt"], "latin.txt is not UTF-8 text: byte 0xe9 at offset 2 (line 2)"),
        (generate, ["--input=half.jsonl"], 'half.jsonl, line 1: the value of "text" holds half of a surrogate pair.'),
        (generate, ["a\udcff"], "Line 1 of the arguments is not UTF-8 text."),
        (generate, ["--input=broken.jsonl"], "broken.jsonl, line 1 is not JSON"),
        (score, ["--input=in.txt"], "in.txt, line 1 has no tab between a source and a target."),
        (score, ["--input=in.jsonl"], "in.jsonl, line 1 is not a JSON object with text under text and target."),
        (score, ["--input=empty.tsv"], "--input empty.tsv has no pairs."),
        (score, ["--input=one_sided.tsv"], "one_sided.tsv, pair 2 has an empty target: give both sides of every pair."),
        (score, ["--input=pairs.tsv", "--output=in.txt"], "in.txt exists: nothing is overwritten"),
    ],
)
def test_bad_input_is_one_sentence(model, capsys, script, arguments, sentence):
    Path("pairs.jsonl").write_text('{"text": "a"}\n{"text": 3}\n')
    Path("broken.jsonl").write_text("{\n")
    Path("latin.txt").write_bytes(b"a\n\xe9\n")
    Path("half.jsonl").write_text('{"text": "\\ud800"}\n')
    Path("empty.tsv").write_text("")
    Path("one_sided.tsv").write_text("a\tb\na\t \n")
    before = set(os.listdir())
    assert script.main([str(model), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert sentence in err
    assert err.count("\n") == 1
    assert set(os.listdir()) == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["generate", "score", "convert", "evaluate"])
def test_help(name):
    command = [sys.executable, "-m", f"scripts.{name}", "--help"]
    root = Path(__file__).resolve().parents[2]
    said = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"usage: python -m scripts.{name}")
