"""mBART fine-tuned to translate English to Romanian, as its authors did.

Paper: Liu et al., arXiv:2001.08210; 37.7 BLEU with CC25, 34.3 from random weights (fairseq, examples/mbart/README.md).
Recipe: the same page: learning rate 3e-5, linear to 0 in 40,000 updates after 2,500 of warm-up, Adam (0.9, 0.98, 1e-6),
    dropout 0.3, attention dropout 0.1, label smoothing 0.2.
Command: python -m scripts.train experiments/finetune/wmt16_mbart.py --run_dir runs/en_ro
Data: by its TensorFlow Datasets name; mbart-large-cc25 is a Hugging Face directory.
Hardware, time, result: not run yet.
"""

from research import (
    AdamW,
    Beam,
    Checkpoint,
    Evaluation,
    Experiment,
    Generation,
    Linear,
    Loss,
    MBart,
    Supervised,
    TFDSExamples,
    Translation,
)
from research.model import family


def get_config() -> Experiment:
    return Experiment(
        model=family.mbart(dropout=0.3, attention_dropout=0.1),
        init="mbart-large-cc25",
        data=Supervised(
            tasks=(
                Translation(
                    examples=TFDSExamples("wmt16_translate/ro-en"),
                    source="en",
                    target="ro",
                    languages=("en_XX", "ro_RO"),
                ),
            ),
            tokenizer=MBart("mbart-large-cc25/sentencepiece.bpe.model"),
            input_length=256,
            target_length=256,
        ),
        loss=Loss(z_loss=0.0, label_smoothing=0.2, smoothing="fairseq"),
        optimizer=AdamW(schedule=Linear(peak=3e-5, warmup=2_500), b2=0.98, epsilon=1e-6, weight_decay=0.0),
        steps=40_000,
        batch_size=8,
        evaluation=Evaluation(every=2_000, generation=Generation(method=Beam(5), max_length=256), best="bleu"),
        checkpoint=Checkpoint(every=2_000),
    )
