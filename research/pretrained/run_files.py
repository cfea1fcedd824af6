"""The files of a run that its model is read from: its checkpoints, their parameters, and its copy of the vocabulary."""

import dataclasses
import sys
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from research.config import (
    M2M100,
    Bytes,
    ConfigError,
    Extended,
    Marian,
    Model,
    ModelTokenizer,
    SentencePiece,
    TokenizerConfig,
    TrainedSentencePiece,
    Vocabulary,
    require,
)
from research.model.transformer import Params, abstract_params, specs_of
from research.parallel.padding import check_padded, cut, placed
from research.parallel.rules import flatten, unflatten
from research.pretrained.shards import Converted
from research.pretrained.table import fresh_paths
from research.storage.bucket import AnyPath, is_remote, local_file
from research.storage.checkpoint import absolute, best_step, stored_shapes
from research.storage.manifest import newest_record, steps_on_disk, verify

BEST = "best"  # names the checkpoint of the best evaluation


def run_of(path: AnyPath) -> AnyPath | None:
    """Return the run directory at `path`, or the one that holds the checkpoint at `path`; None if there is none."""
    directory = path.parent.parent if path.parent.name == "checkpoints" else path
    checkpoints = directory / "checkpoints"
    is_run = checkpoints.is_dir() and ((directory / "config.json").is_file() or newest_record(checkpoints) is not None)
    return directory if is_run else None


def checkpoint_of(path: AnyPath) -> AnyPath:
    """Resolve `path` to a checkpoint: itself, the best one for checkpoints/best, or the newest valid one of a run.

    `evaluation.best` decides which one is the best.

    Raises:
        ConfigError: there is no such checkpoint, or none that verifies.
    """
    return _checkpoint(path.parent.parent, path.name) if path.parent.name == "checkpoints" else _checkpoint(path, None)


def saved_vocabulary(directory: AnyPath, tokenizer: TokenizerConfig) -> Vocabulary:
    """Return the vocabulary of a run, with its path replaced by the copy in the run directory."""
    if isinstance(tokenizer, ModelTokenizer):
        assert tokenizer.vocabulary is not None  # set by the experiment
        return saved_vocabulary(directory, tokenizer.vocabulary)
    saved = directory / "tokenizer.model"
    saved = local_file(saved) if is_remote(saved) and saved.exists() else saved
    match tokenizer:
        case TrainedSentencePiece(sentinels=sentinels, languages=languages):
            return SentencePiece(str(saved), sentinels, languages)
        case Marian() | M2M100():
            return dataclasses.replace(tokenizer, directory=str(saved))
        case Bytes():
            return tokenizer
        case Extended(vocabulary=vocabulary):
            inner = saved_vocabulary(directory, vocabulary)
            assert not isinstance(inner, Extended)
            return dataclasses.replace(tokenizer, vocabulary=inner)
        case _:
            return dataclasses.replace(tokenizer, path=str(saved))


def _checkpoint(directory: AnyPath, step: str | None) -> AnyPath:
    """Return the checkpoint directory of a step, of the best step, or of the newest step that verifies."""
    if step == BEST:
        best = best_step(_checkpoint(directory, None))
        kept = best is not None and (directory / "checkpoints" / str(best)).is_dir()
        require(kept, f"{directory} has no best checkpoint: no evaluation has been saved yet, or keep_best is 0.")
        step = str(best)
    newest_first = steps_on_disk(directory / "checkpoints")
    require(bool(newest_first), f"{directory} has no checkpoint yet.")
    wrong: dict[int | str, str] = {}
    for number in newest_first if step is None else [step]:
        checkpoint = directory / "checkpoints" / str(number)
        problem = verify(checkpoint)
        if not problem:
            if wrong:
                damaged = ", ".join(f"{other} ({why})" for other, why in wrong.items())
                print(f"note: {directory}: step {number} is used, since {damaged} is damaged.", file=sys.stderr)
            return checkpoint
        wrong[number] = problem
    raise ConfigError(f"{directory} has no checkpoint that verifies: {[*wrong.values()][-1]}.")


def restore(checkpoint: AnyPath, kind: str, model: Model, shardings: Any, fresh: tuple[str, ...]) -> Params:
    """Restore the parameters, or their average, except those in `fresh`; the optimizer's state is not read.

    With an adapter these are the ones that it trains.
    """
    shapes, specs = flatten(abstract_params(model)), flatten(specs_of(model))
    shapes = {path: shapes[path] for path in shapes.keys() - fresh_paths(shapes, fresh)}
    if model.adapter is not None:
        shapes = {path: leaf for path, leaf in shapes.items() if model.adapter.trains(path)}
    if not shapes:
        return {}
    specs = {path: specs[path] for path in shapes}
    found = {path.removeprefix(f"{kind}/"): shape for path, shape in stored_shapes(checkpoint).items()}
    check_padded(found, shapes, specs)
    kinds: dict[str, ocp.RestoreArgs] = {path: ocp.RestoreArgs(restore_type=np.ndarray) for path in shapes}
    if shardings is not None:
        places = {path: place for path, place in flatten(shardings).items() if path in shapes}
        whole = placed(shapes, {path: to.sharding if isinstance(to, Converted) else to for path, to in places.items()})
        kinds = {
            path: ocp.ArrayRestoreArgs(dtype=to.dtype, sharding=to.sharding, global_shape=to.shape, strict=False)
            for path, to in whole.items()
        }
    restore = ocp.args.PyTreeRestore(
        item={kind: unflatten(shapes)}, restore_args={kind: unflatten(kinds)}, partial_restore=True
    )
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        params = flatten(checkpointer.restore(absolute(checkpoint) / "state", args=restore)[kind])
    return unflatten(params if shardings is not None else cut(params, shapes, specs))
