"""The part of the model that each kernel belongs to, and the tables of a compiled step."""

import json

import pytest
from scanned_step import ROW, SCAN, STACK

from research.config import ConfigError
from research.parallel import hardware
from research.plan import breakdown
from research.plan.compiled import Compiled, Memory
from research.plan.hlo import Module
from research.plan.parts import ModelPart, by_part, part_of
from research.plan.traffic import Kernel, kernels
from scripts.plan import main

H200 = hardware.find("1xH200")


def named(op_name: str, *inner: str, name: str = "fusion.1", read: int = 1) -> Kernel:
    return Kernel(name, "fusion", op_name, inner, "f32[]", 1, read, 1, (), None, 0)


@pytest.mark.parametrize(
    ("op_name", "part"),
    [
        ("jvp(encoder)/while/body/closed_call/self_attention/exp", ModelPart("encoder", "self-attention", "forward")),
        ("transpose(jvp(decoder))/cross_attention/mul", ModelPart("decoder", "cross-attention", "backward")),
        ("transpose(jvp(decoder))/while/body/closed_call/norm/mul", ModelPart("decoder", "norms", "backward")),
        ("jvp(encoder)/relative_bias/nh,...tsn->...hts/dot_general", ModelPart("encoder", "self-attention", "forward")),
        ("jvp(embedding)/gather", ModelPart("", "embedding", "forward")),
        ("transpose(jvp(logits))/btd,dv->btv/dot_general", ModelPart("", "logits", "backward")),
        ("jvp(loss)/reduce_sum", ModelPart("", "loss", "forward")),
        ("optimizer/mul", ModelPart("", "optimizer", "")),
        ("reduce_sum", ModelPart("", "optimizer", "")),
        ("jvp(encoder)/while/body/jit(dynamic_update_index_in_dim)/x", ModelPart("encoder", "scan", "forward")),
        ("transpose(jvp(encoder))/while/body/dynamic_slice", ModelPart("encoder", "scan", "backward")),
        ("jvp(encoder)/while", ModelPart("encoder", "scan", "forward")),
        ("jvp(encoder)/while/body/closed_call/add", ModelPart("encoder", "other", "forward")),
        ("transpose(jvp(encoder))/checkpoint/feed_forward/mul", ModelPart("encoder", "feed-forward", "backward")),
    ],
)  # fmt: skip
def test_a_part_follows_from_the_scopes(op_name, part):
    assert part_of(named(f"jit(train_step)/{op_name}")) == part


def test_the_operations_inside_decide_where_xla_has_forgotten_the_name():
    inside = "jit(train_step)/jvp(encoder)/feed_forward/mul", "jit(train_step)/jvp(encoder)/add"
    assert part_of(named("", *inside)) == ModelPart("encoder", "feed-forward", "forward")
    assert part_of(named(inside[1], inside[0])).name == "feed-forward"
    assert part_of(named("")) == ModelPart("", "other", "")
    zeros = named("jit(train_step)/jvp(encoder)/broadcast_in_dim", name="loop_broadcast_fusion.1", read=0)
    assert part_of(zeros) == ModelPart("encoder", "scan", "forward")


def test_the_parts_of_a_step_add_up():
    program = kernels(Module(SCAN))
    costs = by_part(program, H200)
    kept = costs[ModelPart("encoder", "scan", "forward")]
    assert (kept.kernels, kept.written) == (12, 12 * ROW)
    assert costs[ModelPart("", "scan", "")].written == STACK
    product = costs[ModelPart("encoder", "feed-forward", "forward")]
    assert product.flops == {"bf16": 12 * 2 * 8 * 4 * 4}
    assert sum(cost.bytes for cost in costs.values()) == sum(kernel.times * kernel.bytes for kernel in program)


# --- Figures ----------------------------------------------------------------------------------------------------------


def compiled(text: str = SCAN, temporaries: int = 1000) -> Compiled:
    return Compiled(H200, 1.0, Memory(500, temporaries), kernels(Module(text)), (1, 1, 1, 1), 3072.0, text)


def test_figures_are_json_with_the_parts_and_the_heaviest_kernels(tmp_path):
    found = breakdown.figures(compiled(), heaviest=2)
    (tmp_path / "a.json").write_text(json.dumps(found))
    assert breakdown.read(tmp_path / "a.json") == found
    assert found["kernels"] == 25
    assert found["traffic"] == sum(part["read"] + part["written"] for part in found["parts"])
    assert found["modelled"]["mfu"] == pytest.approx(3072 / found["modelled"]["seconds"] / H200.chip.flops)
    assert [kernel["times"] for kernel in found["heaviest"]] == [12, 12]
    assert found["memory"]["fits"]


def test_a_step_fits_if_it_needs_no_more_than_jax_takes_by_default():
    share = compiled().share
    assert share == int(0.75 * 151_397_597_184)
    assert breakdown.figures(compiled(temporaries=share - 500))["memory"]["fits"]
    assert not breakdown.figures(compiled(temporaries=share - 499))["memory"]["fits"]


def test_the_table_has_every_part_and_their_sum(capsys):
    breakdown.show(breakdown.figures(compiled()), heaviest=1)
    shown = capsys.readouterr().out
    assert "encoder feed-forward" in shown
    assert [line.split()[:3] for line in shown.splitlines() if line.strip().startswith("all")] == [
        ["all", "0.00", "25"]
    ]
    assert "The heaviest kernels" in shown


def test_a_comparison_shows_the_parts_that_changed_and_no_others(capsys):
    fewer = SCAN.replace("constant(12)", "constant(6)")
    breakdown.compare(breakdown.figures(compiled()), breakdown.figures(compiled(fewer, temporaries=2000)))
    shown = capsys.readouterr().out
    rows = {line.split("  ")[0].strip(): line for line in shown.splitlines()}
    assert "12 to 6" in rows["encoder feed-forward"]
    assert "25 to 13" in rows["all"]
    assert "scan" not in rows, "the zeros did not change"
    assert "temporaries" in shown


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}'])
def test_a_comparison_with_something_else_is_one_sentence(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"--compare .* is not a file that kintsugi plan .* wrote"):
        breakdown.read(path)
    with pytest.raises(ConfigError, match="there is no such file"):
        breakdown.read(tmp_path / "b.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--json", "a.json"), "--json needs --compile"),
        (("--kernels", "3", "--compare", "a.json"), "--compare and --kernels needs --compile"),
        (("--compile", "--search"), "run --search first"),
        (("--compile", "--compare", "none.json"), "there is no such file"),
        (("--compile", "--json", "nowhere/a.json"), "there is no directory"),
        (("--compile", "--hlo", "nowhere/a.txt"), "there is no directory"),
    ],
)
def test_options_of_compiled_steps_are_checked_before_anything_slow(options, message, capsys):
    assert main(["experiments/t5/v1_1_c4.py:base", "--hardware", "1xH200", *options]) == 2
    assert message in capsys.readouterr().err
