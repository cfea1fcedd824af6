"""AlgoPerf's workload WMT with the optimizer that set its target: German to English, WMT17 for training.

Source: github.com/mlcommons/algorithmic-efficiency, algoperf/workloads/wmt and algorithms/target_setting_algorithms:
Flax's example (flax_wmt17.py beside this file) with 1024 feed-forward and without attention dropout; 128 rows of 256
tokens; NAdamW, rate 0.00175 after 1,999 steps of warm-up, cosine to 0, betas 0.933 and 0.9955, weight decay 0.081 of
everything, no label smoothing; 120,000 steps, the workload's step_hint.
Target: 30.8491 BLEU on WMT14's validation set and 30.7219 on its test set, by sacreBLEU's 13a, within 43,336 s on the
    benchmark's hardware.
Differs: as flax_wmt17.py says, and by optax's correction of Nesterov's momentum for its bias in the first steps.

Commands:
    python -m scripts.train experiments/marian/algoperf_wmt.py --run_dir runs/algoperf_wmt
    python -m scripts.evaluate runs/algoperf_wmt/checkpoints/best --split test
Data: as in flax_wmt17.py.
Hardware, modelled by python -m scripts.plan experiments/marian/algoperf_wmt.py --hardware 8xH100: at
    least 3 chip-hours.
Time, result: not run yet.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from research import BLEU, AdamW, Checkpoint, Cosine, Experiment, Loss, Parameter

from . import flax_wmt17

FLAX = flax_wmt17.get_config()


@dataclass(frozen=True, kw_only=True)
class NAdamW(AdamW):
    """AdamW with Nesterov's momentum (Dozat, "Incorporating Nesterov Momentum into Adam", 2016)."""

    def transformation(self, rate: Any, parameters: Mapping[str, Parameter]) -> Any:
        import optax

        from research.train.transformations import chain_by_kind, scale_by_growth

        return chain_by_kind(
            optax.scale_by_adam(self.b1, self.b2, self.epsilon, nesterov=True),
            scale_by_growth(parameters, -1.0, rate),
            optax.scale(-1.0),
        )


def get_config() -> Experiment:
    return replace(
        FLAX,
        model=replace(FLAX.model, feed_forward=1024, attention_dropout=0.0),
        data=flax_wmt17.data(BLEU()),
        loss=Loss(z_loss=0.0),
        optimizer=NAdamW(
            schedule=Cosine(peak=0.0017486387539278373, warmup=1_999),
            b1=0.9326607383586145,
            b2=0.9955159689799007,
            weight_decay=0.08121616522670176,
            no_decay=(),
        ),
        steps=120_000,
        batch_size=128,
        evaluation=replace(FLAX.evaluation, every=2_000, best="bleu"),
        checkpoint=Checkpoint(every=2_000),
    )
