"""The backends that a plan counts with are those that the step's own layers choose on such hardware."""

from dataclasses import replace
from functools import partial

import jax
import pytest

from research import DecoderOnly, Mesh
from research.config import load
from research.data.shapes import abstract_batch, row_lengths
from research.model.attention_backends import recorded
from research.model.transformer import abstract_params
from research.parallel import hardware
from research.parallel.mesh import abstract_mesh
from research.plan import targets
from research.plan.attention import backends, device_of
from research.plan.roofline import step_times
from research.train.step import summed_loss

T5 = "t5/v1_1_c4.py:base"
CASES = (
    (T5, "8xH200", Mesh(8, 1, 1, 1), {"batch_size": 128}),
    (T5, "8xH200", Mesh(2, 1, 4, 1), {"batch_size": 128}),
    (T5, "v5e-16", Mesh(4, 4, 1, 1), {"batch_size": 512}),
    (T5, "v5e-16", Mesh(2, 2, 1, 4), {"batch_size": 64, "microbatches": 4}),
    ("bart/bart.py:base", "H100", Mesh(1, 1, 1, 1), {"batch_size": 8}),
    ("marian/multi30k_tiny.py", "H100", Mesh(1, 1, 1, 1), {}),
)


def opened(name: str, mesh: Mesh, changes: dict):
    return replace(load.open_experiment(f"experiments/{name}").config, mesh=mesh, **changes)


@pytest.mark.parametrize("one_stack", [False, True])
@pytest.mark.parametrize(("name", "chips", "mesh", "changes"), CASES)
def test_backends_are_those_of_the_layers(name, chips, mesh, changes, one_stack):
    experiment, found = opened(name, mesh, changes), hardware.find(chips)
    if one_stack:
        experiment = replace(experiment, model=replace(experiment.model, stacks=DecoderOnly(), source_vocab_size=None))
    abstract = abstract_mesh(mesh, found.chips, device_of(found))
    batch = abstract_batch(experiment, experiment.batch_size // experiment.microbatches)
    key = jax.eval_shape(jax.random.key, 0) if experiment.model.dropped else None
    with targets.attention_of(found), jax.sharding.use_abstract_mesh(abstract), recorded() as record:
        jax.eval_shape(partial(summed_loss, experiment), abstract_params(experiment.model), batch, key)
    chosen = backends(experiment, found, mesh, row_lengths(experiment))
    assert {part: {choice.backend for choice in choices} for part, choices in record.items()} == {
        part: {chosen[part]} for part in record
    }


def test_the_bound_counts_scores_only_where_they_are_written():
    base = opened(T5, Mesh(1, 1, 1, 1), {"batch_size": 128})
    plain = replace(base, model=replace(base.model, attention="reference"))
    found = hardware.find("H200")
    fused, written = (step_times(each, found, each.mesh, 512, 114) for each in (base, plain))
    pairs = 12 * (512 * 512 + 114 * 114 + 114 * 512)  # of a layer, in all heads
    assert written.memory - fused.memory == pytest.approx(128 * 12 * 2 * 15 * pairs / found.chip.bandwidth)
    assert written.products == fused.products
