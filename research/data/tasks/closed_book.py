"""Questions without a context (arXiv:2002.08910), to the letter as in its code, and TriviaQA with contexts as in T5.

The splits are its own too: about a tenth of the training data is held out, and the public validation data are the test.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from research.config import Examples, Metric, Task
from research.config.examples import Names, TextRecord
from research.config.task import MadeExample
from research.data.tasks.data_set import TFDSExamples
from research.data.tasks.text_to_text import TextToText, single_spaced, spaced
from research.score.answers import SQuAD, TriviaQA

VALUE, ALIASES = "answer/value", "answer/aliases"
NORMALIZED = "answer/normalized_aliases"
CONTEXTS = ("entity_pages/wiki_context", "search_results/search_context")
ASCII_LOWER = {ord(letter): letter.lower() for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}


@dataclass(frozen=True, kw_only=True)
class NaturalQuestionsOpen(TextToText):
    """Natural Questions with short answers, the first of which is the target."""

    examples: Examples = TFDSExamples("natural_questions_open", "train[:79168]", "train[79168:]", "validation")
    source: str = "question"
    target: str = "answer"
    prefix: str = "nq question: "
    metrics: tuple[Metric, ...] = (SQuAD("1.1"),)


@dataclass(frozen=True, kw_only=True)
class WebQuestions(TextToText):
    """Questions of Google's suggestions about Freebase's entities; the first answer is the target."""

    examples: Examples = TFDSExamples("web_questions", "train[:3417]", "train[3417:]")
    source: str = "question"
    target: str = "answers"
    prefix: str = "wq question: "
    metrics: tuple[Metric, ...] = (SQuAD("1.1"),)


@dataclass(frozen=True, kw_only=True)
class TriviaQAOpen(Task):
    """TriviaQA without contexts: the target is the answer's value, and its aliases are the references."""

    examples: Examples = TFDSExamples(
        "trivia_qa/unfiltered.nocontext", "train[:78785]", "train[78785:]", "validation", empty="keep"
    )
    prefix: str = "trivia_qa question: "
    metrics: tuple[Metric, ...] = (TriviaQA(),)

    @property
    def names(self) -> Names:
        return Names(("question",), (VALUE, ALIASES))

    def example(self, record: TextRecord) -> tuple[str, tuple[str, ...]]:
        value, aliases = record[VALUE][0], record[ALIASES]
        first = (value,) if value in aliases or not aliases else ()
        return self.prefix + record["question"][0], (*first, *(alias for alias in aliases if alias != value))

    def training_examples(self, record: TextRecord) -> Sequence[MadeExample]:
        return [(self.prefix + record["question"][0], record[VALUE][0])]

    @property
    def identity(self) -> tuple[str, ...] | None:
        return (type(self).__name__, self.prefix)


@dataclass(frozen=True, kw_only=True)
class TriviaQAContexts(Task):
    """TriviaQA with contexts, as in T5 0.9.4: each alias within each context is an example of training.

    T5 does not evaluate this task: here a question is evaluated once, on its first context that has an answer, or else
    on the first. Texts longer than a row are cut at their end, where T5 cuts so that the answer remains.
    """

    examples: Examples = TFDSExamples("trivia_qa/rc", empty="keep")
    metrics: tuple[Metric, ...] = (TriviaQA(),)

    @property
    def names(self) -> Names:
        return Names(("question", *CONTEXTS), (NORMALIZED,))

    def example(self, record: TextRecord) -> tuple[str, tuple[str, ...]]:
        contexts = [context for name in CONTEXTS for context in record[name]] or [""]
        answered = [source for source, _ in self.training_examples(record)]
        source = answered[0] if answered else self._source(record, spaced(contexts[0]))
        return source, tuple(map(spaced, record[NORMALIZED])) or ("",)

    def training_examples(self, record: TextRecord) -> list[tuple[str, str]]:
        answers = [spaced(answer) for answer in record[NORMALIZED]]
        contexts = [spaced(context) for name in CONTEXTS for context in record[name]]
        return [
            (self._source(record, context), answer)
            for context in contexts
            for answer in answers
            if answer.translate(ASCII_LOWER) in context.translate(ASCII_LOWER)
        ]

    def _source(self, record: TextRecord, context: str) -> str:
        return single_spaced(f"question: {spaced(record['question'][0])} context: {context}")

    @property
    def identity(self) -> tuple[str, ...] | None:
        return (type(self).__name__,)
