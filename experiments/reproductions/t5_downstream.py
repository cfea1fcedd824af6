"""The columns of T5's tables: every model of a sweep, fine-tuned on GLUE, CNN/DM, SQuAD, SuperGLUE and three of WMT.

Paper: Raffel et al., arXiv:1910.10683, section 3.1.2: 2**18 steps on each, with ../t5/finetune.py's recipe; greedy
decoding, scores on validation sets. GLUE and SuperGLUE are the mean over their tasks of the mean of a task's metrics,
each task at its best checkpoint; so averaged, the baseline's scores in table 16 give table 1's 83.28 and 71.36, with
MNLI's two genres as one task. The report shows each column beside the paper's, and Kendall's tau of the two orders.

Commands: after one of t5_objectives.py, t5_architectures.py and t5_repeats.py, here the first:
    python -m scripts.sweep experiments/reproductions/t5_downstream.py --dir sweeps/t5_objectives_downstream \
        --from sweeps/t5_objectives --hardware 8xH100
    python -m scripts.report sweeps/t5_objectives_downstream
Differs: MNLI is scored on its matched genres alone. ../t5/finetune.py says what else.
Hardware, modelled: at least 148 chip-hours of H100 for each model that is fine-tuned (../t5/finetune.py).
Time, result: not run yet.
"""

from collections.abc import Iterable
from typing import Any

from research import Experiment

from ..t5 import finetune

SIZES = {
    "GLUE": "glue",
    "CNNDM": "cnn_dailymail",
    "SQuAD": "squad",
    "SGLUE": "super_glue",
    "EnDe": "wmt_en_de",
    "EnFr": "wmt_en_fr",
    "EnRo": "wmt_en_ro",
}


def get_config() -> Experiment:
    return finetune.get_config("squad")


def columns() -> dict[str, dict[str, Any]]:
    """Return the fields in which the sizes of the fine-tuning differ, by the paper's names of its columns."""
    configs = {name: finetune.SIZES[size] for name, size in SIZES.items()}
    return {name: {"data": config.data, "evaluation": config.evaluation} for name, config in configs.items()}


def sweep() -> Iterable[dict[str, Any]]:
    return columns().values()
