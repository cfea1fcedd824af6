"""Names of hardware, and what they stand for."""

import pytest

from research.config import ConfigError
from research.parallel.hardware import CHIPS, PEAK_FLOPS, find


@pytest.mark.parametrize(
    ("name", "chips", "topology", "domains"),
    [
        ("v5p-8", 4, "v5p:2x2x1", 1),
        ("v5p-64", 32, "v5p:2x4x4", 1),
        ("v5p-512", 256, "v5p:4x8x8", 1),
        ("v5p:8x8x8", 512, "v5p:8x8x8", 1),
        ("v4-128", 64, "v4:4x4x4", 1),
        ("v5e-16", 16, "v5e:4x4", 1),
        ("v5e-8", 8, "v5e:2x4", 1),
        ("2xv5e-256", 512, "v5e:16x16", 2),
        ("v6e-256", 256, "v6e:16x16", 1),
        ("8xH100", 8, None, 1),
        ("H200", 1, None, 1),
        ("64xA100", 64, None, 8),
    ],
)
def test_a_name_is_so_many_chips(name, chips, topology, domains):
    found = find(name)
    assert (found.chips, found.topology, found.domains) == (chips, topology, domains)
    assert found.slice * found.domains == found.chips


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v7x-8", r"'?v7x-8'? is not known\. Chips: v4, v5e, v5p, v6e, A100"),
        ("8xV100", "8xV100 is not known"),
        ("v5p-7", "there is no such slice; v5p has 8, 16, 32, 64"),
        ("v5e-512", "there is no such slice; v5e has 4, 8, 16, 32, 64, 128, 256"),
        ("v5p:8x8", "there is no such slice"),
        ("12xH100", "hosts have 8 of them: up to 8, or a multiple"),
        ("0xH100", "hosts have 8 of them"),
    ],
)
def test_other_names_are_refused_in_one_sentence(name, said):
    with pytest.raises(ConfigError, match=said):
        find(name)


def test_a_device_at_hand_has_the_rate_of_its_chip():
    assert PEAK_FLOPS["NVIDIA H200"] == CHIPS["H200"].flops == 989.4e12
    assert PEAK_FLOPS["TPU v5 lite"] == CHIPS["v5e"].flops == 197e12
