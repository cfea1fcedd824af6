"""A small vocabulary of each family, trained once a session."""

from pathlib import Path

import pytest
import vocabularies

from research.config import ByteLevelBPE, Bytes, Marian, MBart, SentencePiece
from research.data.tokenizer import Tokenizer, open_tokenizer


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """t5.model, mbart.model, and the directories bart, marian and separate."""
    directory = tmp_path_factory.mktemp("families")
    (directory / "t5.model").write_bytes(vocabularies.t5_model())
    (directory / "mbart.model").write_bytes(vocabularies.sentencepiece_model())
    for name in ("bart", "marian", "separate"):
        (directory / name).mkdir()
    vocabularies.write_bpe(directory / "bart")
    vocabularies.write_marian(directory / "marian", separate=False)
    vocabularies.write_marian(directory / "separate", separate=True)
    return directory


@pytest.fixture(scope="session")
def families(files: Path) -> dict[str, Tokenizer]:
    configs = {
        "t5": SentencePiece(str(files / "t5.model")),
        "byt5": Bytes(),
        "bart": ByteLevelBPE(str(files / "bart")),
        "cc25": MBart(str(files / "mbart.model"), "cc25"),
        "50": MBart(str(files / "mbart.model"), "50"),
        "marian": Marian(str(files / "marian")),
        "separate": Marian(str(files / "separate")),
    }
    return {name: open_tokenizer(config) for name, config in configs.items()}
