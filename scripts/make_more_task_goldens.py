"""Record what the code of mT5, T5's closed-book questions, T5 and FLAN makes of hand-made records.

It writes tests/goldens/more_tasks.json, like scripts/make_task_goldens.py, whose environment it needs, and the sources
of three repositories in the path: google-research/multilingual-t5, google-research/FLAN, and the folder
t5_closed_book_qa/t5_cbqa of google-research/google-research with its preprocessors.py as cbqa_preprocessors.py:

    PYTHONPATH=.:multilingual-t5:FLAN:cbqa t5/bin/python -m scripts.make_more_task_goldens
"""

import json
import sys
from functools import partial
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import cbqa_preprocessors
import seqio
import t5.data.mixtures
import tensorflow as tf
from flan.v2 import preprocessors as flan
from flan.v2 import templates as flan_templates
from multilingual_t5 import preprocessors as mt5
from multilingual_t5.evaluation import metrics as mt5_metrics
from t5.data import postprocessors, preprocessors
from t5.evaluation import metrics

from scripts.make_task_goldens import (
    COUNT,
    GOLDENS,
    answer_texts,
    answered,
    examples_of,
    own_golden,
    tensors_of,
    words,
)

LANGUAGES = ("ar", "de", "en", "zh")
ANSWERS = (
    "The answer, of course!",
    "el gato y la casa",
    "der Hund und das Haus",
    "الكتاب في البيت",
    "那只猫在2020年「北京」",
    "cái nhà của những người",
    "एक घर, दो घर।",
    "…—!",
    "x",
    " an  apple ",
    "東京タワー 333m",
    "¿Qué? ¡Un día!",
)


def entailments() -> list[dict[str, Any]]:
    return [
        {"premise": words(1)[number], "hypothesis": words(6)[number], "label": number % 4 - 1}
        for number in range(COUNT)
    ]


def entailments_in_languages() -> list[dict[str, Any]]:
    """Return records of XNLI, with the languages of a hypothesis in any order."""
    return [
        {
            "premise": {language: words(place)[number] for place, language in enumerate(LANGUAGES)},
            "hypothesis": {
                "language": [LANGUAGES[(place + number) % len(LANGUAGES)] for place in range(len(LANGUAGES))],
                "translation": [words(place + 5)[number] for place in range(len(LANGUAGES))],
            },
            "label": number % 3,
        }
        for number in range(COUNT)
    ]


def paraphrases() -> list[dict[str, Any]]:
    return [
        {"sentence1": words(2)[number], "sentence2": words(9)[number], "label": number % 3 - 1}
        for number in range(COUNT)
    ]


def passages() -> list[dict[str, Any]]:
    """Return records of XQuAD, whose answers are of many scripts."""
    return [
        {
            "id": str(number),
            "question": f"{words(2)[number]}?¿{ANSWERS[number % len(ANSWERS)]}",
            "context": f"{words(5)[number]} ({ANSWERS[(number + 3) % len(ANSWERS)]}) {words(7)[number]}_1",
            "answers": {"text": [ANSWERS[(number + place) % len(ANSWERS)] for place in range(number % 3 + 1)]},
        }
        for number in range(COUNT)
    ]


def entities() -> list[dict[str, Any]]:
    """Return records of WikiAnn: no, one or several spans, some twice, with a colon or with spaces around."""
    kinds = ("PER", "LOC", "ORG")
    return [
        {
            "tokens": (words(2)[number] or "x").split(" "),
            "tags": ["O"],
            "langs": ["en"],
            "spans": [
                f"{kinds[(number + place) % 3]}: {ANSWERS[(number + place % 2) % 12]}{':' * (number % 7 == 6)}"
                for place in range(number % 4)
            ],
        }
        for number in range(COUNT)
    ]


def open_questions() -> list[dict[str, Any]]:
    """Return records of Natural Questions and of Web Questions, which name the answers differently."""
    return [
        {"question": words(4)[number], "answer": answer_texts(number), "answers": answer_texts(number)}
        for number in range(COUNT)
    ]


def trivia() -> list[dict[str, Any]]:
    """Return records of TriviaQA: the value is among the aliases, but not always the first."""
    return [
        {
            "question": words(3)[number],
            "answer": {"value": aliases[-1], "aliases": aliases},
        }
        for number in range(COUNT)
        for aliases in [[text or "none" for text in answer_texts(number)]]
    ]


def trivia_with_contexts() -> list[dict[str, Any]]:
    """Return records of TriviaQA with no, one or several contexts that have no, one or several answers."""
    answers = ("cat", "the mat", "CAT sat", "bonjour", "a tab", "x", "élan", "5 o'clock")
    contexts = (
        "The CAT sat on the mat.",
        "two  tabs\tand\na tab",
        "ÉLAN or élan?",
        "",
        "It's 5 o'clock (x).",
        "Nothing",
    )
    return [
        {
            "question": words(2)[number] + "?",
            "answer": {"normalized_aliases": [answers[(number + place) % 8] for place in range(number % 4)]},
            "entity_pages": {"wiki_context": [contexts[(number + place) % 6] for place in range(number % 3)]},
            "search_results": {"search_context": [contexts[(number + 2 + place) % 6] for place in range(number % 5)]},
        }
        for number in range(COUNT)
    ]


SCHEMAS = (
    ("The cup does not fit in the box because it is too wide.", "The cup is too wide."),
    ("The cup does not fit in the box because it is too narrow.", "The box is too narrow."),
    ("Anna thanked Maria for the help that she had given.", "Maria had given help."),
    ("Anna thanked Maria for the help that she had received.", "Anna had received help."),
    ("The dog chased the cat, but it was too fast.", "The cat was too fast."),
    ("Tom gave Bill his keys, and he lost them.", "Bill lost the keys."),
    ("I poured water from the jug into the glass until it was full.", "The glass was full."),
    ("The painters met the owners, who feared them.", "The owners feared the painters."),
    ("When the old man saw the boy, he waved!", "The old man waved!"),
    ("The boys ate their lunch before they left.", "The boys left."),
    ("She borrowed the book from the teacher's sister, and it was dull.", "The book was dull."),
    ("Jim asked Dan whether he could drive.", "Jim could drive."),
    ("Sue's mother is a doctor. Her office is near.", "Sue's mother's office is near."),
    ("The nurse called the patients because they were late.", "The patients were late."),
    ("Paul phoned George, but he was out.", "George was out"),
    ("The lamp hung over the table, so I moved it.", "I moved the lamp."),
    ("They sold the house, and then it burned.", "The house burned."),
    ("Was the snake near the bird? It was asleep.", "The bird was asleep."),
    ("The council refused the women a permit because they feared a riot.", "The council feared a riot."),
    ("Mark told Pete many lies, which he believed.", "Pete believed many lies."),
    ("Élodie sah den Mann, and he laughed.", "Den Mann laughed."),
    ("The tree fell on the roof; now I must get it repaired.", "I must get the roof repaired."),
    ("Its owner left. It slept?", "The cat slept?"),
    ("He ran.", "Bob ran."),
)


def pronouns_in_sentences() -> list[dict[str, Any]]:
    """Return records of WNLI."""
    return [
        {"sentence1": premise, "sentence2": hypothesis, "label": number % 3 - 1, "idx": number}
        for number, (premise, hypothesis) in enumerate(SCHEMAS)
    ]


def numbers_of_labels(number: int, target: str) -> str:
    return (target, target, "0", "2", "", f" {target}", target, "entailment")[number % 8]


def meanings(number: int, target: str) -> str:
    return (target, "paraphrase", "different_meaning", target.upper(), target, "")[number % 6]


def answers_of_other_scripts(number: int, target: str) -> str:
    kinds = (
        target,
        target.upper() + " !",
        f"the {target} la",
        ANSWERS[number % len(ANSWERS)],
        "",
        target[: len(target) // 2],
    )
    return kinds[number % len(kinds)]


def other_spans(number: int, target: str) -> str:
    kinds = (
        target,
        " $$ ".join(reversed(target.split(" $$ "))),
        f"{target} $$ LOC: x",
        target.partition(" $$ ")[0],
        "PER",
        "",
        f" {target.replace(': ', ':')} ",
        target.replace("PER", "per"),
        f"{target} $$ {target}",
        target.replace(" $$ ", "$$"),
    )
    return kinds[number % len(kinds)]


def span_f1(targets: list[str], predictions: list[str]) -> dict[str, float]:
    """Score in percent, as its paper has the numbers."""
    return {name: 100 * value for name, value in mt5_metrics.span_f1(targets, predictions).items()}


def goldens() -> dict[str, Any]:
    tasks = {
        "wikiann": own_golden(entities(), mt5.wikiann, [span_f1], answer=other_spans),
        "xnli": own_golden(entailments(), mt5.process_mnli, [metrics.accuracy], answer=numbers_of_labels),
        "pawsx": own_golden(
            paraphrases(),
            partial(
                preprocessors.glue,
                benchmark_name="paws",
                label_names=["different_meaning", "paraphrase"],
                feature_names=["sentence1", "sentence2"],
                id_key=None,
            ),
            [metrics.accuracy],
            partial(postprocessors.string_label_to_class_id, label_classes=["different_meaning", "paraphrase"]),
            answer=meanings,
        ),
        "nq_open": own_golden(
            open_questions(), cbqa_preprocessors.natural_questions_open, [metrics.squad], postprocessors.qa
        ),
        "web_questions": own_golden(
            open_questions(), cbqa_preprocessors.web_questions_open, [metrics.squad], postprocessors.qa
        ),
        "trivia_qa_open": own_golden(
            trivia(), cbqa_preprocessors.trivia_qa_open, [metrics.trivia_qa], postprocessors.qa
        ),
        "trivia_qa": own_golden(trivia_with_contexts(), preprocessors.trivia_qa, []),
        "wnli_simple": own_golden(
            pronouns_in_sentences(),
            preprocessors.wnli_simple,
            [metrics.accuracy],
            postprocessors.wsc_simple,
            answer=lambda number, target: answered(number, target or "x"),
        ),
        "xquad": own_golden(passages(), mt5.xquad, [metrics.squad], postprocessors.qa, answer=answers_of_other_scripts),
        "xquad/context_free": own_golden(
            passages(), partial(mt5.xquad, include_context=False), [metrics.squad], postprocessors.qa
        ),
    }
    for language in ("de", "zh"):
        tasks[f"xnli/{language}"] = own_golden(
            entailments_in_languages(),
            partial(mt5.process_xnli, target_languages=[language]),
            [metrics.accuracy],
            answer=numbers_of_labels,
        )
    for language in ("ar", "de", "en", "es", "hi", "vi", "zh"):
        tasks[f"mlqa/{language}"] = own_golden(
            passages(),
            mt5.xquad,
            [partial(mt5_metrics.mlqa, lang=language)],
            postprocessors.qa,
            answer=answers_of_other_scripts,
        )
    return tasks


# --- Mixing -----------------------------------------------------------------------------------------------------------

COUNTS = ((8551, 67349, 3668, 363849, 5749, 392702, 104743, 2490), (1, 2**19, 10**6), (300, 300))
SETTINGS = (
    (None, 1.0, 1.0),
    (2**19, 1.0, 1.0),
    (2**16, 1.0, 1.0),
    (None, 1 / 0.3, 1.0),
    (2**16, 2.0, 1.0),
    (1000, 2.0, 0.5),
)


def rates() -> list[dict[str, Any]]:
    def task_of(count: int) -> Any:
        return SimpleNamespace(name="task", cache_dir=None, num_input_examples=lambda split: count)

    return [
        {
            "examples": counts,
            "maximum": maximum,
            "temperature": temperature,
            "scale": scale,
            "rates": [seqio.mixing_rate_num_examples(task_of(count), maximum, scale, temperature) for count in counts],
        }
        for counts in COUNTS
        for maximum, temperature, scale in SETTINGS
    ]


def mixtures() -> dict[str, dict[str, float]]:
    """Return the rates of T5's mixtures that are numbers."""
    names = ("glue_v002_proportional", "super_glue_v102_proportional", "all_proportional")
    found = {name: t5.data.mixtures.MixtureRegistry.get(name)._task_to_rate for name in names}
    return {
        name: {task: rate for task, rate in sorted(of_tasks.items()) if not callable(rate)}
        for name, of_tasks in found.items()
    }


# --- FLAN -------------------------------------------------------------------------------------------------------------

FORMS = (
    flan_templates.FewShotPattern(inputs="{premise}\n{hypothesis}\n{options_}", targets="{answer}"),
    flan_templates.FewShotPattern(
        inputs="Context: {premise}\n{hypothesis}\n{options_}",
        targets="{answer}",
        inputs_prefix="Problem: ",
        targets_prefix="A: ",
        x_y_delimiter="\n",
        example_separator="\n\n",
    ),
    flan_templates.FewShotPattern(
        inputs="{hypothesis}",
        targets="{premise}: {answer} ",
        inputs_prefix="Q: ",
        targets_prefix="A:\n",
        x_y_delimiter=" ",
    ),
)


def with_options(number: int) -> dict[str, Any]:
    options = [text or "none" for text in answer_texts(number + 1)] + ["yes", "no"]
    return {
        "premise": words(1)[number],
        "hypothesis": words(6)[number],
        "options": options,
        "answer": options[number % len(options)],
    }


def few_shot_text(form: Any, records: list[dict[str, Any]]) -> dict[str, str]:
    """Return the text of the last record after the others, by the steps of register_few_shot_version_of_task."""
    kwargs = form.few_shot_kwargs
    chain = [flan.format_options, *flan.get_formatter(form.inputs, form.targets)]
    data = tf.data.Dataset.from_tensors(tensors_of(records[0]))
    for record in records[1:]:
        data = data.concatenate(tf.data.Dataset.from_tensors(tensors_of(record)))
    for step in chain:
        data = step(data)
    rows = list(data.as_numpy_iterator())
    sources = [row["inputs"] + kwargs["x_y_delimiter"].encode() for row in rows]
    targets = [row["targets"] for row in rows]
    zipped = tf.data.Dataset.from_tensors(
        {
            "train": {"inputs": tf.constant(sources[:-1]), "targets": tf.constant(targets[:-1])},
            "eval": {"inputs": tf.constant(sources[-1]), "targets": tf.constant(targets[-1])},
        }
    )
    made = seqio.experimental.fewshot_preprocessor(
        zipped, kwargs["inputs_prefix"], kwargs["targets_prefix"], kwargs["example_separator"]
    )
    made = flan.remove_trailing_spaces_escape_newlines(made, features=["inputs"])
    (row,) = made.as_numpy_iterator()
    return {"inputs": row["inputs"].decode(), "targets": row["targets"].decode()}


def instructions() -> dict[str, Any]:
    records = [with_options(number) for number in range(COUNT)]
    options = [
        {
            "options": record["options"],
            "dashes": examples_of(record, flan.format_options)[0]["options_"].decode(),
            "letters": examples_of(record, partial(flan.format_options, use_char_options_format=True))[0][
                "options_"
            ].decode(),
        }
        for record in records
    ]
    zero_shot = [
        {name: made[name].decode() for name in ("inputs", "targets")}
        for record in records
        for made in examples_of(record, lambda data: flan.get_formatter(*ZERO_SHOT)[0](flan.format_options(data)))
    ]
    few_shot = [
        {
            "source": form.inputs,
            "target": form.targets,
            "source_prefix": form.inputs_prefix,
            "target_prefix": form.targets_prefix,
            "between": form.x_y_delimiter,
            "separator": form.example_separator,
            "shots": shots,
            "first": number,
            **few_shot_text(form, records[number : number + shots + 1]),
        }
        for form in FORMS
        for number, shots in enumerate((1, 2, 5, 3, 1, 4, 2))
    ]
    return {"records": records, "options": options, "template": ZERO_SHOT, "zero_shot": zero_shot, "few_shot": few_shot}


ZERO_SHOT = ("Read this: {premise}\n\nDoes it follow that {hypothesis}? \n{options_}", " {answer}.")


def main() -> int:
    versions = {package: version(package) for package in ("t5", "tensorflow")}
    content = {
        "versions": versions,
        "tasks": goldens(),
        "mixing_rate_num_examples": rates(),
        "mixtures": mixtures(),
        "instructions": instructions(),
    }
    (GOLDENS / "more_tasks.json").write_text(json.dumps(content, ensure_ascii=False, indent=0) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
