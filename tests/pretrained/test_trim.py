"""Trimmed vocabularies: equal ids and logits up to the new numbers, here and in transformers."""

import json
import shutil

import numpy as np
import pytest
import vocabularies
from tuned_directories import VARIANTS, logits, write_model
from vocabularies import LINES

from research import SentencePiece
from research.data.tokenizer import open_tokenizer
from research.pretrained.files import Tensors, read_json
from research.pretrained.tokenizer_files import read_tokenizer
from research.pretrained.trim import check_equal, count_use, trim_tokenizer
from research.storage.files import write_json
from research.storage.progress import Progress
from scripts.add_tokens import main as add_tokens
from scripts.trim import main

FAMILIES = ("t5", "fallback", "bpe", "mt5", "bart", "cc25", "50", "m2m_100", "marian")
LANGUAGE = {"cc25": "ro_RO", "50": "ro_RO", "m2m_100": "ro"}
CORPUS = [line for line in LINES if "ö" in line or "ă" in line][:40]


@pytest.fixture(scope="module")
def tokenizers(families, tmp_path_factory):
    path = tmp_path_factory.mktemp("bpe") / "bpe.model"
    path.write_bytes(vocabularies.t5_model(model_type="bpe", byte_fallback=True))
    return {**families, "bpe": open_tokenizer(SentencePiece(str(path), sentinels=20))}


@pytest.fixture(scope="module")
def directories(tokenizers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name in VARIANTS:
        write_model(folder / name, name, tokenizers[name])
    (folder / "corpus.txt").write_text("\n".join(CORPUS[:-1]))
    (folder / "pairs.jsonl").write_text(json.dumps({"source": CORPUS[-1], "target": "die letters"}))
    return folder


@pytest.fixture(scope="module")
def trimmed(directories):
    """Trim the model of every family once; return the directory that holds them, by name."""
    out = directories / "out"
    out.mkdir()
    for name in FAMILIES:
        corpus = ["--corpus", str(directories / "corpus.txt"), "--also", CORPUS[-1], "die letters"]
        assert main([str(directories / name), *corpus, "--out", str(out / name)]) == 0
    return out


def kept(old, new):
    """The old id of each new one, found by comparing the files: from rows that are all different."""
    rows = [{name.removeprefix("model."): array for name, array in Tensors(path).items()} for path in (old, new)]
    before, after = (file.get("shared.weight", file.get("decoder.embed_tokens.weight")) for file in rows)
    places = {row.tobytes(): id for id, row in enumerate(before)}
    return np.array([places[row.tobytes()] for row in after])


@pytest.mark.parametrize("name", FAMILIES)
def test_text_of_kept_ids_has_the_ids_that_it_had(directories, trimmed, name):
    """In the corpus, and in any other text: that is more than the corpus shows."""
    old, new = read_tokenizer(directories / name), read_tokenizer(trimmed / name)
    assert new.size < 0.95 * old.size
    map = kept(directories / name, trimmed / name)
    assert len(map) == new.size
    language = LANGUAGE.get(name)
    for sides in ("source", "target"):
        before, after = (getattr(tokenizer, sides)(LINES, language) for tokenizer in (old, new))
        others = 0
        for line, ids, now in zip(LINES, before, after, strict=True):
            if set(ids) <= set(map.tolist()):
                others += line not in CORPUS
                assert map[now].tolist() == ids
            else:
                assert line not in CORPUS
        assert others > 100
    assert map[[new.pad_id, new.eos_id, new.unknown_id]].tolist() == [old.pad_id, old.eos_id, old.unknown_id]
    assert map[new.sentinel_ids].tolist() == old.sentinel_ids.tolist()
    assert {language: map[id] for language, id in new.language_ids.items()} == old.language_ids


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_not_kept_is_spelled_by_smaller_pieces(directories, trimmed, name):
    """Every text of the characters of the corpus is readable."""
    new = read_tokenizer(trimmed / name)
    word = "".join(CORPUS[0].split())[::-1].strip('.?!。"«')
    ids = new.encode(word)
    assert new.unknown_id not in ids or new.unknown_id in read_tokenizer(directories / name).encode(word)


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_of_kept_ids_are_equal(directories, trimmed, name):
    map = kept(directories / name, trimmed / name)
    ids = np.arange(len(map))[3:40:3]
    before = logits(directories / name, map[ids].tolist(), map[ids[::-1]].tolist())
    after = logits(trimmed / name, ids.tolist(), ids[::-1].tolist())
    np.testing.assert_allclose(after, before[:, map], rtol=0, atol=2e-6 * np.abs(before).max())


@pytest.mark.parametrize("name", FAMILIES)
def test_the_ids_of_the_settings_are_renumbered(directories, trimmed, name):
    map = kept(directories / name, trimmed / name)
    for file in ("config.json", "generation_config.json"):
        old, new = (read_json(path / name / file) for path in (directories, trimmed))
        for field in ("pad_token_id", "eos_token_id", "decoder_start_token_id", "forced_bos_token_id"):
            assert (old.get(field) is None) == (new.get(field) is None)
            assert old.get(field) is None or map[new[field]] == old[field]
    assert read_json(trimmed / name / "config.json")["vocab_size"] == len(map)
    old_bans, new_bans = old["bad_words_ids"], new.get("bad_words_ids") or []
    assert [map[word].tolist() for word in new_bans] == [word for word in old_bans if set(word) <= set(map.tolist())]


def test_the_table_says_what_is_saved(directories, tmp_path, capsys):
    arguments = [str(directories / "t5"), "--corpus", str(directories / "pairs.jsonl"), "--key", "source", "target"]
    (tmp_path / "long.txt").write_text(" ".join(LINES))
    assert main([*arguments[:2], str(tmp_path / "long.txt"), "--out", str(tmp_path / "a")]) == 0
    old, new = (read_json(path / "config.json")["vocab_size"] for path in (directories / "t5", tmp_path / "a"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["rows", f"{old:,}", f"{new:,}", f"{new / old:.2%}"]
    assert lines[-1].startswith("1 texts of")


def test_json_lines_give_the_texts_of_all_keys(directories, tmp_path):
    base = [str(directories / "bart"), "--corpus", str(directories / "pairs.jsonl"), "--key"]
    for keys in (["source"], ["source", "target"]):
        assert main([*base, *keys, "--out", str(tmp_path / str(len(keys)))]) == 0
    one, both = (read_tokenizer(tmp_path / name) for name in ("1", "2"))
    assert len(both.encode("x letters")) < len(one.encode("x letters"))


def test_weights_keep_their_type(directories, tmp_path):
    import ml_dtypes
    from safetensors.numpy import load_file, save_file

    half = tmp_path / "half"
    half.mkdir()
    for path in (directories / "t5").iterdir():
        (half / path.name).write_bytes(path.read_bytes())
    tensors = load_file(half / "model.safetensors")
    save_file({name: array.astype(ml_dtypes.bfloat16) for name, array in tensors.items()}, half / "model.safetensors")
    (tmp_path / "long.txt").write_text(" ".join(LINES))
    assert main([str(half), "--corpus", str(tmp_path / "long.txt"), "--out", str(tmp_path / "out")]) == 0
    assert {array.dtype.name for array in Tensors(tmp_path / "out").values()} == {"bfloat16"}


def test_marian_keeps_the_languages_asked_for(directories, tmp_path):
    base = [str(directories / "marian"), "--corpus", str(directories / "corpus.txt"), "--languages"]
    assert main([*base, ">>ron<<", "--out", str(tmp_path / "one")]) == 0
    new = read_tokenizer(tmp_path / "one")
    assert new.languages == (">>ron<<",)
    assert kept(directories / "marian", tmp_path / "one")[new.language_id(">>ron<<")] == 3


@pytest.mark.parametrize("name", ["cc25", "50"])
def test_mbart_keeps_the_languages_asked_for(directories, tmp_path, name):
    """The first of its languages are gone, so that the ids of the others move twice."""
    base = [str(directories / name), "--corpus", str(directories / "corpus.txt"), "--languages"]
    assert main([*base, "ro_RO", "en_XX", "--out", str(tmp_path / "two")]) == 0
    old, new, map = (
        read_tokenizer(directories / name),
        read_tokenizer(tmp_path / "two"),
        kept(directories / name, tmp_path / "two"),
    )
    assert new.languages == ("en_XX", "ro_RO")
    assert {language: map[id] for language, id in new.language_ids.items()} == {
        language: old.language_id(language) for language in new.languages
    }
    assert map[new.mask_id] == old.mask_id
    assert map[new.source(CORPUS[:-1], "ro_RO")[3]].tolist() == old.source(CORPUS[:-1], "ro_RO")[3]
    assert open_tokenizer(new.save(tmp_path / "saved.model")).digest == new.digest
    assert (
        main([str(tmp_path / "two"), "--corpus", str(directories / "corpus.txt"), "--out", str(tmp_path / "again")])
        == 0
    )
    assert read_tokenizer(tmp_path / "again").languages == new.languages
    assert add_tokens([str(tmp_path / "two"), "--tokens", "<sep>", "--out", str(tmp_path / "new")]) == 2


@pytest.mark.live
@pytest.mark.parametrize("name", ["cc25", "50"])
def test_transformers_gives_the_ids_of_the_languages_kept(directories, tmp_path, name):
    from transformers import AutoTokenizer

    base = [str(directories / name), "--corpus", str(directories / "corpus.txt"), "--languages"]
    assert main([*base, "ro_RO", "en_XX", "--out", str(tmp_path / "two")]) == 0
    ours, theirs = read_tokenizer(tmp_path / "two"), AutoTokenizer.from_pretrained(tmp_path / "two")
    for language in ("ro_RO", "en_XX"):
        theirs.src_lang = language
        for text, ids in zip(CORPUS[:-1], ours.source(CORPUS[:-1], language), strict=True):
            assert theirs(text).input_ids == ids
    assert (theirs.pad_token_id, theirs.mask_token_id) == (ours.pad_id, ours.mask_id)
    assert theirs.convert_tokens_to_ids("de_DE") >= ours.size


def test_the_lowest_score_stays(families):
    """Without it an unknown character would cost less, and might replace a kept piece."""
    tokenizer = families["mt5"]
    scores = [tokenizer.processor.get_score(id) for id in tokenizer.text_ids.tolist()]
    new = trim_tokenizer(tokenizer, set(tokenizer.encode("book")), "mt5")
    again = [new.tokenizer.processor.get_score(id) for id in new.tokenizer.text_ids.tolist()]
    assert (min(again), max(again)) == (min(scores), max(scores))


def test_other_ids_are_noticed(families):
    tokenizer = families["bart"]
    use = count_use(tokenizer, CORPUS, Progress("", len(CORPUS), "texts", hidden=True))
    new = trim_tokenizer(tokenizer, use.ids, "bart")
    check_equal(tokenizer, new, CORPUS)
    with pytest.raises(AssertionError, match="gives other ids"):
        check_equal(tokenizer, new._replace(kept=new.kept[::-1]), CORPUS)


# --- Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("none", [], "none does not exist: give a Hugging Face directory."),
        ("empty", [], "is not a Hugging Face directory: it needs config.json with model_type."),
        ("bare", [], "bare holds no tokenizer: it needs spiece.model"),
        ("byt5", [], "has a vocabulary of bytes: there is nothing to trim."),
        ("separate", [], "separate has a vocabulary for the source and another for the target: only a shared one"),
        ("few", [], "source ids, but the model has rows for 50 only."),
        ("gpt2", [], "model_type is 'gpt2', not one of t5, mt5"),
        ("t5", ["--languages", "de_DE"], "this tokenizer has no language codes."),
        ("cc25", ["--languages", "xx_XX"], "The language is 'xx_XX': allowed is ar_AR"),
        ("m2m_100", ["--languages", "de"], "m2m_100 keeps all its languages, since M2M-100's tokenizer numbers"),
        ("t5", ["--corpus", "absent.txt"], "There is no file absent.txt."),
        ("t5", ["--corpus", "blank.txt"], "The corpus blank.txt is empty: its files hold no document"),
        ("t5", ["--corpus", "corpus.txt", "--out", "empty"], "--out empty exists: nothing is overwritten"),
        ("t5", ["--corpus", "corpus.txt", "--out", "no/new"], "--out no/new: there is no directory"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(
    directories, families, tmp_path, monkeypatch, capsys, name, arguments, sentence
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.txt").write_text("die Häuser")
    (tmp_path / "blank.txt").write_text("\n \n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bare").mkdir()
    for file in ("config.json", "model.safetensors"):
        (tmp_path / "bare" / file).write_bytes((directories / "t5" / file).read_bytes())
    for copy, change in {"few": {"vocab_size": 50}, "gpt2": {"model_type": "gpt2"}}.items():
        shutil.copytree(directories / "t5", tmp_path / copy)
        write_json(tmp_path / copy / "config.json", read_json(tmp_path / copy / "config.json") | change)
    if name == "separate":
        write_model(tmp_path / name, "marian", families[name])
    path = directories / name if (directories / name).exists() else tmp_path / name
    before = sorted(tmp_path.iterdir())
    assert main([str(path), "--corpus", "corpus.txt", "--out", "new", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert sentence in printed.err
    assert printed.err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_special_id_that_would_go_is_named(directories, tmp_path, capsys):
    """Here the language that every output is forced to begin with."""
    model = tmp_path / "forced"
    model.mkdir()
    for path in (directories / "marian").iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    settings = read_json(model / "generation_config.json")
    settings["forced_bos_token_id"] = read_tokenizer(model).language_id(">>deu<<")
    (model / "generation_config.json").write_text(json.dumps(settings))
    corpus = ["--corpus", str(directories / "corpus.txt"), "--languages", ">>ron<<"]
    assert main([str(model), *corpus, "--out", str(tmp_path / "new")]) == 2
    assert "forced_bos_token_id is 2, which is not among the ids that would be kept." in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_run_is_to_be_converted_first(tmp_path, capsys):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text("{}")
    (tmp_path / "a.txt").write_text("a")
    assert main([str(tmp_path / "run"), "--corpus", str(tmp_path / "a.txt"), "--out", str(tmp_path / "new")]) == 2
    assert f"kintsugi convert {tmp_path / 'run'} NEW" in capsys.readouterr().err


# --- Hugging Face -----------------------------------------------------------------------------------------------------


@pytest.mark.live
@pytest.mark.parametrize(
    "name", [name for name in FAMILIES if name != "bpe"]
)  # which T5's class there takes for unigram
@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
def test_transformers_gives_the_ids_and_logits_that_it_gave(directories, trimmed, name):
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    map = kept(directories / name, trimmed / name)
    old, new = (AutoTokenizer.from_pretrained(folder / name) for folder in (directories, trimmed))
    ours = read_tokenizer(trimmed / name)
    language = LANGUAGE.get(name)
    if language:
        old.src_lang = new.src_lang = language
    for text, ids in zip(CORPUS, ours.source(CORPUS, language), strict=True):
        found = new(text).input_ids
        assert map[found].tolist() == old(text).input_ids
        assert found == ids or vocabularies.tied(ours.processor, ids, found)
    ids = np.array(new(CORPUS[0]).input_ids)
    models = [AutoModelForSeq2SeqLM.from_pretrained(folder / name).eval() for folder in (directories, trimmed)]
    with torch.no_grad():
        before, after = (
            model(input_ids=torch.tensor(rows[None]), decoder_input_ids=torch.tensor(rows[None])).logits[0].numpy()
            for model, rows in zip(models, (map[ids], ids), strict=True)
        )
    np.testing.assert_allclose(after, before[:, map], rtol=0, atol=2e-6 * np.abs(before).max())
