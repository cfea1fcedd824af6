"""Small made-up examples of every task of the suites, as JSON lines in the directories of --suite_data."""

import json
from pathlib import Path
from typing import Any

WORDS = ["the", "old", "river", "runs", "under", "a", "small", "bridge", "near", "our", "quiet", "town"]
COUNT = 6  # examples of a split


def text(number: int) -> str:
    return " ".join(WORDS[number % 5 : number % 5 + 4 + number % 3])


COLUMNS: dict[str, tuple[tuple[str, ...], int]] = {  # texts, and the number of labels
    "glue_cola": (("sentence",), 2),
    "glue_sst2": (("sentence",), 2),
    "glue_mrpc": (("sentence1", "sentence2"), 2),
    "glue_qqp": (("question1", "question2"), 2),
    "glue_mnli_matched": (("hypothesis", "premise"), 3),
    "glue_mnli_mismatched": (("hypothesis", "premise"), 3),
    "glue_qnli": (("question", "sentence"), 2),
    "glue_rte": (("sentence1", "sentence2"), 2),
    "glue_wnli": (("sentence1", "sentence2"), 2),
    "glue_ax": (("hypothesis", "premise"), 3),
    "super_glue_boolq": (("passage", "question"), 2),
    "super_glue_cb": (("hypothesis", "premise"), 3),
    "super_glue_copa": (("choice1", "choice2", "premise", "question"), 2),
    "super_glue_rte": (("hypothesis", "premise"), 2),
    "super_glue_wic": (("sentence1", "sentence2", "word"), 2),
    "super_glue_axb": (("sentence1", "sentence2"), 2),
    "super_glue_axg": (("hypothesis", "premise"), 2),
}


def record(task: str, number: int) -> dict[str, Any]:
    """The record number `number` of a task, with its label."""
    if task in COLUMNS:
        names, labels = COLUMNS[task]
        texts = {name: text(number + place) for place, name in enumerate(names)}
        return {**texts, "idx": 10 + number, "label": number % labels}
    match task:
        case "glue_stsb":
            return {"sentence1": text(number), "sentence2": text(number + 1), "idx": 10 + number, "label": 0.7 * number}
        case "super_glue_multirc":
            places = {"paragraph": number // 4, "question": number // 2, "answer": number}
            texts = {name: text(number) for name in ("question", "answer", "paragraph")}
            return {**texts, "idx": places, "label": number % 2}
        case "super_glue_record":
            entities = [f"{text(number)}", "town"]
            places = {"passage": number, "query": 100 + number}
            texts = {"query": "@placeholder runs", "passage": text(number)}
            return {**texts, "entities": entities, "answers": ["town"], "idx": places}
        case "super_glue_wsc":
            spans = {"span1_text": "the river", "span2_text": "it", "span2_index": 3}
            return {"text": f"the river said it {text(number)}", **spans, "idx": 10 + number, "label": number % 2}
        case "squad":
            answers = {"text": ["river", "the river"]}
            return {"question": text(number), "context": text(number + 1), "answers": answers}
        case "cnn_dailymail":
            return {"article": text(number), "highlights": text(number + 1)}
    if task.startswith("wmt"):
        return {"en": text(number), task[-2:]: text(number + 1)}
    return record_in_a_language(*task.rsplit("_", 1), number)


def record_in_a_language(benchmark: str, language: str, number: int) -> dict[str, Any]:
    if benchmark == "xnli":
        hypothesis = {"language": ["xx", language], "translation": [text(number), text(number + 1)]}
        return {"premise": {language: text(number)}, "hypothesis": hypothesis, "label": number % 3}
    if benchmark == "pawsx":
        return {"sentence1": text(number), "sentence2": text(number + 1), "label": number % 2}
    if benchmark == "wikiann":
        return {"tokens": text(number).split(), "spans": [f"LOC: {word}" for word in text(number).split()[:2]]}
    return record("squad", number)


def without_label(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name not in ("label", "answers", "spans")}


def write(directory: Path, tasks: list[str]) -> None:
    """Write the held-out examples of tasks, and their test sets without labels."""
    for task in tasks:
        (directory / task).mkdir(parents=True, exist_ok=True)
        rows = [record(task, number) for number in range(COUNT)]
        for split, lines in (("held_out", rows), ("test", list(map(without_label, rows)))):
            path = directory / task / f"{split}.jsonl"
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
