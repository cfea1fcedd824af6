"""Presets: the number of parameters of every one, by shapes alone."""

import math

import jax
import pytest

from research import Relative, Tied, UntiedHead
from research.config import ConfigError
from research.model import family
from research.model.transformer import abstract_params

COUNTS = {
    "t5/small": 60_506_624,
    "t5/base": 222_903_552,
    "t5/large": 737_668_096,
    "t5/3b": 2_851_598_336,
    "t5/11b": 11_307_321_344,
    "t5_v1_1/small": 76_961_152,
    "t5_v1_1/base": 247_577_856,
    "t5_v1_1/large": 783_150_080,
    "t5_v1_1/xl": 2_849_757_184,
    "t5_v1_1/xxl": 11_135_332_352,
    "mt5/small": 300_176_768,
    "mt5/base": 582_401_280,
    "mt5/large": 1_229_581_312,
    "mt5/xl": 3_742_619_648,
    "mt5/xxl": 12_921_057_280,
    "byt5/small": 299_637_760,
    "byt5/base": 581_653_248,
    "byt5/large": 1_228_183_552,
    "byt5/xl": 3_737_801_728,
    "byt5/xxl": 12_906_899_328,
    "umt5/small": 306_601_984,
    "umt5/base": 592_043_520,
    "umt5/xl": 3_768_356_864,
    "umt5/xxl": 12_972_531_712,
    "flan_t5/small": 76_961_152,
    "flan_t5/base": 247_577_856,
    "flan_t5/large": 783_150_080,
    "flan_t5/xl": 2_849_757_184,
    "flan_t5/xxl": 11_135_332_352,
    "ul2/20b": 19_591_209_984,
    "bart/base": 139_420_416,
    "bart/large": 406_291_456,
    "mbart/large": 610_851_840,
    "mbart_50/large": 610_879_488,
    "marian/tiny": 5_453_056,  # these three with 32,000 rows and their logits' bias
    "marian/base": 60_554_496,
    "marian/big": 209_157_376,
}


def test_every_preset_is_counted():
    assert set(COUNTS) == set(family.PRESETS)


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name):
    leaves = jax.tree.leaves(abstract_params(family.preset(name)))
    assert sum(math.prod(leaf.shape) for leaf in leaves) == COUNTS[name]
    assert {leaf.dtype for leaf in leaves} == {jax.numpy.dtype("float32")}


def test_structure():
    assert family.t5("base").head == Tied(scaled=True)
    assert not family.t5("base").gated
    assert family.t5_v1_1("base") == family.preset("t5_v1_1/base")
    assert family.mt5("base").head == UntiedHead()
    assert family.byt5("small").encoder_layers == 3 * family.byt5("small").decoder_layers
    assert family.marian("base", vocab_size=8000).zero_token == 8000
    assert family.ul2("20b").activation == "silu"
    assert family.mbart().norm_first
    assert not family.bart("large").norm_first
    assert family.umt5("base").positions == Relative(per_layer=True)


def test_changes():
    assert family.t5_v1_1("small", dropout=0.1, vocab_size=400).vocab_size == 400


@pytest.mark.parametrize("name", ["t5_v1_1", "t5_v1_1/3b", "bart/small", "umt5/large", ""])
def test_an_unknown_preset_is_told_all(name):
    with pytest.raises(ConfigError) as error:
        family.preset(name)
    assert all(known in str(error.value) for known in COUNTS)


def test_an_unknown_change_is_told_the_fields():
    with pytest.raises(ConfigError, match=r"no field layers; it has vocab_size, .*encoder_layers"):
        family.t5("small", layers=3)
