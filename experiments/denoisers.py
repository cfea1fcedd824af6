"""Four denoising objectives on Python's documentation at equal compute, compared by fine-tuning on function summaries.

Papers: Raffel et al., arXiv:1910.10683 (spans, prefix language modelling); Lewis et al., arXiv:1910.13461 (infilling
    and permutation); Tay et al., arXiv:2205.05131 (UL2's mixture).
Commands: pretrain, 21.5 TFLOP each (a step of 64 targets costs 1.94 times one of span corruption's 14), then fine-tune:
    ./scripts/quickstart
    python -m scripts.train experiments/denoisers.py --run_dir runs/spans
    python -m scripts.train experiments/denoisers.py --run_dir runs/bart --config.steps=2580 \
        --config.data.objective='BART(TextInfilling(), permute_sentences=1.0)'
    python -m scripts.train experiments/denoisers.py --run_dir runs/prefix --config.steps=2580 \
        --config.data.objective='PrefixLM()'
    python -m scripts.train experiments/denoisers.py --run_dir runs/ul2 --config.steps=2580 \
        --config.data.objective='UL2()'
    python -m scripts.train experiments/finetune/summarize.py --run_dir runs/summaries_spans \
        --config.model='Pretrained("runs/spans", dropout=0.1)'
    python -m scripts.evaluate runs/summaries_spans/checkpoints/best --split test
    and likewise for the others, with three seeds each (--config.seed=1).
The quickstart is trained for its vocabulary. Each objective has other targets, so held-out losses cannot be compared.
Result: ROUGE-L of held-out summaries 17.2 from spans, 19.0 from BART's noise, 16.1 from prefix LM, 16.7 from UL2, 16.2
    from random weights; seeds, losses, hardware and commits are in LOG.md.
"""

from dataclasses import replace

from research import TFDS, Denoising, Experiment, SentencePiece

from . import quickstart

QUICKSTART = quickstart.get_config()


def get_config() -> Experiment:
    return replace(
        QUICKSTART,
        data=Denoising(
            corpora=(TFDS("python_docs"),),
            tokenizer=SentencePiece("runs/quickstart/tokenizer.model"),
            input_length=64,
        ),
        steps=5000,
    )
