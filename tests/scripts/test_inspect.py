"""`kintsugi inspect`: the page of an example of a run, of a text of one's own, and of Hugging Face's models."""

import csv
import dataclasses
import html.parser
import re
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_run import supervised

from research import Buckets, Packed, load
from research.config import ConfigError
from research.decode.inspection import Inspection, Prediction, Token, one_row
from research.decode.inspection import inspect as inspected
from research.pretrained.tokenizer_files import write_tokenizer
from research.report import inspection_page
from research.storage.run_directory import read_config
from research.train.run import prepare_data
from scripts import inspect

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "<script>alert(1)</script>"


class Elements(html.parser.HTMLParser):
    """The tags, ids and labels of a page; all of its elements are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.open, self.ids, self.labelled = set[str](), list[str](), list[str](), list[str]()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.add(tag)
        assert "style" not in found
        assert not {"src", "href", "onclick", "onerror"} & set(found)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.labelled += [found["for"] or ""] if tag == "label" else []
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def rows_of(page: Path) -> list[dict[str, str]]:
    with page.with_suffix(".csv").open() as file:
        return list(csv.DictReader(file))


def made(t: int, s: int, heads: int = 2) -> Inspection:
    """An inspection with hostile tokens and random weights."""
    draw = np.random.default_rng(0)
    tokens = [Token(HOSTILE, "text"), Token('"><img src=x onerror=alert(1)>', "text")]
    inputs, targets = ([tokens[number % 2] for number in range(count)] for count in (s, t))
    attention = {}
    for part, shape in (("encoder", (s, s)), ("decoder", (t, t)), ("cross", (t, s))):
        weights = draw.random((3, heads, *shape)).astype(np.float32)
        attention[part] = weights / weights.sum(-1, keepdims=True)
    predictions = [Prediction(-0.25, 1, [(tokens[0], 0.5), (tokens[1], 2e-7)])] * t
    return Inspection(inputs, targets, targets, predictions, attention)


# --- The page ---------------------------------------------------------------------------------------------------------


def test_hostile_tokens_stay_text_and_every_head_can_be_chosen(tmp_path: Path) -> None:
    found = made(4, 6)
    text = inspection_page.write(tmp_path / "page", f"title {HOSTILE}", found).read_text()
    page = Elements(text)
    assert not page.tags & {"script", "img", "iframe", "link"}
    assert "&lt;script&gt;alert(1)" in text
    assert len(page.ids) == len(set(page.ids))
    heads = [f"{part}-{layer}-{head}" for part in found.attention for layer in range(3) for head in range(2)]
    assert [id for id in page.ids if re.fullmatch(r"(encoder|decoder|cross)-\d+-\d+", id)] == heads
    assert set(heads) < set(page.labelled)
    for name in heads:
        assert text.count(f"--{name}: url(data:image/png;base64,") == 1
        assert f"#{name}:checked ~ .{name} {{ display: block; }}" in text
    weights = found.attention["cross"][2, 1]
    t, s = np.unravel_index(weights.argmax(), weights.shape)
    assert f"({t}) reads {inspection_page.html.escape(found.inputs[s].text)} ({s}): {weights.max():.4f}" in text
    (first, *_) = rows_of(tmp_path / "page.html")
    assert (float(first["nats"]), float(first["probability"])) == (0.25, np.exp(-0.25))
    assert first["choice 2"].endswith(" 2e-07")


def test_pictures_hold_the_weights_and_large_ones_the_largest_of_blocks() -> None:
    weights = np.array([[0.0, 1.0, 0.25], [0.04, 0.5, 0.01]], np.float32)
    levels = inspection_page.shades(weights)
    np.testing.assert_allclose((levels / (inspection_page.LEVELS - 1)) ** 2, weights, atol=0.03)
    picture = inspection_page.png(levels)
    assert picture.startswith(b"\x89PNG")
    assert np.frombuffer(picture, ">u4", 2, picture.index(b"IHDR") + 4).tolist() == [3, 2]
    start = picture.index(b"IDAT")
    content = zlib.decompress(picture[start + 4 : picture.index(b"IEND") - 8])
    assert np.frombuffer(content, np.uint8).reshape(2, 4)[:, 1:].tolist() == levels.tolist()
    np.testing.assert_array_equal(inspection_page.pooled(weights, 2), weights[:, 1:].max(0)[None] * 0 + [[1.0, 0.25]])
    np.testing.assert_array_equal(inspection_page.pooled(weights, 1), weights)


@pytest.mark.slow
def test_a_long_example_of_a_large_model_makes_a_page_of_a_few_megabytes(tmp_path: Path) -> None:
    text = inspection_page.write(tmp_path / "page", "long", made(114, 512, heads=48)).read_text()
    assert 1e5 < len(text) < 4e6
    assert "A pixel of a picture is the largest of 5 x 5 weights." in text
    assert "The tables of what each position reads are left out" in text


# --- The command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KINTSUGI_CACHE", str(tiny_run.parent / "cache"))
    return tmp_path


def options_of(**given: object) -> SimpleNamespace:
    defaults = {"split": "held_out", "text": None, "target": None, "seed": 0, "model": "run"}
    return SimpleNamespace(**(defaults | given))


@pytest.mark.slow
def test_an_example_of_a_run_is_its_held_out_row(elsewhere: Path, tiny_run: Path, capsys) -> None:
    assert inspect.main([str(tiny_run), "--example", "11", "--out", "page", "--alternatives", "2"]) == 0
    assert capsys.readouterr().out.endswith("page.html\n")
    rows, model = rows_of(Path("page.html")), load(tiny_run)
    second = list(prepare_data(read_config(tiny_run)).held_out(11))[1]  # of batches of eight rows
    found = inspected(model, one_row(second, 2), 2)
    assert [row["target"] for row in rows] == [token.text for token in found.targets]
    np.testing.assert_allclose(
        [float(row["nats"]) for row in rows], [-one.log_probability for one in found.predictions], rtol=1e-6
    )
    assert {row["kind"] for row in rows} == {"text", "sentinel", "special"}
    assert {"encoder-0-1", "decoder-0-1", "cross-0-1"} < set(Elements(Path("page.html").read_text()).ids)


def test_a_text_of_ones_own_is_corrupted_by_the_objective_of_the_run(elsewhere: Path, tiny_run: Path) -> None:
    assert inspect.main([str(tiny_run), "--text", f"a line of {HOSTILE} here", "--out", "page"]) == 0
    text = Path("page.html").read_text()
    assert "script" not in Elements(text).tags
    assert "&lt;extra_id_0&gt;" in text


@pytest.mark.parametrize("batching", [Packed(), Buckets((12, 24))])
def test_an_example_of_a_task_is_alone_in_its_row(batching, elsewhere: Path, tiny_run: Path) -> None:
    config, model = supervised(elsewhere, batching), load(tiny_run)
    row = inspect.of_task(model, config, options_of(example=13))
    assert model.tokenizer.text(row.encoder_input_tokens[0]) == "ab" * 2
    assert model.tokenizer.text(row.decoder_target_tokens[0]) == "012"
    assert row.encoder_segment_ids is None
    twice = dataclasses.replace(config.data, tasks=config.data.tasks * 2)
    both = SimpleNamespace(data=twice)
    row = inspect.of_task(model, both, options_of(example=63))
    assert model.tokenizer.text(row.decoder_target_tokens[0]) == "002"
    with pytest.raises(ConfigError, match="--example is 121: there are 120 held_out examples"):
        inspect.of_task(model, both, options_of(example=121))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN"], "Give one of --example, --text and --source."),
        (["RUN", "--example", "1", "--text", "a"], "Give one of --example, --text and --source."),
        (["RUN", "--example", "0"], "--example is 0: the first one is 1."),
        (["RUN", "--example", "1000"], "--example is 1000: there are"),
        (["RUN", "--example", "1", "--split", "test"], "--split is test: for denoising it must be held_out."),
        (["RUN", "--example", "1", "--target", "a"], "--target needs --source."),
        (["RUN", "--source", "a", "--target", "b"], "A text of your own needs --out"),
        (["RUN", "--text", "a", "--out", "no/where"], "--out no/where: there is no directory no."),
        (["RUN", "--text", "word " * 20, "--out", "page"], "The text has 100 tokens, and a row has at most 52"),
        (["RUN", "--text", "a line", "--seed", "-1", "--out", "page"], "--seed is -1: it must lie in"),
        (
            ["RUN", "--text", "a line of text", "--alternatives", "0", "--out", "page"],
            "The number of alternatives is 0",
        ),
        (["absent", "--example", "1"], "absent is not a run directory"),
        (["absent", "--source", "a", "--out", "page"], "absent does not exist"),
        ([".", "--source", "a", "--out", "page"], "has no known format"),
    ],
)
def test_bad_input(arguments: list[str], message: str, elsewhere: Path, tiny_run: Path, capsys) -> None:
    assert inspect.main([str(tiny_run) if one == "RUN" else one for one in arguments]) == 2
    assert message in capsys.readouterr().err
    assert list(elsewhere.iterdir()) == []


def test_its_file_gives_way_to_the_standard_library() -> None:
    code = "import sys; sys.path.insert(0, 'scripts'); import inspect, dataclasses; print(inspect.signature(print))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.stdout.startswith("(*args"), ran.stderr


@pytest.mark.live
@pytest.mark.parametrize("variant", ["t5", "bart"])
def test_live_parity_with_hugging_face(variant: str, families, tmp_path: Path, monkeypatch) -> None:
    """The probabilities and the attention of a directory are those of PyTorch's softmax and outputs."""
    torch = pytest.importorskip("torch")
    goldens = pytest.importorskip("scripts.make_goldens")
    tokenizer, directory = families[variant], tmp_path / "model"
    reference = goldens.build(goldens.VARIANTS[variant], seed=3, vocab_size=tokenizer.size)
    write_tokenizer(tokenizer, directory)
    reference.save_pretrained(directory)
    pages, write = list[Inspection](), inspection_page.write
    monkeypatch.setattr(inspection_page, "write", lambda *given: (pages.append(given[2]), write(*given))[1])
    texts = ["--source", "the river <extra_id_0> house", "--target", "quickly and nobody's"]
    assert inspect.main([str(directory), *texts, "--out", str(tmp_path / "page")]) == 0
    row = load(directory).batch(texts[1::4], texts[3::4])
    with torch.no_grad():
        theirs = reference(
            input_ids=torch.from_numpy(row.encoder_input_tokens),
            decoder_input_ids=torch.from_numpy(row.decoder_input_tokens),
            output_attentions=True,
            use_cache=False,
        )
    likelihoods = theirs.logits.log_softmax(-1)[0].numpy()
    rows, targets = rows_of(tmp_path / "page.html"), row.decoder_target_tokens[0]
    nats = [-likelihoods[position, target] for position, target in enumerate(targets)]
    np.testing.assert_allclose([float(one["nats"]) for one in rows], nats, rtol=1e-5, atol=1e-5)
    best = np.sort(np.exp(likelihoods))[:, ::-1][:, 0]
    np.testing.assert_allclose([float(one["choice 1"].split()[-1]) for one in rows], best, rtol=1e-5)
    shown = {
        "encoder": theirs.encoder_attentions,
        "decoder": theirs.decoder_attentions,
        "cross": theirs.cross_attentions,
    }
    for part, layers in shown.items():
        np.testing.assert_allclose(pages[0].attention[part], torch.stack(layers)[:, 0].numpy(), atol=1e-5)
