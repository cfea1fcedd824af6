"""Parts of unequal widths become one batch, and what they left out is written out."""

import numpy as np

from research.data.batch import Batch, fields_of, interleave


def interleaved(parts, inputs: int, targets: int, pad_id: int) -> Batch:
    return interleave(parts, inputs, targets, pad_id, fields_of([batch for _, batch in parts], inputs, targets))


def part(rows: int, inputs: int, targets: int, first: int, **fields) -> Batch:
    tokens = np.arange(first, first + rows * (inputs + targets), dtype=np.int32).reshape(rows, -1)
    return Batch(tokens[:, :inputs], tokens[:, inputs:] - 1, tokens[:, inputs:], **fields)


def test_a_single_whole_part_stays_as_it_is() -> None:
    only = part(2, 3, 2, 10)
    assert interleaved([(np.arange(2), only)], 3, 2, pad_id=0) is only


def test_full_parts_stay_without_masks() -> None:
    whole = interleaved([(np.array([1]), part(1, 3, 2, 10)), (np.array([0, 2]), part(2, 3, 2, 20))], 3, 2, pad_id=0)
    assert whole.encoder_input_tokens.tolist() == [[20, 21, 22], [10, 11, 12], [25, 26, 27]]
    assert whole.decoder_target_tokens.tolist() == [[23, 24], [13, 14], [28, 29]]
    assert all(field is None for field in whole[3:])


def test_narrow_parts_are_padded_and_said_to_be() -> None:
    whole = interleaved([(np.array([0]), part(1, 3, 1, 10)), (np.array([1]), part(1, 2, 2, 20))], 3, 2, pad_id=9)
    assert whole.encoder_input_tokens.tolist() == [[10, 11, 12], [20, 21, 9]]
    assert whole.encoder_segment_ids.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert whole.decoder_input_tokens.tolist() == [[12, 9], [21, 22]]
    assert whole.decoder_target_tokens.tolist() == [[13, 9], [22, 23]]
    assert whole.decoder_segment_ids.tolist() == [[1, 0], [1, 1]]
    assert whole.decoder_loss_weights.tolist() == [[1.0, 0.0], [1.0, 1.0]]
    assert whole.encoder_positions is None
    assert whole.decoder_positions is None


def test_what_one_part_has_is_written_out_for_the_others() -> None:
    packed = part(
        1, 3, 2, 10,
        encoder_segment_ids=np.array([[1, 2, 2]], np.int32), encoder_positions=np.array([[0, 0, 1]], np.int32),
    )  # fmt: skip
    whole = interleaved([(np.array([1]), packed), (np.array([0]), part(1, 3, 2, 20))], 3, 2, pad_id=0)
    assert whole.encoder_segment_ids.tolist() == [[1, 1, 1], [1, 2, 2]]
    assert whole.encoder_positions.tolist() == [[0, 1, 2], [0, 0, 1]]
    assert whole.decoder_segment_ids is None
    assert whole.decoder_loss_weights is None


def test_what_is_to_be_written_is_whatever_the_parts_are() -> None:
    plain, narrow = part(2, 3, 2, 10), part(1, 2, 2, 20)
    written = fields_of([plain, narrow], 3, 2)
    assert written == {*Batch._fields[:3], "encoder_segment_ids"}
    whole = interleave([(np.arange(2), plain)], 3, 2, 0, written)
    assert whole.encoder_segment_ids.tolist() == [[1, 1, 1], [1, 1, 1]]
    assert whole.encoder_input_tokens.tolist() == plain.encoder_input_tokens.tolist()
