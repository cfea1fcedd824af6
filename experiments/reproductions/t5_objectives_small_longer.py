"""Three objectives of t5_objectives_small.py with three times its steps: do their ranks come from too little training?

There, i.i.d. noise with spans replaced (T5's baseline) came last of all and spans of 3 before it, and BERT-style noise,
whose target is the whole text, among the first: after 0.7 M tokens the order was that of how much fluent text the
decoder had written. Here they have 1,800 steps of the same rows (2.1 M raw tokens, three sevenths of an epoch, so no
text is seen twice), and small_summaries.py fine-tunes them as it does those.

Commands:
    python -m scripts.sweep experiments/reproductions/t5_objectives_small_longer.py --dir sweeps/t5_longer --jobs 2
    python -m scripts.sweep experiments/reproductions/small_summaries.py --dir sweeps/t5_longer_summaries --jobs 2 \
        --from sweeps/t5_longer
    python -m scripts.report sweeps/t5_longer_summaries
Hardware, time, result: not run yet.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from research import BERTStyle, Checkpoint, Experiment, Published, ReplaceSpans, SpanCorruption, grid, product, seeds

from . import t5_objectives, t5_objectives_small


def get_config() -> Experiment:
    return replace(t5_objectives_small.get_config(), steps=1800, checkpoint=Checkpoint(every=600))


def sweep() -> Iterable[dict[str, Any]]:
    return product(seeds(3), grid({"data.objective": [ReplaceSpans(0.15), BERTStyle(), SpanCorruption(0.15, 3.0)]}))


def published() -> Iterable[Published]:
    """Return the paper's tables 5 and 7, with the rows of these objectives alone."""
    present = [change["data.objective"] for change in sweep()]
    for table in t5_objectives.published():
        if table.source.endswith(("table 5", "table 7")):
            yield replace(table, rows=tuple(row for row in table.rows if row[0]["data.objective"] in present))
