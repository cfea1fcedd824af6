"""Flax's example of translation: a pre-norm Transformer big, German to English, WMT17 for training.

Source: github.com/google/flax, examples/wmt, configs/default.py: 6 + 6 layers 1024 wide, 4096 feed-forward, 16 heads,
dropout and attention dropout 0.1; 32,000 pieces of a joint vocabulary; 256 packed rows of 256 tokens on its 8 devices;
Adam (0.9, 0.98, 1e-9), rate 0.002 after 1,000 steps of warm-up, then inverse square root; label smoothing 0.1; 100,000
steps; beam 4 with length penalty 0.6.
Published (its README, TPU v3-8, 13 h 18 min): 32.87 BLEU on WMT14's test set, tokenized as mteval-v14 and lower-cased.
Differs: queries' initial values are scaled in place of the scores, and matrices are normal with the deviation of their
    fan-in, not uniform by fan-in and fan-out; attention has biases too.

Commands:
    python -m scripts.train experiments/marian/flax_wmt17.py --run_dir runs/flax_wmt17
    python -m scripts.evaluate runs/flax_wmt17 --split test
Data: by its TensorFlow Datasets names, downloaded once. A joint vocabulary of 32,000 pieces is trained on it.
Hardware, modelled by python -m scripts.plan experiments/marian/flax_wmt17.py --hardware 8xH100: at
    least 7 chip-hours.
Time, result: not run yet.
"""

from research import (
    BLEU,
    GNMT,
    AdamW,
    Beam,
    BySplit,
    Checkpoint,
    Evaluation,
    Experiment,
    FanIn,
    Generation,
    InverseSquareRoot,
    LayerNorm,
    Loss,
    Mesh,
    Model,
    Sinusoidal,
    Supervised,
    TFDSExamples,
    Tied,
    TrainedSentencePiece,
    Translation,
)

WMT17 = BySplit(
    train=TFDSExamples("wmt17_translate/de-en"),
    held_out=TFDSExamples("wmt14_translate/de-en"),
    test=TFDSExamples("wmt14_translate/de-en"),
)


def data(bleu: BLEU) -> Supervised:
    return Supervised(
        tasks=(Translation(examples=WMT17, source="de", target="en", metrics=(bleu,)),),
        tokenizer=TrainedSentencePiece(pieces=32_000, sentinels=0),
        input_length=256,
        target_length=256,
        too_long="drop",
    )


def get_config() -> Experiment:
    return Experiment(
        model=Model(
            vocab_size=32_000,
            width=1024,
            heads=16,
            head_width=64,
            feed_forward=4096,
            encoder_layers=6,
            decoder_layers=6,
            activation="relu",
            gated=False,
            biases=True,
            norm=LayerNorm(1e-6),
            positions=Sinusoidal(256, last_included=True),
            head=Tied(scaled=True),
            initial=FanIn(),
            dropout=0.1,
            attention_dropout=0.1,
            activation_dropout=0.1,
            shared_dropout=False,
        ),
        data=data(BLEU("intl", lowercase=True)),
        loss=Loss(z_loss=0.0, label_smoothing=0.1),
        optimizer=AdamW(
            schedule=InverseSquareRoot(peak=2e-3, timescale=1_000, warmup=1_000),
            b2=0.98,
            epsilon=1e-9,
            weight_decay=0.0,
        ),
        steps=100_000,
        batch_size=256,
        mesh=Mesh(data=-1),
        evaluation=Evaluation(
            every=5_000,
            generation=Generation(method=Beam(4, length_penalty=GNMT(0.6)), max_length=256),
            examples=3_000,
            best="bleu_intl_lowercase",
        ),
        checkpoint=Checkpoint(every=5_000),
    )
