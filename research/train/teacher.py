"""The teacher of a distilled run: its parameters on the mesh, and checks that it is the same and reads the same ids.

They are sharded as those of any model, in the dtype of its computations, and belong to no state and no checkpoint: a
checkpoint has the hash of the teacher's files.
"""

from typing import NamedTuple

import jax

from research.config import Experiment, Pretrained, TrainedSentencePiece, require
from research.data.tokenizer import Tokenizer, open_tokenizer
from research.model.quantized import IN_FLOAT32, cast
from research.model.transformer import own_rows
from research.parallel.padding import fill
from research.parallel.rules import Tree
from research.pretrained.find import digest, find_model
from research.pretrained.weights import Weights
from research.storage.bucket import any_path
from research.train.state import abstract_teacher


class FoundTeacher(NamedTuple):
    """A teacher whose parameters are not read yet, and the hash of its files."""

    weights: Weights
    digest: str


def find_teacher(experiment: Experiment) -> FoundTeacher | None:
    """Find the teacher of an experiment, if it has one.

    Raises:
        ConfigError: it is missing, of another model, or of another vocabulary than the data.
    """
    if experiment.distil is None:
        return None
    teacher = experiment.distil.teacher
    weights = find_model(teacher, teacher.path)
    if not isinstance(experiment.data.tokenizer, TrainedSentencePiece):
        check_ids(teacher, open_tokenizer(experiment.data.tokenizer))
    return FoundTeacher(weights, digest(any_path(teacher.path)))


def check_ids(teacher: Pretrained, tokenizer: Tokenizer) -> None:
    """Raise ConfigError unless every id of the data's tokenizer means the same to the teacher.

    Nothing is known about a teacher that stores no tokenizer.
    """
    if teacher.tokenizer is None:
        return
    own = open_tokenizer(teacher.tokenizer)
    message = f"distil.teacher, {teacher.path}, has another vocabulary than data.tokenizer"
    require(own.digest == tokenizer.digest or _reads(own, tokenizer), f"{message}: take the teacher's for the data.")


def _reads(teacher: Tokenizer, tokenizer: Tokenizer) -> bool:
    """Tell whether each id of a tokenizer is the same token to the teacher, which may have more."""
    special = [(each.pad_id, each.eos_id, each.unknown_id) for each in (teacher, tokenizer)]
    pieces = [list(each.token_bytes) for each in (teacher, tokenizer)]
    languages = dict(teacher.language_ids) == dict(tokenizer.language_ids)
    return special[0] == special[1] and languages and pieces[0][: len(pieces[1])] == pieces[1]


def read_teacher(found: FoundTeacher, teacher: Pretrained, mesh: jax.sharding.Mesh) -> Tree:
    """Read a teacher's parameters onto the mesh."""
    whole = abstract_teacher(teacher, mesh)
    places = jax.tree.map(lambda leaf: leaf.sharding, whole)
    params = found.weights.params(places)
    convert = jax.jit(
        lambda given: fill(cast(own_rows(teacher, given), teacher.compute, IN_FLOAT32), whole),
        out_shardings=places,
        donate_argnums=0,
    )
    return convert(params)
