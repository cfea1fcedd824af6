"""Distillation: a trained teacher, whose distributions over the vocabulary are targets beside the tokens."""

from dataclasses import dataclass

from research.config.base import require
from research.config.model import Model
from research.config.pretrained import Pretrained


@dataclass(frozen=True)
class Distil:
    """Word-level distillation (Hinton et al., arXiv:1503.02531; of translation: Kim and Rush, arXiv:1606.07947).

    The loss of a target token is

        (1 - alpha) * usual loss + alpha * temperature**2 * KL(teacher || student)

    where both distributions are softmax(logits / temperature). DistilBART (arXiv:2010.13002) has temperature 2 too.
    """

    teacher: Pretrained  # of the same vocabulary, of any architecture
    alpha: float = 0.5
    temperature: float = 2.0

    def __post_init__(self) -> None:
        require(0 <= self.alpha <= 1, f"distil.alpha is {self.alpha}: it must lie in [0, 1].")
        hot = self.temperature
        require(0.01 <= hot <= 1e3, f"distil.temperature is {hot}: it must lie in [0.01, 1000].")

    def check(self, model: Model) -> None:
        """Raise ConfigError if the teacher's logits are not of the student's ids, or its inputs are other ones."""
        teacher = self.teacher
        message = f"distil.teacher, {teacher.path}, has {teacher.vocab_size} logits and the model {model.vocab_size}"
        equal = teacher.vocab_size == model.vocab_size
        require(equal, f"{message}: set model.vocab_size={teacher.vocab_size} and take the teacher's tokenizer.")
        sizes = [each.source_vocab_size or each.vocab_size for each in (teacher, model)]
        message = f"distil.teacher, {teacher.path}, embeds {sizes[0]} source ids and the model {sizes[1]}"
        require(sizes[0] == sizes[1], f"{message}: set model.source_vocab_size={teacher.source_vocab_size}.")
        zero, message = teacher.zero_token, "they must begin outputs with the same token."
        both = f"distil.teacher has the zero_token {zero} and the model {model.zero_token}"
        require(zero == model.zero_token, f"{both}: {message}")
