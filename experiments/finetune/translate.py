"""Any trained model learns to translate.

Commands: the quickstart's T5, or any other model, on the task of the size; on your own examples with data.tasks.
    ./scripts/quickstart
    python -m scripts.train experiments/finetune/translate.py --run_dir runs/captions --config.data.manual_dir=DIR
    python -m scripts.evaluate runs/captions/checkpoints/best --split test
    python -m scripts.train experiments/finetune/translate.py --run_dir runs/x --config.model='Pretrained("DIR")'
    With a model that has language codes, the task names them:
        --config.data.tasks='[Translation(examples=TFDSExamples("multi30k"), languages=["en_XX", "de_DE"])]'
Sizes:
    multi30k    captions from English to German. Without manual_dir the files are downloaded
    wmt16_mbart    mBART to Romanian as its authors did (Liu et al., arXiv:2001.08210; fairseq, examples/mbart): rate
        3e-5, linear to 0 in 40,000 updates after 2,500 of warm-up, Adam (0.9, 0.98, 1e-6), dropout 0.3, attention
        dropout 0.1, label smoothing 0.2; 37.7 BLEU with CC25, 34.3 from random weights. mbart-large-cc25 is a Hugging
        Face directory: with another place, --config.model='Pretrained("DIR", dropout=0.3, attention_dropout=0.1)'
Hardware, time, result: not run yet.
"""

from typing import Literal

from research import (
    Adafactor,
    AdamW,
    Beam,
    Checkpoint,
    Evaluation,
    Experiment,
    Generation,
    Linear,
    Loss,
    MBart,
    ModelGeneration,
    ModelTokenizer,
    Pretrained,
    Supervised,
    TFDSExamples,
    Translation,
)
from research.model import family

from .summarize import QUICKSTART, TRAINED

SIZES = {
    "multi30k": Experiment(
        model=TRAINED,
        data=Supervised(
            tasks=(Translation(examples=TFDSExamples("multi30k"), source="en", target="de"),),
            tokenizer=ModelTokenizer(),
            input_length=128,
            target_length=128,
        ),
        optimizer=Adafactor(schedule=Linear(peak=1e-2, warmup=100)),
        steps=4_000,
        batch_size=16,
        evaluation=Evaluation(every=500, rows=256, generation=ModelGeneration(), examples=256, best="bleu"),
        checkpoint=Checkpoint(every=500),
        report=QUICKSTART.report,
    ),
    "wmt16_mbart": Experiment(
        model=Pretrained.like(
            family.mbart(dropout=0.3, attention_dropout=0.1),
            path="mbart-large-cc25",
            tokenizer=MBart("mbart-large-cc25/sentencepiece.bpe.model"),
        ),
        data=Supervised(
            tasks=(
                Translation(
                    examples=TFDSExamples("wmt16_translate/ro-en"),
                    source="en",
                    target="ro",
                    languages=("en_XX", "ro_RO"),
                ),
            ),
            tokenizer=ModelTokenizer(),
            input_length=256,
            target_length=256,
        ),
        loss=Loss(z_loss=0.0, label_smoothing=0.2, smoothing="fairseq"),
        optimizer=AdamW(schedule=Linear(peak=3e-5, warmup=2_500), b2=0.98, epsilon=1e-6, weight_decay=0.0),
        steps=40_000,
        batch_size=8,
        evaluation=Evaluation(every=2_000, generation=Generation(method=Beam(5), max_length=256), best="bleu"),
        checkpoint=Checkpoint(every=2_000),
    ),
}


def get_config(size: Literal["multi30k", "wmt16_mbart"] = "multi30k") -> Experiment:
    return SIZES[size]
