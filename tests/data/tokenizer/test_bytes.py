"""Bytes: ByT5's ids and text."""

import pytest
from vocabularies import LINES, ODD

from research import Bytes
from research.data.tokenizer import open_tokenizer

TOKENIZER = open_tokenizer(Bytes(sentinels=125))


def test_scored_text_leaves_out_sentinels_and_broken_bytes():
    ids = [383, *TOKENIZER.encode("né"), 3 + 0xFF, 1, 0, 10**6, -5]
    assert TOKENIZER.text(ids) == "né"
    assert TOKENIZER.decode(ids).startswith("<extra_id_0>né\ufffd")


@pytest.mark.live
def test_ids_and_text_are_hugging_faces():
    from transformers import ByT5Tokenizer

    theirs = ByT5Tokenizer()
    texts = [*ODD, *LINES[:500]]
    for ids, text in zip(TOKENIZER.source(texts), texts, strict=True):
        assert ids == theirs(text).input_ids == theirs(text_target=text).input_ids
        cut = ids[1:-2]
        assert TOKENIZER.text(cut) == theirs.decode(cut, skip_special_tokens=True, clean_up_tokenization_spaces=False)
