"""A config has no field that nobody reads and accepts no value that nothing can do."""

import ast
import dataclasses
import inspect
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import research
from research import (
    TER,
    TFDS,
    Adafactor,
    ChrF,
    Constant,
    Cosine,
    InverseSquareRoot,
    Linear,
    Mesh,
    Mixing,
    Model,
    RMSScaledAdamW,
    SpanCorruption,
    TextToText,
    TFDSExamples,
    TrainedSentencePiece,
    TSVExamples,
    config,
)
from research.config import ConfigError
from research.config.metric import lower_is_better

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENT = config.Experiment(
    model=Model(128, 16, 2, 8, 32, 2, 2),
    data=config.Denoising(corpora=(TFDS("python_docs"),)),
    optimizer=Adafactor(),
    steps=10,
    batch_size=8,
)
EXPORTED = [getattr(research, name) for name in research.__all__]
MEMBERS = [item for _, item in inspect.getmembers(config)]
CLASSES = list(dict.fromkeys(filter(dataclasses.is_dataclass, [*MEMBERS, *EXPORTED])))


def reads() -> Counter[str]:
    """How many different expressions read each attribute anywhere in research/, or bind it by a class pattern.

    Of config itself only properties count: its other methods validate, as __post_init__ does everywhere.
    """
    read: set[tuple[str, str]] = set()
    for path in (ROOT / "research").rglob("*.py"):
        for owner, part in _parts(ast.parse(path.read_text()), path.parent.name == "config"):
            for node in ast.walk(part):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                    text = ast.unparse(node.value)
                    read.add((node.attr, f"{owner}.self" if text == "self" else text))
                elif isinstance(node, ast.MatchClass):
                    read |= {(name, ast.unparse(node.cls)) for name in (*node.kwd_attrs, *_positional(node))}
    return Counter(name for name, _ in read)


def _parts(parsed: ast.Module, is_config: bool) -> Iterator[tuple[str, ast.AST]]:
    """The statements of a module that may read a field, and the classes that they are in."""
    for statement in parsed.body:
        owner = statement.name if isinstance(statement, ast.ClassDef) else ""
        for part in statement.body if isinstance(statement, ast.ClassDef) else [statement]:
            decorators = [ast.unparse(item) for item in getattr(part, "decorator_list", ())]
            counts = "property" in decorators if is_config else getattr(part, "name", "") != "__post_init__"
            if counts:
                yield owner, part


def _positional(node: ast.MatchClass) -> list[str]:
    name = node.cls.attr if isinstance(node.cls, ast.Attribute) else getattr(node.cls, "id", "")
    found = getattr(config, name, None) or getattr(research, name, None)
    return [field.name for field in dataclasses.fields(found)][: len(node.patterns)] if found else []


def inherited(item: type, name: str) -> bool:
    """Whether a class only changes the default of a field that one above it declares."""
    return any(name in (*getattr(above, "__annotations__", {}), *vars(above)) for above in item.__mro__[1:])


def test_every_field_is_read_somewhere() -> None:
    """A name that several classes declare must be read by as many different expressions."""
    fields = [(item, field.name) for item in CLASSES for field in dataclasses.fields(item)]
    declared = Counter(name for item, name in fields if name in item.__annotations__ and not inherited(item, name))
    read = reads()
    assert not {name for name, classes in declared.items() if read[name] < classes}
    assert len(declared) < 240, "a config that nobody can hold in the head"  # a dozen are rules of generation


def test_every_config_is_frozen_and_hashable() -> None:
    for item in CLASSES:
        assert item.__dataclass_params__.frozen, item


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SpanCorruption(noise_density=1.0), "objective.noise_density is 1.0"),
        (lambda: SpanCorruption(mean_span_length=0.5), "objective.mean_span_length is 0.5"),
        (lambda: Mixing(temperature=0.0), "mixing.temperature is 0.0"),
        (lambda: Mixing(limit=0), "mixing.limit is 0"),
        (lambda: Mesh(data=0), "mesh is (0, 1, 1, 1)"),
        (lambda: Mesh(data=-1, fsdp=-1), "only one axis may be -1"),
        (lambda: Model(128, 0, 1, 8, 32, 1, 1), "model.width is 0"),
        (lambda: Model(128, 8, 1, 8, 32, 1, 1, dropout=1.0), "model.dropout is 1.0"),
        (lambda: TrainedSentencePiece(pieces=100), "tokenizer.pieces is 100"),
        (lambda: config.Denoising(corpora=()), "data.corpora is empty"),
        (lambda: config.Relative(buckets=7), "model.positions.buckets is 7"),
        (lambda: config.Relative(max_distance=16), "model.positions.max_distance is 16"),
        (lambda: Constant(peak=-0.1), "optimizer.schedule.peak is -0.1"),
        (lambda: Cosine(peak=0.1, warmup=-1), "optimizer.schedule.warmup is -1"),
        (lambda: InverseSquareRoot(timescale=0), "optimizer.schedule.timescale is 0"),
        (lambda: Adafactor(clip_norm=0.0), "optimizer.clip_norm is 0.0"),
        (lambda: Adafactor(momentum=1.0), "optimizer.momentum is 1.0"),
        (lambda: RMSScaledAdamW(schedule=Constant(peak=0.1), b2=1.0), "optimizer.b2 is 1.0"),
        (lambda: config.Loss(label_smoothing=1.0), "loss.label_smoothing is 1.0"),
        (lambda: config.Evaluation(every=0), "evaluation.every is 0"),
        (lambda: config.Evaluation(examples=0), "evaluation.examples is 0"),
        (lambda: config.Evaluation(patience=0), "evaluation.patience is 0"),
        (lambda: ChrF(word_order=-1), "metric.word_order is -1"),
        (lambda: replace(EXPERIMENT, evaluation=config.Evaluation(best="bleu")), "evaluation.best is 'bleu'"),
        (lambda: config.Checkpoint(keep=0), "checkpoint.keep is 0"),
        (lambda: config.Report(every=0), "report.every is 0"),
        (lambda: config.Guard(hang_seconds=0), "guard.hang_seconds is 0"),
        (lambda: Constant(peak=math.inf), "optimizer.schedule.peak is inf"),
        (lambda: Linear(peak=0.1, final=-1.0), "optimizer.schedule.final is -1.0"),
        (lambda: Cosine(peak=0.1, final=math.nan), "optimizer.schedule.final is nan"),
        (lambda: Adafactor(min_factored=0), "optimizer.min_factored is 0"),
        (lambda: replace(EXPERIMENT, seed=2**32), "seed is 4294967296"),
    ],
)
def test_an_impossible_value_is_refused_in_one_sentence(build, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        build()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_metric_that_is_better_when_lower_chooses_no_checkpoint() -> None:
    task = TextToText(examples=TSVExamples("a.tsv"), metrics=(TER(), ChrF()))
    written = config.Evaluation(generation=config.Generation(), best="chrf")
    scored = replace(EXPERIMENT, data=config.Supervised((task,)), evaluation=written)
    assert "translation_edit_rate" in scored.scores
    message = (
        "evaluation.best is 'translation_edit_rate', which is better when lower: give another metric or held_out_loss"
    )
    with pytest.raises(ConfigError, match=message):
        replace(scored, evaluation=replace(written, best="translation_edit_rate"))
    assert [name for name in scored.scores if lower_is_better(name)] == ["held_out_loss", "translation_edit_rate"]


def test_scores_of_several_tasks_have_what_their_examples_are_before_them() -> None:
    examples = (TFDSExamples("multi30k"), TSVExamples("a/x.tsv"), TSVExamples("b/x.tsv.gz"))
    tasks = tuple(TextToText(examples=one) for one in examples)
    written = config.Evaluation(generation=config.Generation(), best="x2/sequence_accuracy")
    several = replace(EXPERIMENT, data=config.Supervised(tasks), evaluation=written)
    assert several.scores[2:] == tuple(f"{name}/sequence_accuracy" for name in ("multi30k", "x", "x2"))
    alone = replace(written, best="sequence_accuracy")
    assert replace(several, data=config.Supervised(tasks[:1]), evaluation=alone).scores[2:] == ("sequence_accuracy",)
    assert replace(several, evaluation=config.Evaluation()).scores == config.TEACHER_FORCED
