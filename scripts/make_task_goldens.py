"""Record what t5 0.9.4 makes of hand-made records of its tasks: python scripts/make_task_goldens.py

It writes tests/goldens/t5_tasks.json: for each task its records with the inputs and targets, and predictions with the
postprocessed values and the metrics; and tests/goldens/rank_classification.json: the choices that are made of records,
and the metrics of log-likelihoods. It needs t5 with TensorFlow, in an environment of its own:

    python3.11 -m venv t5 && t5/bin/pip install t5==0.9.4
    t5/bin/python scripts/make_task_goldens.py
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from rouge_score import rouge_scorer
from t5.data import glue_utils, postprocessors, preprocessors
from t5.evaluation import metrics

GOLDENS = Path(__file__).resolve().parent.parent / "tests" / "goldens"
COUNT = 24  # records of each task

TEXTS = (
    "The cat sat on the mat.",
    "",  # as some hypotheses of MNLI
    " leading and trailing ",
    "two  spaces   and\ta tab",
    "a line\nand another\n\nand one after a blank line",
    "She said: \"It's 5 o'clock,\" didn't she?",
    "Ça coûte 3,50 € – déjà vu; naïve façade…",
    "Ελληνικά και κυριλλικά: привет, мир!",
    "日本語の文章。中文，标点！ 한국어 문장.",
    "नमस्ते दुनिया। مرحبا بالعالم",
    "emoji 😀 and a family 👩\u200d👩\u200d👧, e\u0301 decomposed",
    "no-break\u00a0space, zero\u200bwidth, line\u2028separator",
    "<br> <b>markup</b> &amp; entities {braces} %s",
    "premise: hypothesis: mnli sentence1: label",
    "back\\slash \\n and \\1",
    "UPPER lower MiXeD 1234567890",
    "x",
)
SIMILARITIES = (0.0, 5.0, 3.8, 2.5, 0.1, 0.3, 0.5, 1.1, 1.25, 4.9, 4.95, 2.2, 3.333, -1.0, 1.7, 2.9999, 3.0001)


def words(offset: int) -> list[str]:
    """Return a text for each record; each offset pairs them differently."""
    return list(islice(cycle(TEXTS[offset:] + TEXTS[:offset]), COUNT))


def record_of(builder: Any, name: str, number: int) -> dict[str, Any]:
    features = getattr(builder, "features", None) or list(builder.text_features)
    record = {feature: words(3 * place + number // len(TEXTS))[number] for place, feature in enumerate(features)}
    if name == "stsb":
        label: Any = float(np.float32(SIMILARITIES[number % len(SIMILARITIES)]))
    else:
        label = number % (len(builder.label_classes) + 1) - 1
    return {**record, "label": label, "idx": number}


def examples_of(record: dict[str, Any], preprocess: Any) -> list[dict[str, Any]]:
    """Return the examples that are made of a record."""
    return list(preprocess(tf.data.Dataset.from_tensors(tensors_of(record))).as_numpy_iterator())


def tensors_of(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: tensors_of(each) for name, each in value.items()}
    kind = tf.float32 if isinstance(value, float) else tf.string if isinstance(value, list) else None
    return tf.constant(value, kind)


def texts_of(record: dict[str, Any], preprocess: Any) -> tuple[str, str]:
    """Return the inputs and the targets of a record."""
    (made,) = examples_of(record, preprocess)
    return made["inputs"].decode(), made["targets"].decode()


def predictions_of(name: str, targets: list[str], labels: list[str]) -> list[str]:
    """Return a right, a wrong or an impossible answer for each target, in a fixed order."""
    wrong = labels or ["0.0", "2.6", "5.0"]
    impossible = ["", "maybe", f" {targets[0]}", targets[0].upper()]
    answers = []
    for number, target in enumerate(targets):
        kind = number % 5
        answers.append(target if kind < 3 else wrong[number % len(wrong)] if kind == 3 else impossible[number % 4])
    return answers


def golden(builder: Any, suite: str) -> dict[str, Any]:
    name = builder.name
    preprocess = glue_utils.get_glue_text_preprocessor(builder)
    records = [record_of(builder, name, number) for number in range(COUNT)]
    made = [texts_of(record, preprocess) for record in records]
    labelled = [number for number, (_, target) in enumerate(made) if target not in ("<unk>", "-1.0")]
    labels = list(builder.label_classes or ())
    targets = [made[number][1] for number in labelled]
    predictions = predictions_of(name, targets, labels)
    post = glue_utils.get_glue_postprocess_fn(builder)
    values = [[post(text, example=None, is_target=False) for text in side] for side in (targets, predictions)]
    scores: dict[str, float] = {}
    for metric in (glue_utils.get_glue_metric if suite == "glue" else glue_utils.get_super_glue_metric)(name):
        scores |= {key: float(value) for key, value in metric(*values).items()}
    return {
        "labels": labels,
        "examples": [
            {"record": record, "inputs": inputs, "targets": target}
            for record, (inputs, target) in zip(records, made, strict=True)
        ],
        "targets": targets,
        "predictions": predictions,
        "values": [[float(value) for value in side] for side in values],
        "scores": scores,
    }


# --- Tasks with records or scores of their own ------------------------------------------------------------------------

NAMES = (
    "Bob",
    "the old man",
    "Élodie",
    "Dr. Smith's dog",
    "Мария",
    "山田さん",
    "her little sister",
    "O'Neil",
    "the trophy",
)
PRONOUNS = ("he", "she", "it", "They", "him", "его", "彼", "their")
# Two of WSC's own records, in which the place of the pronoun is wrong or it has no space after it.
ODD_SCHEMAS = (
    (
        "The boy continued to whip the pony , and eventually the pony threw him over. John laughed out quite loud."
        ' "Good for him," he said. ',
        "him", 21, "The boy",
    ),
    (
        "When they had eventually calmed down a bit , and had gotten home, Mr. Farley put the magic pebble in an iron"
        " safe . Some day they might want to use it , but really for now, what more could they wish for?",
        "it", 28, "magic pebble",
    ),
)  # fmt: skip


def schemas() -> list[dict[str, Any]]:
    """Return records of WSC."""
    records = [
        {"text": text, "span2_text": pronoun, "span2_index": place, "span1_text": noun}
        for text, pronoun, place, noun in ODD_SCHEMAS
    ]
    for number in range(COUNT):
        one, other = NAMES[number % len(NAMES)], NAMES[(number + 2) % len(NAMES)]
        pronoun = PRONOUNS[number % len(PRONOUNS)]
        words = f"{one} told  {other} that {pronoun} could , X or not , see {pronoun} later".split(" ")
        place = words.index(pronoun)
        if number % 6 == 5:
            words, place = words[: place + 1], place  # the last word
        if number % 7 == 6:
            words[-1] += "\nnext line"
        text = " ".join(words)
        records.append(
            {"text": text, "span2_text": pronoun, "span2_index": place, "span1_text": (one, other)[number % 2]}
        )
    return [record | {"label": number % 3 - 1, "idx": number} for number, record in enumerate(records)]


def sentences_with_pronouns() -> list[dict[str, Any]]:
    """Return records of definite pronoun resolution."""
    endings = (" can pay.", ", who paid, left.", ". The end", "self is here", " said that {p} won.", "", "  twice {p}.")
    return [
        {
            "sentence": f"{one} asked {other} if {pronoun}{endings[number % len(endings)].replace('{p}', pronoun)}",
            "pronoun": pronoun,
            "candidates": [one, other],
            "label": number % 2,
        }
        for number in range(COUNT)
        for one, other in [(NAMES[number % len(NAMES)], NAMES[(number + 4) % len(NAMES)])]
        for pronoun in [PRONOUNS[number % len(PRONOUNS)]]
    ]


def questions() -> list[dict[str, Any]]:
    """Return records of SQuAD."""
    return [
        {
            "id": str(number),
            "title": "",
            "question": words(2)[number] + "?",
            "context": words(5)[number] + " (" + words(7)[number] + ")",
            "answers": {"text": [text or "empty?" for text in answer_texts(number)]},
        }
        for number in range(COUNT)
    ]


def answer_texts(number: int) -> list[str]:
    """Return one to three answers."""
    return [TEXTS[(number + 3 * place) % len(TEXTS)] for place in range(number % 3 + 1)]


def paragraphs() -> list[dict[str, Any]]:
    """Return records of MultiRC: three answers to each question."""
    return [
        {
            "paragraph": f"<b>Sent 1: </b>{words(1)[number // 3]}<br><b>Sent 2: </b>{words(4)[number // 3]}<br>",
            "question": words(2)[number // 3] + "?",
            "answer": words(6)[number],
            "label": number % 4 % 2 if number != 20 else -1,
            "idx": {"paragraph": number // 6, "question": number // 3, "answer": number},
        }
        for number in range(COUNT)
    ]


def news() -> list[dict[str, Any]]:
    """Return records of ReCoRD: none to three answers."""
    ends = (".", "", "?", '"', " ", "'", "!")
    return [
        {
            "passage": f"{words(3)[number]}{ends[number % 7]}\n@highlight\n{words(8)[number]}\n@highlight\nend",
            "query": f"{words(4)[number]} @placeholder {words(9)[number]}",
            "entities": [text or "none" for text in answer_texts(number)],
            "answers": [text or "none" for text in answer_texts(number)][: number % 4],
            "idx": {"passage": number // 2, "query": number},
        }
        for number in range(COUNT)
    ]


def articles() -> list[dict[str, Any]]:
    return [
        {"article": words(1)[number] or "x", "highlights": words(5)[number] or "y . z . "} for number in range(COUNT)
    ]


def translations() -> list[dict[str, Any]]:
    return [{"en": words(0)[number] or "x", "ro": words(8)[number] or "y"} for number in range(COUNT)]


def answered(number: int, target: str) -> str:
    """Return an answer to a target: the same, nearly the same, a part of it, another or none."""
    kinds: tuple[Callable[[], str], ...] = (
        lambda: target,
        lambda: f"The {target.upper()}!",
        lambda: " ".join(target.split()[: len(target.split()) // 2 + 1]),
        lambda: TEXTS[number % len(TEXTS)],
        lambda: "",
        lambda: target + "'s",
        lambda: target.split()[-1],
        lambda: f"a {target} ",
    )
    return kinds[number % len(kinds)]()


def own_golden(
    records: list[dict[str, Any]],
    preprocess: Any,
    scores: list[Any],
    post: Any = None,
    evaluated: Any = None,
    answer: Callable[[int, str], str] = answered,
) -> dict[str, Any]:
    """Record a task whose examples may be none or several of a record; `evaluated` makes those of evaluation."""
    trained = [examples_of(record, preprocess) for record in records]
    held_out = [examples_of(record, evaluated or preprocess) for record in records]
    rows = [
        (row, answer(number, row["targets"].decode()))
        for number, made in enumerate(held_out)
        for row in made[:1]
        if row["targets"] != b"<unk>"
    ]
    targets, predictions = [], []
    for row, prediction in rows:
        example = row | {"targets_pretokenized": row["targets"]}
        target = row["targets"].decode()
        targets.append(post(target, example=example, is_target=True) if post else target)
        predictions.append(post(prediction, example=example, is_target=False) if post else prediction)
    found: dict[str, float] = {}
    for metric in scores:
        np.random.seed(0)  # noqa: NPY002 - rouge-score draws from it
        found |= {f"{key}": float(value) for key, value in metric(targets, predictions).items()}
    return {
        "examples": [
            {
                "record": record,
                "training": [[row["inputs"].decode(), row["targets"].decode()] for row in made],
                "evaluated": [row["inputs"].decode() for row in once[:1]],
            }
            for record, made, once in zip(records, trained, held_out, strict=True)
        ],
        "predictions": [prediction for _, prediction in rows],
        "values": [value["value"] if isinstance(value, dict) else value for value in predictions],
        "scores": found,
    }


def false_or_true(number: int, target: str) -> str:
    return (target, target, "True", "False", "", target.lower(), target)[number % 7]


def own_goldens() -> dict[str, Any]:
    multirc = tfds.text.super_glue.SuperGlue.builder_configs["multirc"]
    super_glue = glue_utils.get_super_glue_metric
    return {
        "super_glue/multirc": own_golden(
            paragraphs(),
            glue_utils.get_glue_text_preprocessor(multirc),
            super_glue("multirc"),
            postprocessors.multirc,
            answer=false_or_true,
        ),
        "super_glue/record": own_golden(news(), preprocessors.record, super_glue("record"), postprocessors.record),
        "super_glue/wsc": own_golden(
            schemas(),
            partial(preprocessors.wsc_simple, correct_referent_only=True),
            [metrics.accuracy],
            postprocessors.wsc_simple,
            evaluated=partial(preprocessors.wsc_simple, correct_referent_only=False),
        ),
        "dpr": own_golden(
            sentences_with_pronouns(), preprocessors.definite_pronoun_resolution_simple, [metrics.accuracy]
        ),
        "squad": own_golden(questions(), preprocessors.squad, [metrics.squad], postprocessors.qa),
        "squad/context_free": own_golden(
            questions(), partial(preprocessors.squad, include_context=False), [metrics.squad], postprocessors.qa
        ),
        "trivia_qa/scores": own_golden(questions(), preprocessors.squad, [metrics.trivia_qa], postprocessors.qa),
        "cnn_dailymail": own_golden(
            articles(),
            partial(preprocessors.summarize, article_key="article", summary_key="highlights"),
            [averaged, bootstrapped],
        ),
        "wmt16_enro": own_golden(
            translations(),
            partial(preprocessors.translate, source_language="en", target_language="ro"),
            [metrics.bleu],
        ),
    }


def averaged(targets: list[str], predictions: list[str]) -> dict[str, float]:
    scorer = rouge_scorer.RougeScorer(("rouge1", "rouge2", "rougeLsum"))
    sides = [[text.replace(" . ", " .\n") for text in side] for side in (targets, predictions)]
    rows = [scorer.score(*pair) for pair in zip(*sides, strict=True)]
    return {key: 100 * float(np.mean([row[key].fmeasure for row in rows])) for key in rows[0]}


def bootstrapped(targets: list[str], predictions: list[str]) -> dict[str, float]:
    return {f"{key}_bootstrap": value for key, value in metrics.rouge(targets, predictions).items()}


# --- Ranked answers ---------------------------------------------------------------------------------------------------


def ranked_groups(seed: int, fewest: int, most: int) -> list[dict[str, Any]]:
    """Return examples with the log-likelihoods of their choices, among them equal and nearly equal ones."""
    generator = np.random.default_rng(seed)
    groups = []
    for number in range(COUNT):
        count = int(generator.integers(fewest, most + 1))
        scores = generator.normal(-8, 4, count).astype(np.float32)
        if number % 5 == 2:
            scores[-1] = scores[0]  # a tie
        if number % 6 == 3:
            scores[-1] = np.nextafter(scores[0], np.float32(0))  # above the first by the last bit
        if number % 8 == 5:
            scores[0] = scores.max() + 120.0  # a probability of 1 in float32
        groups.append(
            {
                "scores": [float(score) for score in scores],
                "lengths": generator.integers(1, 9, count).tolist(),
                "right": [int(generator.integers(count))],
                "weight": 1.0,
            }
        )
    return groups


def weighted(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [group | {"weight": (0.5, 1.0, 2.25, 0.0)[number % 4]} for number, group in enumerate(groups)]


def ranked_golden(groups: list[dict[str, Any]], classes: int | None, by_token: bool = False) -> dict[str, Any]:
    """Record the metrics of examples with `classes` choices each, or a number that varies."""
    rows = [
        (((number, place), place in group["right"], group["weight"], length), score)
        for number, group in enumerate(groups)
        for place, (score, length) in enumerate(zip(group["scores"], group["lengths"], strict=True))
    ]
    np.random.default_rng(0).shuffle(rows)  # it sorts them
    targets, scores = zip(*rows, strict=True)
    found = metrics.rank_classification(targets, scores, num_classes=classes, normalize_by_target_length=by_token)
    return {
        "groups": groups,
        "by_token": by_token,
        "metrics": {name: float(value) for name, value in found.items() if not np.isnan(value)},
    }


def ranked_sets() -> dict[str, Any]:
    two, three, any_number = ranked_groups(2, 2, 2), ranked_groups(3, 3, 3), ranked_groups(4, 1, 5)
    several = [group | {"right": [0, 2] if number % 3 else [1]} for number, group in enumerate(three)]
    return {
        "two": ranked_golden(two, 2),
        "two, by token": ranked_golden(two, 2, by_token=True),
        "two, weighted": ranked_golden(weighted(two), 2),
        "two, the second always right": ranked_golden([group | {"right": [1]} for group in two], 2),
        "two, the first always right": ranked_golden([group | {"right": [0]} for group in two], 2),
        "two, some without a right one": ranked_golden([*two, *(group | {"right": []} for group in two[:5])], 2),
        "three": ranked_golden(three, 3),
        "three, by token": ranked_golden(three, 3, by_token=True),
        "three, weighted": ranked_golden(weighted(three), 3),
        "three, the last never right": ranked_golden([group | {"right": [0]} for group in three], 3),
        "three, several right": ranked_golden(several, 3),
        "three, several right, weighted": ranked_golden(weighted(several), 3),
        "any number": ranked_golden(any_number, None),
        "any number, by token": ranked_golden(any_number, None, by_token=True),
        "any number, weighted": ranked_golden(weighted(any_number), None),
    }


def choices_golden() -> dict[str, Any]:
    """Record the examples that are made of records with two choices, one or both of them right."""
    inputs, targets = "{premise} What is the {question}? X", ["I think {choice1}.", "I think {choice2}."]
    records = [
        {
            "premise": words(1)[number] or "x",
            "question": ("cause", "effect")[number % 2],
            "choice1": words(4)[number] or "y",
            "choice2": words(9)[number] or "z",
            "label": [number % 2] if number % 5 else [0, 1],
            "weight": (1.0, 0.25, 3.0)[number % 3],
        }
        for number in range(COUNT)
        if "\\" not in words(1)[number] + words(4)[number] + words(9)[number]  # t5 reads \\1 as a group of its pattern
    ]
    features = {name: tf.ragged.constant([record[name] for record in records]) for name in records[0]}
    data, made = tf.data.Dataset.from_tensor_slices(features), {}
    for mode in ("train", "eval"):
        rows = preprocessors.rank_classification_formatter(
            data, inputs, targets, mode=mode, label_key="label", weight_key="weight"
        ).as_numpy_iterator()
        made[mode] = [
            {
                "idx": row["idx"].tolist(),
                "inputs": row["inputs"].decode(),
                "targets": row["targets"].decode(),
                "is_correct": bool(row["is_correct"]),
                "weight": float(row["weight"]),
            }
            for row in rows
        ]
    return {"inputs": inputs, "targets": targets, "records": records, "made": made}


def write(name: str, content: dict[str, Any]) -> None:
    packages = ("t5", "tensorflow", "tensorflow-datasets", "scikit-learn", "scipy")
    content = {"versions": {package: version(package) for package in packages}, **content}
    (GOLDENS / name).write_text(json.dumps(content, ensure_ascii=False, indent=0) + "\n")


def main() -> int:
    glue, super_glue = tfds.text.glue.Glue.builder_configs, tfds.text.super_glue.SuperGlue.builder_configs
    tasks = {}
    for name in ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli"):
        tasks[f"glue/{name}"] = golden(glue[name], "glue")
    for name in ("boolq", "cb", "copa", "rte", "wic"):
        tasks[f"super_glue/{name}"] = golden(super_glue[name], "super_glue")
    tasks |= own_goldens()
    write("t5_tasks.json", {"tasks": tasks})
    write("rank_classification.json", {"choices": choices_golden(), "sets": ranked_sets()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
