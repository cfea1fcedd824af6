"""New tokens: their rows, their ids in any text, the files, and what transformers makes of them."""

import json
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
import vocabularies
from safetensors.numpy import load_file, save_file
from tuned_directories import PADDING, logits, write_model
from vocabularies import FORGED, LINES, ODD

from research import (
    AdamW,
    ByteLevelBPE,
    Constant,
    Experiment,
    Extended,
    JSONExamples,
    Mesh,
    Model,
    ModelTokenizer,
    Pretrained,
    Summarization,
    Supervised,
)
from research.config import ConfigError, override
from research.data.tokenizer import ExtendedTokenizer, open_tokenizer
from research.parallel.mesh import make_mesh
from research.pretrained.files import Tensors, read_json
from research.pretrained.find import find_initial
from research.pretrained.new_tokens import spelling
from research.pretrained.run_files import saved_vocabulary
from research.pretrained.tokenizer_files import read_tokenizer, write_tokenizer
from research.train.state import state_shardings
from research.train.summary import describe_weights
from scripts.add_tokens import main
from scripts.trim import main as trim

FAMILIES = ("t5", "fallback", "mt5", "bart", "cc25", "50", "marian")
TOKENS = ("<sep>", "newword", "newwords", "<ж>")
TEXTS = [
    *("a <sep> b", "a<sep>b", "newwords x newword", "<sep>", "<sep><sep>y", "ä <SEP> xnewwordsy", "newwor<sep>d<ж>."),
    *("die<sep> Häuser", "die <ж>的 Häuser", "", "a  <sep>\tb"),
]  # fmt: skip


@pytest.fixture(scope="module")
def directories(families, tmp_path_factory):
    """Models as they are and, in the folder `new`, with new tokens."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "new").mkdir()
    for name in FAMILIES:
        write_model(folder / name, name, families[name])
        assert main([str(folder / name), "--tokens", *TOKENS, "--out", str(folder / "new" / name)]) == 0
    return folder


def language_of(name):
    return "ro_RO" if name in ("cc25", "50") else None


@pytest.mark.parametrize("name", FAMILIES)
def test_new_ids_follow_the_old_ones(directories, families, name):
    old, new = families[name], read_tokenizer(directories / "new" / name)
    assert isinstance(new, ExtendedTokenizer)
    assert (new.size, new.target_size) == (old.size + 4, old.target_size + 4)
    first, language = old.size, language_of(name)
    assert new.encode("a<sep>newwords") == [*old.encode("a"), first, first + 2]
    assert new.encode("newwordx") == [first + 1, *old.encode("x")]
    for side in ("source", "target"):
        texts = [*LINES[:200], *ODD, *FORGED]
        assert getattr(new, side)(texts, language) == getattr(old, side)(texts, language)
    (whole,), (short,) = (new.source(["a <sep>"], language, limit=limit) for limit in (None, 4))
    before, after = new.special_tokens(language)
    assert short == [*before, *whole[len(before) : 4 - len(after)], *after]
    ids = new.target(["die<sep>newword Häuser"], language)[0]
    assert new.text(ids).replace(" ", "") == "die<sep>newwordHäuser"
    assert "die<sep>newword" in new.decode(ids)
    assert new.sentinel_ids.tolist() == old.sentinel_ids.tolist()
    assert new.token_bytes[first] == b"<sep>"
    assert new.word_starts[first:].all()


@pytest.mark.parametrize("name", FAMILIES)
def test_rows_are_the_means_of_the_pieces_that_spelled_them(directories, families, name):
    old, new = (dict(Tensors(path / name)) for path in (directories, directories / "new"))
    tokenizer, checked = families[name], 0
    rows = read_json(directories / "new" / name / "config.json")["vocab_size"]
    padding = 0 if name in ("bart", "cc25", "50", "marian") else PADDING
    assert rows == tokenizer.size + max(padding, len(TOKENS))
    assert old.keys() == new.keys()
    for tensor, before in old.items():
        after = new[tensor]
        if before.shape == after.shape and tokenizer.size + padding not in before.shape:
            assert np.array_equal(before, after)
            continue
        checked += 1
        before, after = (array.T if "bias" in tensor else array for array in (before, after))
        assert after.shape == (rows, *before.shape[1:])
        assert np.array_equal(after[: tokenizer.size], before[: tokenizer.size])
        for place, token in enumerate(TOKENS):
            known = [id for id in tokenizer.encode(token) if id != tokenizer.unknown_id]
            np.testing.assert_allclose(after[tokenizer.size + place], before[known].mean(0), atol=1e-6)
    assert checked > 0


def test_logits_of_old_ids_are_equal(directories, families):
    size = families["bart"].size
    ids = list(range(3, 40, 3))
    before, after = (logits(path / "bart", ids, ids) for path in (directories, directories / "new"))
    np.testing.assert_allclose(after[:, :size], before, rtol=0, atol=2e-6 * np.abs(before).max())


def test_a_vocabulary_is_saved_and_opened_with_its_new_tokens(directories, tmp_path):
    for name in FAMILIES:
        tokenizer = read_tokenizer(directories / "new" / name)
        (tmp_path / name).mkdir()
        config = tokenizer.save(tmp_path / name / "tokenizer.model")
        assert isinstance(config, Extended)
        assert open_tokenizer(saved_vocabulary(tmp_path / name, config)).digest == tokenizer.digest
        assert Extended(config.vocabulary, ("<sep>",)) != config


def test_more_tokens_and_a_trim_keep_the_others(directories, tmp_path, capsys):
    assert main([str(directories / "new" / "t5"), "--tokens", "<more>", "--out", str(tmp_path / "more")]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("<more>: the mean of ' ' 'm'")
    more = read_tokenizer(tmp_path / "more")
    assert more.tokens == (*TOKENS, "<more>")
    (tmp_path / "a.txt").write_text(" ".join(LINES[:1000]) + "<more> <sep>")
    assert trim([str(tmp_path / "more"), "--corpus", str(tmp_path / "a.txt"), "--out", str(tmp_path / "small")]) == 0
    small = read_tokenizer(tmp_path / "small")
    assert small.size < more.size
    assert small.encode("<sep><more>") == [small.size - 5, small.size - 1]


@pytest.mark.parametrize(
    ("name", "tokens", "sentence"),
    [
        ("t5", ["</s>"], "The vocabulary has '</s>' already: name only new tokens."),
        ("t5", ["<extra_id_3>"], "The vocabulary has '<extra_id_3>' already"),
        ("bart", ["e"], "The vocabulary has 'e' already"),
        ("cc25", ["de_DE", "new"], "The vocabulary has 'de_DE' already"),
        ("new/t5", ["<sep>"], "The vocabulary has '<sep>' already"),
        ("t5", ["a b"], "The new tokens are 'a b': they must be distinct and without white space."),
        ("t5", ["<x>", "<x>"], "they must be distinct"),
        ("byt5", ["<x>"], "ByT5's tokenizer in Hugging Face's format cannot have new tokens."),
    ],
)
def test_bad_input_is_one_sentence(directories, families, tmp_path, capsys, name, tokens, sentence):
    if name == "byt5":
        write_model(directories / name, name, families[name])
    assert main([str(directories / name), "--tokens", *tokens, "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flag", ["lstrip", "normalized", "rstrip", "single_word", "special"])
def test_tokens_of_another_kind_are_refused(families, tmp_path, flag):
    """They would depend on the text around them, or be read from text as a control."""
    write_tokenizer(ExtendedTokenizer(families["t5"], ["<sep>"]), tmp_path)
    config = read_json(tmp_path / "tokenizer_config.json")
    config["added_tokens_decoder"][str(families["t5"].size)][flag] = True
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"adds tokens that .* '<sep>'"):
        read_tokenizer(tmp_path)


# --- Pretrained -------------------------------------------------------------------------------------------------------


def fine_tuning(model: Model, tokenizer=ModelTokenizer()) -> Experiment:
    task = Summarization(examples=JSONExamples("absent.jsonl"))
    data = Supervised((task,), tokenizer, input_length=32, target_length=16)
    return Experiment(model=model, data=data, optimizer=AdamW(schedule=Constant(peak=1e-3)), steps=1, batch_size=8)


@pytest.mark.parametrize("name", FAMILIES)
def test_pretrained_reads_what_add_tokens_writes(directories, name):
    made = Pretrained(str(directories / name), new_tokens=TOKENS)
    written = Pretrained(str(directories / "new" / name))
    assert made.plain == written.plain
    assert open_tokenizer(made.tokenizer).digest == open_tokenizer(written.tokenizer).digest
    one, two = (find_initial(config, config.weights) for config in (fine_tuning(made), fine_tuning(written)))
    assert one.tokenizer().digest == two.tokenizer().digest
    assert one.vocabulary() == made.tokenizer
    assert one.generation(one.tokenizer(), language_of(name)) == two.generation(two.tokenizer(), language_of(name))
    assert jax.tree.all(jax.tree.map(np.array_equal, one.params(), two.params()))
    assert override.from_json(override.to_json(fine_tuning(made))).model == made


def test_half_precision_and_shards_of_the_vocabulary(directories, tmp_path):
    """The embedding, the head and the bias of BART and mT5, in bfloat16, on two devices that share their rows."""
    for name in ("bart", "mt5"):
        half = shutil.copytree(directories / name, tmp_path / name)
        tensors = load_file(half / "model.safetensors")
        save_file({key: array.astype(ml_dtypes.bfloat16) for key, array in tensors.items()}, half / "model.safetensors")
        assert main([str(half), "--tokens", *TOKENS[:3], "--out", str(tmp_path / f"new_{name}")]) == 0
        made, written = Pretrained(str(half), new_tokens=TOKENS[:3]), Pretrained(str(tmp_path / f"new_{name}"))
        assert made.vocab_size == written.vocab_size
        mesh = make_mesh(Mesh(data=4, fsdp=2))
        params = [
            find_initial(config, config.weights).params(state_shardings(config, mesh).params)
            for config in (fine_tuning(made), fine_tuning(written))
        ]
        assert len(params[0]["embedding"].sharding.device_set) == 8
        assert params[0]["embedding"].sharding.shard_shape(params[0]["embedding"].shape) != params[0]["embedding"].shape
        assert jax.tree.all(jax.tree.map(np.array_equal, *params))


def test_new_tokens_by_an_override_or_a_tokenizer_of_ones_own(directories):
    path = str(directories / "bart")
    by_name = override.apply(fine_tuning(Pretrained(path)), {"model.new_tokens": '["<sep>", "newword"]'}).model
    assert by_name == Pretrained(path, new_tokens=("<sep>", "newword"))
    assert "new_tokens ('<sep>', 'newword') (there ())" in describe_weights(by_name)
    assert Pretrained(path, new_tokens=("<sep>",), tokenizer=ByteLevelBPE(path)) == Pretrained(
        path, new_tokens=("<sep>",)
    )
    more = Pretrained(str(directories / "new" / "t5"), new_tokens=("<more>",))
    assert more.tokenizer.tokens == (*TOKENS, "<more>")
    weights = find_initial(fine_tuning(more), more.path)
    rows = Tensors(directories / "new" / "t5")["shared.weight"]
    tokenizer = read_tokenizer(directories / "new" / "t5")
    expected = rows[spelling(tokenizer, "<more>")].mean(0)
    assert np.array_equal(weights.params()["embedding"][tokenizer.size], expected)


@pytest.mark.parametrize(
    ("name", "tokens", "sentence"),
    [
        ("t5", ("</s>",), "The vocabulary has '</s>' already: name only new tokens."),
        ("new/t5", ("<sep>",), "The vocabulary has '<sep>' already: name only new tokens."),
        ("t5", ("<x>", "<x>"), "they must be distinct and without white space."),
        ("t5", "<x>", "The new tokens are '<x>': give a list of texts"),
        ("byt5", ("<x>",), "ByT5's tokenizer in Hugging Face's format cannot have new tokens."),
        ("separate", ("<x>",), "Separate vocabularies of source and target cannot have new tokens."),
        ("m2m_100", ("<x>",), "M2M-100's vocabulary cannot have new tokens: the ids after its pieces are those of"),
        ("bare", ("<x>",), "bare holds no tokenizer, which spells new_tokens: give one"),
        ("absent", ("<x>",), "absent does not exist"),
    ],
)
def test_pretrained_refuses_in_one_sentence(directories, families, tmp_path, name, tokens, sentence):
    path = directories / name
    if name in ("byt5", "m2m_100", "separate") and not path.exists():
        write_model(path, "marian" if name == "separate" else name, families[name])
    if name == "bare":
        path = shutil.copytree(directories / "t5", tmp_path / name)
        for file in ("spiece.model", "tokenizer_config.json"):
            (path / file).unlink()
    with pytest.raises(ConfigError) as error:
        Pretrained(str(path), new_tokens=tokens)
    assert sentence in str(error.value)


def test_runs_and_other_tokenizers_are_refused(directories, tiny_run):
    with pytest.raises(ConfigError, match=r"is a run: write it as a directory first, by kintsugi convert"):
        Pretrained(str(tiny_run), new_tokens=("<x>",))
    made = Pretrained(str(directories / "bart"), new_tokens=("<x>",))
    with pytest.raises(ConfigError, match=r"belong to the tokenizer of the model: give data.tokenizer=ModelTokenizer"):
        fine_tuning(made, ByteLevelBPE(str(directories / "bart")))


# --- Hugging Face -----------------------------------------------------------------------------------------------------


def is_normal(processor, text):
    """Tell texts that mBART's model does not normalise, which transformers 5 does not either."""
    return processor.normalize(text).replace("▁", " ").strip() == text


@pytest.mark.live
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
def test_transformers_gives_equal_ids_and_what_it_saves_is_read(directories, name, tmp_path):
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    theirs, ours = (read(directories / "new" / name) for read in (AutoTokenizer.from_pretrained, read_tokenizer))
    language = language_of(name)
    if language:
        theirs.src_lang = theirs.tgt_lang = language
    assert theirs.convert_tokens_to_ids(list(TOKENS)) == list(range(ours.size - 4, ours.size))
    lines = [line for line in LINES[:100] if not language or is_normal(ours.inner.processor, line)]
    for text in [*TEXTS, *lines]:
        if name == "50" and any(f" {token}" in text or f"{token} " in text for token in TOKENS):
            continue  # its tokenizer there keeps a space before a token
        ids, found = ours.source([text], language)[0], theirs(text).input_ids
        assert found == ids or vocabularies.tied(ours.inner.processor, ids, found), text
        target, found = ours.target([text], language)[0], theirs(text_target=text).input_ids
        assert found == target or vocabularies.tied(ours.inner.processor, target, found), text
        expected = theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert ours.text(ids) == expected
    model = AutoModelForSeq2SeqLM.from_pretrained(directories / "new" / name)
    assert model.get_input_embeddings().weight.shape[0] >= len(theirs)
    theirs.save_pretrained(tmp_path)
    again = read_tokenizer(tmp_path)
    texts = [text for text in TEXTS if name != "cc25"]  # saved there without the rules of normalisation
    assert again.source(texts, language) == ours.source(texts, language)
