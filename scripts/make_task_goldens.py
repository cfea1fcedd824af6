"""Record what t5 0.9.4 makes of hand-made records of its tasks: python scripts/make_task_goldens.py

It writes tests/goldens/t5_tasks.json: for each task its records with the inputs and targets, and predictions with the
postprocessed values and the metrics. It needs t5 with TensorFlow, in an environment of its own:

    python3.11 -m venv t5 && t5/bin/pip install t5==0.9.4
    t5/bin/python scripts/make_task_goldens.py
"""

import json
import sys
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from t5.data import glue_utils

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


def texts_of(record: dict[str, Any], preprocess: Any) -> tuple[str, str]:
    """Return the inputs and the targets of a record."""
    tensors = {
        name: tf.constant(value, tf.float32 if isinstance(value, float) else None) for name, value in record.items()
    }
    dataset = tf.data.Dataset.from_tensors(tensors)
    (made,) = list((preprocess(dataset)).as_numpy_iterator())
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


def main() -> int:
    glue, super_glue = tfds.text.glue.Glue.builder_configs, tfds.text.super_glue.SuperGlue.builder_configs
    tasks = {}
    for name in ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli"):
        tasks[f"glue/{name}"] = golden(glue[name], "glue")
    for name in ("boolq", "cb", "copa", "rte", "wic"):
        tasks[f"super_glue/{name}"] = golden(super_glue[name], "super_glue")
    versions = {
        package: version(package) for package in ("t5", "tensorflow", "tensorflow-datasets", "scikit-learn", "scipy")
    }
    content = {"versions": versions, "tasks": tasks}
    (GOLDENS / "t5_tasks.json").write_text(json.dumps(content, ensure_ascii=False, indent=0) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
