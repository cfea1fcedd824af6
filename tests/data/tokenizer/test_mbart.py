"""mBART: fairseq's ids over SentencePiece's, the languages, and Hugging Face's ids for normalised text."""

import numpy as np
import pytest
from vocabularies import LINES, ODD, t5_model, tied

from research import MBart
from research.config import ConfigError
from research.data.tokenizer import MBartTokenizer, open_tokenizer

VARIANTS = {"cc25": 25, "50": 52}


@pytest.mark.parametrize("variant", VARIANTS)
def test_ids_are_fairseqs(families, variant):
    """Each piece one above its own id, from 4 on; then languages; then the mask, last."""
    mbart, languages = families[variant], VARIANTS[variant]
    pieces = mbart.processor.get_piece_size()
    assert (mbart.bos_id, mbart.pad_id, mbart.eos_id, mbart.unknown_id) == (0, 1, 2, 3)
    assert mbart.languages[:4] == ("ar_AR", "cs_CZ", "de_DE", "en_XX")
    assert list(mbart.language_ids.values()) == list(range(pieces + 1, pieces + 1 + languages))
    assert mbart.mask_id == pieces + 1 + languages == mbart.size - 1
    for line in LINES[:100]:
        own = mbart.processor.encode(line)
        assert mbart.encode(line) == [3 if id == 0 else id + 1 for id in own]
    assert 3 in mbart.encode("\U0010ffff")


def test_the_later_variant_keeps_the_ids_of_the_earlier(families):
    earlier, later = families["cc25"], families["50"]
    assert earlier.encode_batch(LINES[:50]) == later.encode_batch(LINES[:50])
    assert later.languages[:25] == earlier.languages
    assert len(set(later.languages)) == 52
    assert {code: later.language_ids[code] for code in earlier.languages} == earlier.language_ids


def test_languages_have_the_ids_of_the_published_vocabulary(families):
    """Of 250,000 pieces: en_XX 250004, ro_RO 250020, zh_CN 250025, af_ZA 250026, sl_SI 250052, <mask> last."""
    mbart = families["50"]
    above = {code: mbart.language_id(code) - mbart.processor.get_piece_size() for code in mbart.languages}
    published = {"en_XX": 4, "ro_RO": 20, "zh_CN": 25, "af_ZA": 26, "sl_SI": 52}
    assert {code: above[code] for code in published} == published


def test_what_is_not_text_is_shown_but_not_scored(families):
    for mbart in (families["cc25"], families["50"]):
        ids = [0, *mbart.encode("the river"), mbart.mask_id, mbart.language_id("ro_RO"), 2, 1, 3]
        assert mbart.decode(ids) == "the river <mask> ⁇ "
        assert mbart.text(ids) == "the river"


def test_a_language_is_needed(families):
    for mbart in (families["cc25"], families["50"]):
        for call in (mbart.start_id, mbart.forced_first, lambda mbart=mbart: mbart.source(["a"])):
            with pytest.raises(ConfigError, match=r"The language is None: allowed is ar_AR, cs_CZ, .*zh_CN"):
                call()


def test_a_missing_broken_or_other_model_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.model cannot be read: No such file"):
        open_tokenizer(MBart(str(tmp_path / "none.model")))
    with pytest.raises(ConfigError, match="here is not a SentencePiece model"):
        MBartTokenizer(b"plain text", "cc25", "here")
    with pytest.raises(ConfigError, match=r"here has unknown, BOS and EOS at \(2, -1, 1\): they must be \(0, 1, 2\)"):
        MBartTokenizer(t5_model(), "50", "here")


def parts(mbart: MBartTokenizer, ids: list[int]) -> tuple[list[int], list[int]]:
    """SentencePiece's ids of what is text, and the ids of what is not."""
    text = range(4, mbart.processor.get_piece_size() + 1)
    return [id - 1 for id in ids if id in text], [id for id in ids if id not in text]


@pytest.mark.live
@pytest.mark.parametrize("variant", VARIANTS)
def test_ids_and_text_are_hugging_faces_where_it_normalises(families, files, variant, tmp_path):
    """transformers 5 leaves out the model's own normalisation (CC25) or its last step (50): so it is given its result.

    Text that is as the model would have it gives equal ids untouched.
    """
    from transformers import MBart50Tokenizer, MBartTokenizer

    (tmp_path / "sentencepiece.bpe.model").write_bytes((files / "mbart.model").read_bytes())
    theirs = {"cc25": MBartTokenizer, "50": MBart50Tokenizer}[variant].from_pretrained(tmp_path)
    mbart = families[variant]
    theirs.src_lang, theirs.tgt_lang = "ro_RO", "de_DE"
    assert len(theirs) == mbart.size
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *mbart.languages]
    ids = [mbart.bos_id, mbart.pad_id, mbart.eos_id, mbart.unknown_id, mbart.mask_id, *mbart.language_ids.values()]
    assert theirs.convert_tokens_to_ids(names) == ids
    texts = [*ODD, *LINES]
    normalised = [mbart.processor.normalize(text).replace("▁", " ").strip() for text in texts]
    untouched = sum(a == b for a, b in zip(texts, normalised, strict=True))
    assert 1000 < untouched < len(texts)
    others: list[str] = []
    for text, source, target in zip(
        normalised, mbart.source(texts, "ro_RO"), mbart.target(texts, "de_DE"), strict=True
    ):
        expected = [theirs(text).input_ids, theirs(text_target=text).input_ids]
        if [source, target] != expected:
            others.append(text)
            for ours, other in zip((source, target), expected, strict=True):
                (pieces, controls), (other_pieces, other_controls) = parts(mbart, ours), parts(mbart, other)
                assert controls == other_controls
                assert tied(mbart.processor, pieces, other_pieces)
    assert len(others) < len(texts) / 1000
    for row in np.random.default_rng(0).integers(0, mbart.size, (500, 20)):
        assert mbart.text(row) == theirs.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False)
