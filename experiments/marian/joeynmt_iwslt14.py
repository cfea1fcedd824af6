"""JoeyNMT's Transformer on IWSLT14, German to English, lower-cased.

Source: github.com/joeynmt/joeynmt, configs/iwslt14_deen_bpe.yaml: 6 + 6 pre-norm layers 256 wide, 1024 feed-forward, 4
heads, dropout 0.3, one table for both languages and the head, Glorot's initial values; Adam (0.9, 0.999, 1e-8), rate
3e-4, label smoothing 0.1, 4,096 tokens an update, 100 epochs; beam 5 with length penalty 1, at most 100 tokens.
Published (its README): 34.53 BLEU on the validation set and 33.73 on the test set, lower-cased, sacreBLEU's 13a.
Differs: its rate is multiplied by 0.7 whenever 5 validations bring no better BLEU; here it falls linearly to 0 in
    100,000 updates, a choice of ours. The byte pairs are SentencePiece's, not subword-nmt's; pairs above 62 pieces are
    kept; rows are packed; initial values of the table and of query, key and value are fairseq's.

Commands:
    python -m scripts.train experiments/marian/joeynmt_iwslt14.py --run_dir runs/iwslt14
    python -m scripts.evaluate runs/iwslt14/checkpoints/best --split test
Data: the files train, valid and test of JoeyNMT's scripts/get_iwslt14_bpe.sh, tokenized and lower-cased, as
    iwslt14/train.de, iwslt14/train.en, ...
Hardware, modelled by python -m scripts.plan experiments/marian/joeynmt_iwslt14.py --hardware 1xH100: at
    least 5 minutes.
Time, result: not run yet.
"""

from research import (
    BLEU,
    GNMT,
    AdamW,
    Beam,
    Checkpoint,
    Evaluation,
    Experiment,
    Generation,
    Linear,
    Loss,
    ParallelText,
    Supervised,
    TrainedSentencePiece,
    Translation,
    Xavier,
)
from research.model import family


def get_config() -> Experiment:
    return Experiment(
        model=family.marian(
            "tiny",
            vocab_size=32_000,
            width=256,
            heads=4,
            head_width=64,
            feed_forward=1024,
            encoder_layers=6,
            decoder_layers=6,
            norm_first=True,
            logits_bias=False,
            dropout=0.3,
            attention_dropout=0.3,
            activation_dropout=0.3,
            initial=Xavier(),
        ),
        data=Supervised(
            tasks=(
                Translation(
                    examples=ParallelText("iwslt14/train.{name}", "iwslt14/valid.{name}", "iwslt14/test.{name}"),
                    source="de",
                    target="en",
                    metrics=(BLEU(lowercase=True),),
                ),
            ),
            tokenizer=TrainedSentencePiece(pieces=32_000, algorithm="bpe", sentinels=0),
            input_length=128,
            target_length=128,
        ),
        loss=Loss(z_loss=0.0, label_smoothing=0.1, smoothing="fairseq"),
        optimizer=AdamW(schedule=Linear(peak=3e-4), weight_decay=0.0),
        steps=100_000,
        batch_size=32,
        evaluation=Evaluation(
            every=1_000,
            generation=Generation(method=Beam(5, length_penalty=GNMT(1.0)), max_length=100),
            examples=8_000,
            best="bleu_lowercase",
        ),
        checkpoint=Checkpoint(every=1_000),
    )
