"""Tokenizers from and to Hugging Face directories: the same ids here, and there by AutoTokenizer."""

import json

import pytest
import vocabularies
from vocabularies import LINES, ODD

from research.config import ConfigError
from research.data.tokenizer import SentencePieceTokenizer, unigram
from research.pretrained.tokenizer_files import read_tokenizer, write_tokenizer

LANGUAGE = {"cc25": "ro_RO", "50": "ro_RO", "m2m_100": "ro"}
FAMILIES = ("t5", "fallback", "mt5", "byt5", "bart", "cc25", "50", "m2m_100", "marian", "separate")


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_written_is_read_as_the_same(families, name, tmp_path):
    tokenizer = families[name]
    write_tokenizer(tokenizer, tmp_path / "new" / "directory")
    again = read_tokenizer(tmp_path / "new" / "directory")
    assert type(again) is type(tokenizer)
    assert again.digest == tokenizer.digest
    assert again.sentinel_ids.tolist() == tokenizer.sentinel_ids.tolist()


def test_the_variant_of_mbart_is_taken_from_what_names_its_class(families, tmp_path):
    families["50"].save(tmp_path / "sentencepiece.bpe.model")
    for config, variant in (
        ({"model_type": "mbart"}, "cc25"),
        ({"model_type": "mbart", "tokenizer_class": "MBart50Tokenizer"}, "50"),
        ({"model_type": "mbart", "tokenizer_class": "MBart50TokenizerFast"}, "50"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert read_tokenizer(tmp_path).digest == families[variant].digest
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "XLMRobertaTokenizer"}')
    with pytest.raises(
        ConfigError, match=r"class is 'XLMRobertaTokenizer', not MBartTokenizer, MBart50Tokenizer or M2M100Tokenizer\."
    ):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("config", "sentinels"),
    [
        ({}, 100),
        ({"extra_ids": 0}, 0),
        ({"extra_ids": 30}, 30),
        ({"extra_ids": 0, "additional_special_tokens": ["<extra_id_0>", {"content": "<extra_id_1>"}, "</s>"]}, 2),
    ],
)
def test_sentinels_are_as_many_as_hugging_face_adds(families, tmp_path, config, sentinels):
    families["t5"].save(tmp_path / "spiece.model")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert read_tokenizer(tmp_path).sentinels == sentinels


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_byt5_has_no_file_but_its_name(tmp_path, file):
    (tmp_path / file).write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    assert read_tokenizer(tmp_path).size == 3 + 256 + 125


@pytest.mark.parametrize("name", ["t5", "fallback"])
def test_a_unigram_tokenizer_json_is_a_sentencepiece_model(families, name, tmp_path):
    tokenizer = families[name]
    (tmp_path / "tokenizer.json").write_bytes(unigram.tokenizer_json(tokenizer))
    again = read_tokenizer(tmp_path)
    assert isinstance(again, SentencePieceTokenizer)
    assert (again.pieces, again.sentinels) == (tokenizer.pieces, tokenizer.sentinels)
    texts = [*ODD, *LINES]
    assert again.source(texts) == tokenizer.source(texts)
    assert [again.text(ids) for ids in again.source(texts)] == [tokenizer.text(ids) for ids in tokenizer.source(texts)]


@pytest.mark.parametrize("content", [None, {}, {"tokenizer_class": "T5Tokenizer"}])
def test_a_directory_without_a_tokenizer_is_refused_in_one_sentence(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=rf"^{tmp_path} holds no tokenizer: it needs spiece.model, .*ByT5Tok"):
        read_tokenizer(tmp_path)
    with pytest.raises(ConfigError, match="none holds no tokenizer"):
        read_tokenizer(tmp_path / "none")


def test_files_that_cannot_serve_are_named(families, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(families["bart"].framed_json())
    (tmp_path / "tokenizer_config.json").write_text('{"add_prefix_space": true}')
    with pytest.raises(ConfigError, match=r"tokenizer_config.json: add_prefix_space must be false"):
        read_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"extra_ids": "many"}')
    families["t5"].save(tmp_path / "spiece.model")
    with pytest.raises(ConfigError, match="extra_ids is 'many', which is not a whole number"):
        read_tokenizer(tmp_path)


def broken(content: dict, change: str) -> dict:
    vocabulary = content["model"]["vocab"]
    match change:
        case "normalizer":
            content["normalizer"] = None
        case "scores":
            vocabulary[5] = "piece"
        case "order":
            vocabulary[:3] = vocabulary[2::-1]
    return content


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("normalizer", "has no normalizer of type Precompiled"),
        ("scores", "model.vocab must be a list of [piece, score]"),
        ("order", "begins with <unk>, </s>, <pad>: it must begin with <pad>, </s>, <unk>"),
    ],
)
def test_a_unigram_tokenizer_json_of_another_form_is_refused(families, tmp_path, change, said):
    content = broken(json.loads(unigram.tokenizer_json(families["t5"])), change)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError) as error:
        read_tokenizer(tmp_path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_an_mbart_tokenizer_json_of_another_form_is_refused(families, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(unigram.tokenizer_json(families["t5"]))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "MBart50Tokenizer"}')
    with pytest.raises(
        ConfigError, match=r"is not in mBART's format: it must begin with <s>, .* the 52 languages of 50"
    ):
        read_tokenizer(tmp_path)


PLAIN = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
ADDED = {
    "added_tokens.json": lambda id: {"<new>": id},
    "tokenizer_config.json": lambda id: {"added_tokens_decoder": {str(id): {"content": "<new>", "special": False}}},
    "special_tokens_map.json": lambda id: {"additional_special_tokens": ["<new>"]},
    "tokenizer.json": lambda id: {"added_tokens": [{"content": "<new>", "id": id, "special": True, **PLAIN}]},
}


@pytest.mark.parametrize("file", ADDED)
@pytest.mark.parametrize("name", FAMILIES)
def test_added_tokens_are_refused_by_their_names(families, name, file, tmp_path):
    """In each file that may list them."""
    write_tokenizer(families[name], tmp_path)
    path = tmp_path / file
    old = json.loads(path.read_text()) if path.exists() else {}
    new = ADDED[file](families[name].size)
    new |= {key: old[key] + value for key, value in new.items() if isinstance(old.get(key), list)}
    path.write_text(json.dumps(old | new))
    with pytest.raises(ConfigError, match=r"adds tokens that \w+Tokenizer does not have, .*: '<new>'; remove them"):
        read_tokenizer(tmp_path)


def test_a_special_token_under_another_id_is_refused(families, tmp_path):
    write_tokenizer(families["t5"], tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"</s>": 1, "<extra_id_0>": families["t5"].size - 1}))
    assert read_tokenizer(tmp_path).digest == families["t5"].digest
    (tmp_path / "added_tokens.json").write_text(json.dumps({"</s>": 1, "<extra_id_0>": families["t5"].size - 2}))
    with pytest.raises(ConfigError, match="under other ids: '<extra_id_0>'"):
        read_tokenizer(tmp_path)


# --- Hugging Face -----------------------------------------------------------------------------------------------------


def normalised(name: str, tokenizer, texts: list[str]) -> list[str]:
    """mBART's text as its model would have it: transformers 5 does not normalise it (see test_mbart.py)."""
    if name not in ("cc25", "50"):
        return texts
    return [tokenizer.processor.normalize(text).replace("▁", " ").strip() for text in texts]


@pytest.mark.live
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
def test_auto_tokenizer_gives_equal_ids_and_what_it_saves_is_read(families, name, tmp_path):
    from transformers import AutoTokenizer

    tokenizer, language = families[name], LANGUAGE.get(name)
    write_tokenizer(tokenizer, tmp_path / "ours")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "ours")
    if language:
        theirs.src_lang = theirs.tgt_lang = language
    assert (theirs.pad_token_id, theirs.eos_token_id) == (tokenizer.pad_id, tokenizer.eos_id)
    assert theirs.unk_token_id == tokenizer.unknown_id
    assert theirs.mask_token_id == tokenizer.mask_id
    texts = [*ODD, *LINES[:1500]]
    sources, targets = tokenizer.source(texts, language), tokenizer.target(texts, language)
    for text, source, target in zip(normalised(name, tokenizer, texts), sources, targets, strict=True):
        assert source == theirs(text).input_ids or same(tokenizer, source, theirs(text).input_ids)
        assert target == theirs(text_target=text).input_ids or same(tokenizer, target, theirs(text).input_ids)
        expected = theirs.decode(target, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert tokenizer.text(target) == expected
    theirs.save_pretrained(tmp_path / "theirs")
    again = read_tokenizer(tmp_path / "theirs")
    assert (again.size, again.target_size) == (tokenizer.size, tokenizer.target_size)
    if name == "cc25":  # it saves a tokenizer.json without the normalisation of the model
        for text, source in zip(texts, again.source(texts, language), strict=True):
            if "▁" in text:  # SentencePiece takes it for a space
                continue
            assert source == theirs(text).input_ids or vocabularies.tied(
                again.processor, _pieces(source), _pieces(theirs(text).input_ids)
            )
    else:
        assert again.source(texts, language) == sources
        assert again.target(texts, language) == targets


@pytest.mark.live
@pytest.mark.parametrize("fallback", [False, True])
def test_a_model_of_merges_gets_equal_ids_too(fallback, tmp_path):
    """T5Tokenizer would read the pieces as a unigram model."""
    from transformers import AutoTokenizer

    model = vocabularies.t5_model(model_type="bpe", byte_fallback=fallback)
    tokenizer = SentencePieceTokenizer(model, 4, "bpe")
    write_tokenizer(tokenizer, tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    texts = [*ODD, *LINES[:1500]]
    assert [theirs(text).input_ids for text in texts] == tokenizer.source(texts, None)
    assert theirs.convert_tokens_to_ids("<extra_id_0>") == tokenizer.sentinel_ids[0]
    assert read_tokenizer(tmp_path).digest == tokenizer.digest


@pytest.mark.parametrize("kind", ["char", "word"])
def test_a_model_that_transformers_cannot_read_is_refused(kind, tmp_path):
    tokenizer = SentencePieceTokenizer(vocabularies.t5_model(model_type=kind), 4, kind)
    with pytest.raises(ConfigError, match="words or characters, which transformers cannot read"):
        write_tokenizer(tokenizer, tmp_path)
    assert not (tmp_path / "spiece.model").exists()


def _pieces(ids: list[int]) -> list[int]:
    """mBART's ids of text as those of its SentencePiece model."""
    return [0 if id == 3 else id - 1 for id in ids[:-2]]


def same(tokenizer, ours: list[int], theirs: list[int]) -> bool:
    assert isinstance(tokenizer, SentencePieceTokenizer), "only SentencePiece's models have ties"
    return vocabularies.tied(tokenizer.processor, ours, theirs)


@pytest.mark.live
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("special", [False, True])
@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
def test_tokens_that_transformers_adds_are_read_or_refused(families, name, special, tmp_path):
    from transformers import AutoTokenizer

    write_tokenizer(families[name], tmp_path / "ours")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "ours")
    theirs.add_tokens(["<new>", "newword"], special_tokens=special)
    theirs.save_pretrained(tmp_path / "theirs")
    if name == "bart" and not special:
        again = read_tokenizer(tmp_path / "theirs")
        for text in ("a <new> b", "newword<new>", "x newwords y", *LINES[:50]):
            assert again.source([text])[0] == theirs(text).input_ids
            assert again.text(again.source([text])[0]) == theirs.decode(
                theirs(text).input_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
    else:
        with pytest.raises(ConfigError, match="'<new>', 'newword'"):
            read_tokenizer(tmp_path / "theirs")
