"""T5 base fine-tuned to answer SQuAD's questions, context and question in, answer out.

Paper: Raffel et al., arXiv:1910.10683, 3.1.3 and table 14 (85.44 exact match, 92.08 F1 on the validation set).
Recipe: the paper's 3.1.3: constant learning rate 0.001, Adafactor, dropout 0.1, 2**18 steps of 128 rows of 512.
Commands:
    python -m scripts.train experiments/finetune/squad_t5_base.py --run_dir runs/squad
    python -m scripts.evaluate runs/squad/checkpoints/best --split held_out
Data: by its TensorFlow Datasets name; t5-base is a Hugging Face directory.
Hardware, time, result: not run yet.
"""

from research import (
    Adafactor,
    Checkpoint,
    Constant,
    Evaluation,
    Experiment,
    Generation,
    QuestionAnswering,
    SentencePiece,
    Supervised,
    TFDSExamples,
)
from research.model import family


def get_config() -> Experiment:
    return Experiment(
        model=family.t5("base"),
        init="t5-base",
        data=Supervised(
            tasks=(QuestionAnswering(examples=TFDSExamples("squad")),),
            tokenizer=SentencePiece("t5-base/spiece.model"),
            input_length=512,
            target_length=128,
        ),
        optimizer=Adafactor(schedule=Constant(peak=1e-3)),
        steps=2**18,
        batch_size=128,
        evaluation=Evaluation(every=5_000, generation=Generation(max_length=32), examples=2048, best="f1"),
        checkpoint=Checkpoint(every=5_000),
    )
