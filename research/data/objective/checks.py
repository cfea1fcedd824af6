"""Validation of objectives: a user's objective that returns a wrong result is reported by file and line."""

import numpy as np
from jaxtyping import UInt

from research.config.objective import Lengths, Objective
from research.config.parts import calling, expect, is_shipped
from research.data.batch import Batch
from research.data.tokenizer import Tokenizer

ROWS = 8  # rows corrupted before training, to test an objective


def lengths_of(objective: Objective, input_length: int, num_special_tokens: int = 1) -> Lengths:
    """Return the lengths of rows under an objective.

    Raises ConfigError if no row fits or the result is not `Lengths`.
    """
    with calling(objective, "lengths"):
        lengths = objective.lengths(input_length, num_special_tokens)
    kind = type(lengths).__name__
    expect(isinstance(lengths, Lengths), objective, "lengths", f"returned {kind}, not Lengths")
    whole = all(isinstance(number, int) and number >= 0 for number in lengths)
    expect(
        whole and min(lengths[:3]) > 0,
        objective,
        "lengths",
        f"returned {lengths}: raw, inputs and targets must be whole numbers above 0",
    )
    expect(
        lengths.inputs <= input_length,
        objective,
        "lengths",
        f"returned {lengths.inputs} inputs a row: there is room for {input_length}",
    )
    return lengths


def try_out(objective: Objective, lengths: Lengths, tokenizer: Tokenizer, language: str | None = None) -> None:
    """Check an objective with a tokenizer, then let it corrupt a block of random text twice.

    Raises ConfigError if the tokenizer lacks what the objective needs, if the block does not have the shapes in
    `lengths`, or if the two results differ although the generator's seed is the same.
    """
    with calling(objective, "check"):
        objective.check(lengths, tokenizer, language)
    kind = np.uint16 if tokenizer.size <= 2**16 else np.uint32
    ids = np.random.default_rng(0).choice(tokenizer.text_ids, (ROWS, lengths.raw))
    first, second = (
        corrupt_block(objective, ids.astype(kind), lengths, tokenizer, np.random.default_rng(1), language)
        for _ in range(2)
    )
    expect(
        filled_fields(first) == filled_fields(second)
        and all(np.array_equal(getattr(first, name), getattr(second, name)) for name in filled_fields(first)),
        objective,
        "corrupt",
        "returned two different batches for the same rows and the same rng: all randomness must come from rng",
    )


def corrupt_block(
    objective: Objective,
    tokens: UInt[np.ndarray, "n raw"],
    lengths: Lengths,
    tokenizer: Tokenizer,
    rng: np.random.Generator,
    language: str | None = None,
) -> Batch:
    """Corrupt a block of rows.

    Raises ConfigError if a user's objective returns anything but a Batch of these lengths.
    """
    with calling(objective, "corrupt"):
        batch = objective.corrupt(tokens, lengths, tokenizer, rng, language)
    if not is_shipped(type(objective)):
        expect(isinstance(batch, Batch), objective, "corrupt", f"returned {type(batch).__name__}, not a Batch")
        for name, field in batch._asdict().items():
            _check_field(objective, name, field, len(tokens), lengths, tokenizer)
        _check_padding(objective, batch)
    return batch


def filled_fields(batch: Batch) -> tuple[str, ...]:
    """Return the names of the fields that are arrays, not None."""
    return tuple(name for name, field in batch._asdict().items() if field is not None)


def _check_padding(objective: Objective, batch: Batch) -> None:
    """Check that without positions a row is one example, followed by padding; some attentions rely on it."""
    for side in ("encoder", "decoder"):
        ids, positions = getattr(batch, f"{side}_segment_ids"), getattr(batch, f"{side}_positions")
        if ids is None or positions is not None:
            continue
        ones_then_zeros = ids.min() >= 0 and ids.max() <= 1 and not (np.diff(ids, axis=1) > 0).any()
        message = f"returned {side}_segment_ids that are not 1 and then 0 in each row, without {side}_positions"
        expect(bool(ones_then_zeros), objective, "corrupt", message)


def _check_field(
    objective: Objective, name: str, field: object, rows: int, lengths: Lengths, tokenizer: Tokenizer
) -> None:
    if field is None and not name.endswith("tokens"):
        return
    kind = type(field).__name__
    expect(isinstance(field, np.ndarray), objective, "corrupt", f"returned {name} as {kind}, not a NumPy array")
    assert isinstance(field, np.ndarray)
    width = lengths.targets if name.startswith("decoder") else lengths.inputs
    expect(
        field.shape == (rows, width),
        objective,
        "corrupt",
        f"returned {name} of shape {field.shape}: lengths() promised ({rows}, {width})",
    )
    dtype = np.dtype(np.float32 if name.endswith("weights") else np.int32)
    expect(field.dtype == dtype, objective, "corrupt", f"returned {name} of {field.dtype}: it must be {dtype}")
    if name.endswith("tokens"):
        size = tokenizer.target_size if name.startswith("decoder") else tokenizer.size
        least, most = int(field.min()), int(field.max())
        expect(
            least >= 0 and most < size,
            objective,
            "corrupt",
            f"returned {name} with ids from {least} to {most}: the vocabulary has 0 to {size - 1}",
        )
