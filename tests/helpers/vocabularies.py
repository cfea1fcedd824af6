"""Text in several scripts, made of the words below, and small vocabularies of every family trained on it."""

import io
import json
import random
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from research import M2M100, ByteLevelBPE, Bytes, Marian, MBart, SentencePiece, Vocabulary
from research.data.tokenizer import Tokenizer as Opened
from research.data.tokenizer import open_tokenizer

WORDS = {
    "en": "the of and house river mountain quickly reading translated nobody's well-known don't book letters winter",
    "de": "die und Häuser Straße größer Übersetzung müssen Fußgänger überqueren schöne Grüße König Öl Donaudampfschiff",
    "ro": "și în țara noastră pădure câine frumos Întotdeauna mâine știință așa Ţară ştiinţă ăsta",
    "tr": "İstanbul'da ağaç çiçek ışık güneş öğretmen değil yağmur Iğdır şöyle büyükşehir kitapçı",
    "zh": "我们 今天 去 学校 读书 因为 天气 很好 中华人民共和国 语言 翻译 模型，",
    "ar": "مرحبا بالعالم اللغة العربية كتاب المدرسة السلام عليكم مَدْرَسَة ١٢٣",
    "hi": "नमस्ते दुनिया हिन्दी भाषा पुस्तक क्षेत्र विद्यालय ज़रूर पढ़ना १२३",
    "emoji": "😀 👍🏽 👩‍👩‍👧 🇷🇴 ❤️ ☃ ✅",
}
ODD = (
    "", " ", "   ", "a ", " a", "a  b", "\t", "a\tb\r\nc\n", "a\u00a0b", "\u3000a\u3000b\u3000", "a\u2028b\u2003c",
    "ﬁne ＡＢＣ １２", "e\u0301 é", "각 각", "क़ \u0915\u093c", "x\u200by\u200dz", "\ufeffa", "½ ² ℃ ™", "x\0y\x7f",
    "--------", "......", "▁a ▁", "⁇", "  \u3000", "\U0010ffff", "Å \u212b", "ſ ﷺ", "1,234.56€", "http://a.b/c?d=e&f#g",
)  # fmt: skip
FORGED = ("<pad> </s>", "a <mask> b</s>", "<s>x<unk>", "<extra_id_0> a <extra_id_1>", "en_XX de_DE")  # controls in text


def sentences(count: int, seed: int) -> list[str]:
    """Draw sentences of three to twelve words: some joined, capitalised or punctuated, some numbers, a few mixed."""
    rng, lists = random.Random(seed), [words.split() for words in WORDS.values()]
    return [_sentence(rng, rng.choice(lists), rng.choice(lists)) for _ in range(count)]


def _sentence(rng: random.Random, words: list[str], others: list[str]) -> str:
    chosen = [rng.choice(others if rng.random() < 0.1 else words) for _ in range(rng.randint(3, 12))]
    for index, word in enumerate(chosen):
        change = rng.random()
        if change < 0.1:
            chosen[index] = word.capitalize()
        elif change < 0.2:
            chosen[index] = word + rng.choice(words)
        elif change < 0.25:
            chosen[index] = str(rng.randint(0, 99_999))
        elif change < 0.35:
            chosen[index] = word + rng.choice(",;:!?")
    return (
        rng.choice(["", "", "", "«", '"']) + rng.choice([" ", " ", " ", "  ", "\t"]).join(chosen) + rng.choice(".?!。")
    )


LINES = sentences(3000, seed=0)  # some of their characters are in no vocabulary


def write_all(directory: Path) -> dict[str, Vocabulary]:
    """Write a vocabulary of every family, and of every kind of file that a family may have."""
    models = {
        "t5": t5_model(),
        "fallback": t5_model(byte_fallback=True),
        "mt5": t5_model(control_symbols=[f"▁<extra_id_{index}>" for index in (2, 1, 0)]),
        "mbart": sentencepiece_model(),
    }
    for name, model in models.items():
        (directory / f"{name}.model").write_bytes(model)
    for name in ("bart", "m2m_100", "marian", "separate"):
        (directory / name).mkdir()
    write_bpe(directory / "bart")
    write_m2m_100(directory / "m2m_100", models["mbart"])
    write_marian(directory / "marian", separate=False)
    write_marian(directory / "separate", separate=True)
    return {
        "t5": SentencePiece(str(directory / "t5.model")),
        "fallback": SentencePiece(str(directory / "fallback.model"), sentinels=20),
        "mt5": SentencePiece(str(directory / "mt5.model"), sentinels=0),
        "byt5": Bytes(sentinels=125),
        "bart": ByteLevelBPE(str(directory / "bart")),
        "cc25": MBart(str(directory / "mbart.model"), "cc25"),
        "50": MBart(str(directory / "mbart.model"), "50"),
        "m2m_100": M2M100(str(directory / "m2m_100")),
        "marian": Marian(str(directory / "marian")),
        "separate": Marian(str(directory / "separate")),
    }


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the directory for the files of `families`: t5.model, mbart.model, bart/, marian/, separate/ ..."""
    return tmp_path_factory.mktemp("families")


@pytest.fixture(scope="session")
def families(files: Path) -> dict[str, Opened]:
    """Open a small tokenizer of each family, trained once a session."""
    return {name: open_tokenizer(config) for name, config in write_all(files).items()}


def sentencepiece_model(pieces: int = 700, seed: int = 1, **options: object) -> bytes:
    """Train a unigram model with most characters of `LINES`."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences(2000, seed)), model_writer=model, vocab_size=pieces, minloglevel=2,
        character_coverage=0.995, hard_vocab_limit=False, **options,
    )  # fmt: skip
    return model.getvalue()


def t5_model(**options: object) -> bytes:
    return sentencepiece_model(pad_id=0, eos_id=1, unk_id=2, bos_id=-1, **options)


def write_bpe(directory: Path) -> None:
    """Write vocab.json and merges.txt in BART's form, with the mask last."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    backend.train_from_iterator(sentences(1000, seed=2), trainer)
    model = json.loads(backend.to_str())["model"]
    (directory / "vocab.json").write_text(json.dumps(model["vocab"] | {"<mask>": len(model["vocab"])}))
    merges = ["#version: 0.2", *map(" ".join, model["merges"])]
    (directory / "merges.txt").write_text("\n".join(merges) + "\n", encoding="utf-8")


def write_m2m_100(directory: Path, model: bytes) -> None:
    """Write M2M-100's files, with other ids than the model's own, and none for some pieces."""
    (directory / "sentencepiece.bpe.model").write_bytes(model)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = [processor.id_to_piece(id) for id in range(3, processor.get_piece_size()) if id % 9 != 5 or id < 100]
    names = ["<s>", "<pad>", "</s>", "<unk>", *pieces[::-1]]
    (directory / "vocab.json").write_text(json.dumps({name: id for id, name in enumerate(names)}))


def write_marian(directory: Path, separate: bool) -> None:
    """Write Marian's files: two separate vocabularies, or one of half the source's and all of the target's pieces."""
    models = {"source": sentencepiece_model(seed=3), "target": sentencepiece_model(pieces=600, seed=4)}
    pieces = {}
    for side, model in models.items():
        (directory / f"{side}.spm").write_bytes(model)
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        pieces[side] = [processor.id_to_piece(id) for id in range(3, processor.get_piece_size())]
    if separate:
        size = min(map(len, pieces.values()))
        write_ids(directory / "vocab.json", pieces["source"][:size])
        write_ids(directory / "target_vocab.json", pieces["target"][:size])
    else:
        write_ids(directory / "vocab.json", [">>deu<<", ">>ron<<", *pieces["source"][::2], *pieces["target"]])


def write_ids(path: Path, pieces: list[str]) -> None:
    names = dict.fromkeys(["</s>", "<unk>", *pieces, "<pad>"])
    path.write_text(json.dumps({name: id for id, name in enumerate(names)}))


def tied(processor: sentencepiece.SentencePieceProcessor, ours: list[int], theirs: list[int]) -> bool:
    """Tell whether the ids are two segmentations of one text with equal probability in the model.

    For example, "333" is 33 3 or 3 33; SentencePiece and the tokenizers library choose differently.
    """
    texts, scores = (
        ["".join(map(processor.id_to_piece, ids)) for ids in (ours, theirs)],
        [sum(map(processor.get_score, ids)) for ids in (ours, theirs)],
    )
    return texts[0] == texts[1] and abs(scores[0] - scores[1]) < 1e-5
