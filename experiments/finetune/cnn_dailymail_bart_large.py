"""BART large fine-tuned to summarize CNN / Daily Mail, as its authors did.

Paper: Lewis et al., arXiv:1910.13461, 5.3; 44.16 / 21.28 / 40.90 ROUGE-1 / 2 / L (fairseq, examples/bart/README.md).
Recipe: fairseq, examples/bart/README.summarization.md: learning rate 3e-5, linear to 0 in 20,000 updates after 500 of
    warm-up, Adam (0.9, 0.999, 1e-8), weight decay 0.01, clipping 0.1, label smoothing 0.1, dropout 0.1, attention
    dropout 0.1, 65,536 tokens an update; beam 4, length penalty 2, 55 to 140 tokens, no trigram twice.
Commands:
    python -m scripts.train experiments/finetune/cnn_dailymail_bart_large.py --run_dir runs/cnn
    python -m scripts.evaluate runs/cnn/checkpoints/best --split test
Data: by its TensorFlow Datasets name; bart-large is a Hugging Face directory.
Hardware, time, result: not run yet.
"""

from research import (
    AdamW,
    Beam,
    ByteLevelBPE,
    Checkpoint,
    Evaluation,
    Experiment,
    Generation,
    Linear,
    Loss,
    Power,
    Summarization,
    Supervised,
    TFDSExamples,
)
from research.model import family


def get_config() -> Experiment:
    return Experiment(
        model=family.bart("large", attention_dropout=0.1),
        init="bart-large",
        data=Supervised(
            tasks=(Summarization(examples=TFDSExamples("cnn_dailymail"), source="article", target="highlights"),),
            tokenizer=ByteLevelBPE("bart-large"),
            input_length=1024,
            target_length=256,
        ),
        loss=Loss(z_loss=0.0, label_smoothing=0.1, smoothing="fairseq"),
        optimizer=AdamW(schedule=Linear(peak=3e-5, warmup=500), weight_decay=0.01, clip_norm=0.1),
        steps=20_000,
        batch_size=64,
        evaluation=Evaluation(
            every=2_000,
            generation=Generation(
                method=Beam(4, length_penalty=Power(2.0), stop="first"),
                max_length=140,
                min_length=55,
                no_repeat_ngram=3,
            ),
            best="rougeL",
        ),
        checkpoint=Checkpoint(every=2_000),
    )
