"""A checkpoint is believed only when every byte of it is what was written."""

import math
import shutil
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils

from research import Checkpoint
from research.config import ConfigError
from research.storage import stop
from research.storage.checkpoint import CheckpointError, Checkpoints, check_same
from research.storage.manifest import verify

META = {"data": {"seed": 0}, "next_row": 8, "random_key": [0, 0]}


def new_state(value: float) -> dict:
    return {"step": jnp.int32(value), "params": {"a": jnp.full((300, 300), value), "b": jnp.arange(5) + value}}


def abstract(state: dict) -> dict:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def saved(directory: Path, *steps: int, losses: dict[int, float] | None = None, best="held_out_loss", **config) -> Path:
    """`losses` are the numbers of that name of the steps that were evaluated."""

    def scores(step: int) -> dict[str, float]:
        return {best: losses[step]} if losses is not None and step in losses else {}

    checkpoints = Checkpoints(directory, Checkpoint(**config), best)
    for step in steps:
        checkpoints.save(step, new_state(float(step)), META | {"next_row": step}, scores(step))
    checkpoints.wait()
    checkpoints.close()
    return directory


def flip_a_bit(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset % len(content)] ^= 1 << (offset % 8)
    path.write_bytes(content)


def test_state_and_meta_come_back_bit_for_bit_though_the_state_was_donated(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", Checkpoint())
    state = new_state(3.0)
    expected = jax.tree.map(np.array, state)
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0)
    checkpoints.save(3, state, META, {"held_out_loss": 1.5})
    for _ in range(3):
        state = overwrite(state)
    checkpoints.wait()
    jax.tree.map(np.testing.assert_array_equal, checkpoints.restore(3, abstract(state)), expected)
    assert checkpoints.meta(3) == META
    assert checkpoints.best == 3
    checkpoints.close()


def test_a_flipped_bit_in_any_file_is_found(tmp_path: Path) -> None:
    directory = saved(tmp_path / "c", 1) / "1"
    files = [path for path in sorted(directory.rglob("*")) if path.is_file() and path.stat().st_size > 0]
    assert verify(directory) == ""
    assert len(files) > 5
    for path in files:
        content = path.read_bytes()
        for offset in {0, len(content) // 2, len(content) - 1}:
            flip_a_bit(path, offset)
            assert path.name in verify(directory), path
            path.write_bytes(content)
    assert verify(directory) == ""


def test_a_missing_an_added_and_a_cut_file_are_found(tmp_path: Path) -> None:
    directory = saved(tmp_path / "c", 1) / "1"
    data = max(
        (path for path in (directory / "state").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )
    content = data.read_bytes()
    data.write_bytes(content[:-1])
    assert "was changed" in verify(directory)
    data.unlink()
    assert "is missing" in verify(directory)
    data.write_bytes(content)
    (directory / "state" / "stray").write_text("x")
    assert "not in its manifest" in verify(directory)


def test_the_newest_that_verifies_is_taken_and_the_bad_one_set_aside(tmp_path: Path, capsys) -> None:
    directory = saved(tmp_path / "c", 1, 2, 3)
    (data,) = [path for path in (directory / "3" / "meta").iterdir() if path.name == "metadata"]
    flip_a_bit(data, 10)
    checkpoints = Checkpoints(directory, Checkpoint())
    assert checkpoints.newest == 2
    assert checkpoints.set_aside == [tmp_path / "set_aside" / "3"]
    assert (tmp_path / "set_aside" / "3" / "state").is_dir()
    assert "Checkpoint 3 does not verify: meta/metadata was changed" in capsys.readouterr().out
    assert float(checkpoints.restore(2, abstract(new_state(0.0)))["params"]["a"][0, 0]) == 2.0
    checkpoints.save(3, new_state(3.5), META, {})
    checkpoints.wait()
    checkpoints.close()
    assert verify(directory / "3") == ""


def test_without_any_that_verifies_nothing_starts_over_silently(tmp_path: Path) -> None:
    directory = saved(tmp_path / "c", 1)
    (directory / "1" / "MANIFEST.json").unlink()
    with pytest.raises(ConfigError, match=r"No checkpoint of .* verifies"):
        Checkpoints(directory, Checkpoint())


def test_killed_before_the_seal_the_checkpoint_still_counts(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", Checkpoint())
    checkpoints.save(1, new_state(1.0), META, {})
    checkpoints._manager.wait_until_finished()  # committed, and the process ends before `check`
    checkpoints.close()
    directory = tmp_path / "c" / "1"
    assert '"sealed": false' in (directory / "MANIFEST.json").read_text()
    assert verify(directory) == ""
    assert Checkpoints(tmp_path / "c", Checkpoint()).newest == 1


def test_kept_by_count_and_by_best_held_out_loss(tmp_path: Path) -> None:
    losses = {1: 3.0, 2: 1.0, 3: 2.0, 4: 2.5}
    directory = saved(tmp_path / "c", 1, 2, 3, 4, 5, losses=losses, keep=2, keep_best=1)
    assert sorted(path.name for path in directory.iterdir() if path.name.isdigit()) == ["2", "4", "5"]


def test_another_number_is_better_when_higher_and_of_equals_the_first_is_kept(tmp_path: Path) -> None:
    scores = {1: 0.0, 2: 31.5, 3: 31.5, 4: 30.0, 5: math.nan}
    directory = saved(tmp_path / "c", 1, 2, 3, 4, 5, 6, losses=scores, best="bleu", keep=1)
    assert sorted(path.name for path in directory.iterdir() if path.name.isdigit()) == ["2", "6"]
    checkpoints = Checkpoints(directory, Checkpoint(keep=1), "bleu")
    assert checkpoints.best == 2
    checkpoints.close()


def test_a_number_asked_for_later_than_what_was_saved_ranks_what_has_it_first(tmp_path: Path) -> None:
    directory = saved(tmp_path / "c", 1, 2, losses={1: 1.0, 2: 2.0})
    checkpoints = Checkpoints(directory, Checkpoint(keep=1, keep_best=1), "bleu")
    for step, scores in ((3, {"held_out_loss": 3.0, "bleu": 5.0}), (4, {}), (5, {})):
        checkpoints.save(step, new_state(float(step)), META, scores)
    checkpoints.wait()
    assert checkpoints.best == 3
    checkpoints.close()
    assert sorted(path.name for path in directory.iterdir() if path.name.isdigit()) == ["3", "5"]


def test_an_unfinished_save_is_not_taken(tmp_path: Path) -> None:
    directory = saved(tmp_path / "c", 1)
    shutil.copytree(directory / "1", directory / "2.orbax-checkpoint-tmp")
    checkpoints = Checkpoints(directory, Checkpoint())
    assert checkpoints.newest == 1
    checkpoints.save(2, new_state(2.0), META, {})
    checkpoints.wait()
    checkpoints.close()
    assert verify(directory / "2") == ""


def test_a_save_that_fails_is_found_and_deletes_nothing(tmp_path: Path, monkeypatch) -> None:
    """Also when it would have replaced the only checkpoint, and however often the loop asks."""
    checkpoints = Checkpoints(tmp_path / "c", Checkpoint(keep=1, keep_best=0))
    checkpoints.save(1, new_state(1.0), META, {})
    checkpoints.wait()

    def no_space(*_, **__) -> None:
        time.sleep(0.1)
        raise OSError("No space left on device")

    monkeypatch.setattr("research.storage.manifest.write", no_space)
    checkpoints.save(2, new_state(2.0), META, {})
    began = time.monotonic()

    def steps() -> None:
        while time.monotonic() - began < 20:
            checkpoints.check()

    with pytest.raises(CheckpointError, match=r"The checkpoint of step 2 could not be written: .*No space left"):
        steps()
    assert verify(tmp_path / "c" / "1") == ""
    assert checkpoints.latest(before=3) == 1


def test_what_a_kill_leaves_of_a_manifest_is_no_obstacle(tmp_path: Path) -> None:
    directory = saved(tmp_path / "c", 1)
    (directory / "1" / "MANIFEST.json.tmp").write_text("{")
    (directory / "2.orbax-checkpoint-tmp").mkdir()
    (directory / "2.orbax-checkpoint-tmp" / "MANIFEST.json.tmp").write_text("{")
    checkpoints = Checkpoints(directory, Checkpoint())
    assert checkpoints.newest == 1
    assert [path.name for path in directory.iterdir()] == ["1"]


def test_an_older_checkpoint_whose_metrics_are_damaged_is_set_aside(tmp_path: Path) -> None:
    """Orbax reads the metrics of all of them as it starts."""
    directory = saved(tmp_path / "c", 1, 2, losses={1: 1.0, 2: 2.0})
    (directory / "1" / "metrics" / "metrics").write_text("{")
    checkpoints = Checkpoints(directory, Checkpoint())
    assert checkpoints.newest == 2
    assert checkpoints.best == 2
    assert checkpoints.set_aside == [tmp_path / "set_aside" / "1"]


def test_other_data_is_refused_by_name() -> None:
    before = {"seed": 0, "data.tokenizer": "abc"}
    check_same(before, dict(before), Path("runs/a"))
    with pytest.raises(ConfigError, match=r"data\.tokenizer was 'abc' and is now 'abd'"):
        check_same(before, before | {"data.tokenizer": "abd"}, Path("runs/a"))


def test_the_loop_alone_tells_jax_where_it_is(tmp_path: Path, monkeypatch) -> None:
    """JAX chooses the step to stop after by the last step it was told, and a step that is past is never reached.

    Orbax asks about the saved step too, from the thread that finishes a save while the loop is further on.
    """
    told: list[int] = []
    monkeypatch.setattr(
        multihost_utils, "reached_preemption_sync_point", lambda point: told.append(point) or len(told) == 3
    )
    checkpoints = Checkpoints(tmp_path / "c", Checkpoint())
    for step in (4, 5, 6):
        reached = stop.reached()
        if step == 5:
            checkpoints.save(step, new_state(5.0), META, {"held_out_loss": 1.5})
    checkpoints.wait()
    checkpoints.close()
    assert told == [told[0], told[0] + 1, told[0] + 2]
    assert reached
