"""The pretraining of BART base (139 M parameters) or large (406 M) by infilling and sentence permutation.

Paper: Lewis et al., arXiv:1910.13461, section 5: 500,000 steps of 8,000 rows; infilling of 30% of each row and all
sentences permuted. The rest is from the command that fairseq's authors published (fairseq's issue 1899): spans of mean
length 3.5 (the paper has 3), 10% of the masks replaced by random tokens, Adam with peak 4e-4 (for large), 10,000 steps
of warm-up, then linear to 0 (fairseq's polynomial of power 1), weight decay 0.01 on everything, gradient norm clipped
at 0.1. Neither source gives Adam's moments and epsilon. Those here, 0.9, 0.98 and 1e-6, are a choice of ours: RoBERTa's
(arXiv:1907.11692), which has BART's text and batch; fairseq's defaults, which a command that sets none has, are 0.9,
0.999 and 1e-8 (fairseq/optim/adam.py). Documents follow one another without an EOS between them. The authors set
dropout to 0 for the last 10% of the steps; here it is constant.

Command: python -m scripts.train experiments/bart/bart.py:base --run_dir runs/bart_base
Data: for base books and Wikipedia as JSON lines in books_wiki/, for large RoBERTa's 160 GB of books, Wikipedia, news,
    stories and web text in text/; or by a TensorFlow Datasets name, as with
    --config.data.corpora='[TFDS("wikipedia/20230601.en", "train[:99%]", "train[99%:]")]'.
    BART's vocab.json and merges.txt in a directory: --config.data.tokenizer.path=PATH.
    Where 8,000 rows do not fit the devices: --config.microbatches=N.
Hardware, time, result: not run yet, at either size.
"""

from typing import Literal

from research import (
    BART,
    AdamW,
    ByteLevelBPE,
    Checkpoint,
    Denoising,
    Evaluation,
    Experiment,
    JSONLines,
    Linear,
    Loss,
    Mesh,
    TextInfilling,
)
from research.model import family

TEXT = {"base": "books_wiki", "large": "text"}


def get_config(size: Literal["base", "large"] = "base") -> Experiment:
    return Experiment(
        model=family.bart(size, vocab_size=50_265),
        data=Denoising(
            corpora=(JSONLines(f"{TEXT[size]}/train-*.jsonl.gz", f"{TEXT[size]}/held_out.jsonl.gz"),),
            tokenizer=ByteLevelBPE("bart"),
            objective=BART(
                corruption=TextInfilling(noise_density=0.3, poisson_mean=3.5, random_tokens=0.1, whole_words=True),
                permute_sentences=1.0,
                rotate=0.0,
            ),
            input_length=512,
        ),
        optimizer=AdamW(
            schedule=Linear(peak=4e-4, warmup=10_000),
            clip_norm=0.1,
            weight_decay=0.01,
            no_decay=(),
            b2=0.98,
            epsilon=1e-6,
        ),
        loss=Loss(z_loss=0.0),
        steps=500_000,
        batch_size=8_000,
        mesh=Mesh(data=-1),
        evaluation=Evaluation(every=5_000, rows=32_000),
        checkpoint=Checkpoint(every=2_500),
    )
