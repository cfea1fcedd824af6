"""A small mT5 learns captions in four languages, in minutes on 2 CPU cores.

Paper: Xue et al., arXiv:2010.11934: span corruption on text of many languages with one vocabulary, and languages drawn
by sizes to the power 0.3. Most of the parameters are the vocabulary's rows, so it shows what `kintsugi trim` saves.

Data: Multi30k's files train.LANGUAGE.gz and val.LANGUAGE.gz for cs, de, en and fr (github.com/multi30k/dataset, task 1,
    raw), in the directory multi30k.
Commands: pretraining; an export; one with the rows of its English and German alone.
    python -m scripts.train experiments/t5/mt5_small_captions.py --run_dir runs/mt5_small
    python -m scripts.convert runs/mt5_small/checkpoints/best mt5-small
    python -m scripts.trim mt5-small --corpus multi30k/train.en.gz multi30k/train.de.gz --out mt5-small-en-de
    Then both directories are models for finetune/translate.py, with --run_dir of their own.
Result: ../LOG.md.
"""

from dataclasses import replace

from research import Denoising, Experiment, Mixing, PlainText, TrainedSentencePiece

from .. import quickstart

QUICKSTART = quickstart.get_config()


def get_config() -> Experiment:
    return replace(
        QUICKSTART,
        model=replace(QUICKSTART.model, vocab_size=16_128),
        data=Denoising(
            corpora=tuple(
                PlainText(f"multi30k/train.{code}.gz", f"multi30k/val.{code}.gz", "file")
                for code in ("cs", "de", "en", "fr")
            ),
            tokenizer=TrainedSentencePiece(pieces=16_000),
            input_length=64,
            mixing=Mixing(temperature=1 / 0.3),
        ),
        steps=1_500,
    )
