"""The pretraining of mBART (611 M parameters) on CC25, its 25 languages, by text infilling and sentence permutation.

Paper: Liu et al., arXiv:2001.08210, section 2: 35% of the words in spans of mean length 3.5, sentences permuted, `X
</s> LANGUAGE`, languages sampled by p ** 0.7, Adam with b2 0.98 and epsilon 1e-6, 500,000 steps with a linear decay.
Peak, warm-up, weight decay and clipping are a choice of ours, BART's (fairseq's issue 1899), since mBART's authors give
none. They write of about 128,000 tokens a GPU on 256 GPUs, "matching BART": the batch here is BART's, 8,000 rows of 512
or 4 M tokens. They lowered dropout from 0.1 to 0.05 at step 250,000 and to 0 at step 400,000; here it is constant.
Their rows end with a document; here a row continues into the next document.

Command: python -m scripts.train experiments/mbart/cc25.py --run_dir runs/mbart_cc25
Data: plain text, a sentence a line and a blank line between documents, in cc25/LANGUAGE/; mBART's
    sentencepiece.bpe.model: --config.data.tokenizer.path=PATH.
    Where 8,000 rows do not fit the devices: --config.microbatches=N.
Hardware, time, result: not run yet.
"""

from research import (
    BART,
    AdamW,
    Checkpoint,
    Denoising,
    Evaluation,
    Experiment,
    Linear,
    Loss,
    MBart,
    Mesh,
    Mixing,
    PlainText,
    TextInfilling,
)
from research.model import family

LANGUAGES = (
    "ar_AR", "cs_CZ", "de_DE", "en_XX", "es_XX", "et_EE", "fi_FI", "fr_XX", "gu_IN", "hi_IN", "it_IT", "ja_XX",
    "kk_KZ", "ko_KR", "lt_LT", "lv_LV", "my_MM", "ne_NP", "nl_XX", "ro_RO", "ru_RU", "si_LK", "tr_TR", "vi_VN",
    "zh_CN",
)  # fmt: skip


def get_config() -> Experiment:
    return Experiment(
        model=family.mbart("large", vocab_size=250_027),
        data=Denoising(
            corpora=tuple(
                PlainText(f"cc25/{language}/train-*.txt.gz", f"cc25/{language}/held_out.txt.gz", language=language)
                for language in LANGUAGES
            ),
            tokenizer=MBart("sentencepiece.bpe.model", "cc25"),
            objective=BART(
                corruption=TextInfilling(noise_density=0.35, poisson_mean=3.5, random_tokens=0.1, whole_words=True),
                permute_sentences=1.0,
                sentence_ends=(),  # the EOS after each line ends a sentence
                unspaced=("ja_XX", "my_MM", "zh_CN"),
            ),
            input_length=512,
            eos_after_lines=True,
            mixing=Mixing(temperature=1 / 0.7),
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
