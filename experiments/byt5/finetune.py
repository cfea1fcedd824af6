"""ByT5's fine-tuning on XNLI, XQuAD, TyDi QA, GLUE and SuperGLUE, with ByT5 base or any other ByT5.

Paper: Xue et al., arXiv:2105.13626. The command for XNLI is that of the authors' README (github.com/google-research/
byt5): 2**20 tokens, 2**18 steps; lengths are those of its sequence_lengths/*.gin. Chosen here, since neither was found
to give them: mT5's constant rate 0.001 and dropout 0.1; for the other tasks, 2**18 steps of 2**17 tokens; checkpoints
every 1,000 steps. The tasks are those of ../mt5/finetune.py (tydi_qa: in all languages) and ../t5/finetune.py.

Commands: byt5-base is a Hugging Face directory.
    python -m scripts.train experiments/byt5/finetune.py:xnli --run_dir runs/byt5_xnli
    python -m scripts.train experiments/byt5/finetune.py:glue --run_dir runs/byt5_glue \
        --config.model='Pretrained("byt5-large")'
Published: in the paper's tables, of which no copy was at hand.
Differs: as the two files say.
Hardware, modelled by python -m scripts.plan experiments/byt5/finetune.py:xnli --hardware 8xH100: at least 724
    chip-hours, with --config.microbatches=8; 140 for xquad and tydi_qa, 96 for glue, 135 for super_glue.
Time, result: not run yet.
"""

from typing import Literal

from research import (
    Adafactor,
    Bytes,
    Checkpoint,
    Constant,
    Evaluation,
    Experiment,
    Generation,
    Mesh,
    Mixing,
    ModelTokenizer,
    Pretrained,
    Supervised,
    Task,
    equal_rates,
)
from research.data.tasks import multilingual
from research.model import family

from ..t5.finetune import GLUE, SUPER_GLUE

BYT5_BASE = Pretrained.like(
    family.byt5("base", dropout=0.1, attention_dropout=0.1, activation_dropout=0.1, output_dropout=0.1),
    path="byt5-base",
    tokenizer=Bytes(sentinels=0),
)


def finetuning(
    tasks: tuple[Task, ...], mixing: Mixing, lengths: tuple[int, int], best: str, tokens: int = 2**17
) -> Experiment:
    inputs, targets = lengths
    return Experiment(
        model=BYT5_BASE,
        data=Supervised(
            tasks=tasks,
            tokenizer=ModelTokenizer(),
            input_length=inputs,
            target_length=targets,
            mixing=mixing,
        ),
        optimizer=Adafactor(schedule=Constant(peak=1e-3)),
        steps=2**18,
        batch_size=tokens // inputs,
        mesh=Mesh(data=-1),
        evaluation=Evaluation(every=1_000, generation=Generation(max_length=targets), examples=50_000, best=best),
        checkpoint=Checkpoint(every=1_000),
    )


def multilingual_finetuning(tasks: tuple[Task, ...], lengths: tuple[int, int], best: str, tokens: int) -> Experiment:
    return finetuning(tasks, equal_rates(tasks), lengths, best, tokens)


SIZES = {
    "xnli": multilingual_finetuning(multilingual.xnli(), (2048, 56), "xnli/en/sequence_accuracy", tokens=2**20),
    "xquad": multilingual_finetuning(multilingual.xquad(), (4096, 512), "squad/f1", tokens=2**17),
    "tydi_qa": multilingual_finetuning(multilingual.tydi_qa("in_language"), (4096, 512), "tydi_qa/en/f1", tokens=2**17),
    "glue": finetuning(GLUE, Mixing(), (2048, 256), "glue/mnli/accuracy"),
    "super_glue": finetuning(SUPER_GLUE, Mixing(), (4096, 128), "super_glue/record/f1"),
}


def get_config(size: Literal["xnli", "xquad", "tydi_qa", "glue", "super_glue"] = "xnli") -> Experiment:
    return SIZES[size]
