"""The mean of checkpoints is read as a run is, and nothing else takes it for one."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_run import experiment, rewrite

from research import Checkpoint
from research.config import ConfigError, override
from research.parallel.rules import flatten
from research.pretrained import find
from research.pretrained.average import average
from research.train.loop import train
from scripts import average as script
from scripts import generate

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Four steps with a checkpoint each, and a moving average."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KINTSUGI_CACHE", str(folder / "cache"))
        asked = experiment(folder, steps=4, checkpoint=Checkpoint(every=1, keep=4), average_decay=0.8)
        assert train(asked, folder / "run") == 0
        yield folder / "run"


def params_of(path: Path) -> dict[str, np.ndarray]:
    return flatten(find.find(path).params())


@pytest.mark.parametrize(("name", "steps"), [("run", (4, 3, 2)), ("tiny_run", (2, 1))])
def test_it_is_the_mean_of_what_the_run_evaluates(request, name, steps, tmp_path, capsys):
    """The parameters of a run without a moving average, else that."""
    run = request.getfixturevalue(name)
    assert average(run, tmp_path / "mean", len(steps)) == list(steps)
    each = [params_of(run / "checkpoints" / str(step)) for step in steps]
    for path, mean in params_of(tmp_path / "mean").items():
        np.testing.assert_allclose(mean, np.mean([one[path] for one in each], 0), rtol=1e-6, atol=1e-7, err_msg=path)
        assert mean.dtype == np.float32
    assert any(not np.array_equal(each[0][path], each[-1][path]) for path in each[0])
    assert generate.main([str(tmp_path / "mean"), "some text", "--generation.max_length=4"]) == 0
    said = f"the mean of the checkpoints of steps {', '.join(map(str, steps[::-1]))} of "
    assert json.loads((tmp_path / "mean" / "RESULT.json").read_text())["reason"].startswith(said)


def test_a_moving_average_is_not_the_parameters(run, tmp_path):
    assert find.find(run).stored_as == "average"
    shutil.copytree(run, tmp_path / "plain")
    asked = override.from_json((run / "config.json").read_text())
    rewrite(tmp_path / "plain", dataclasses.replace(asked, average_decay=None))
    assert not jax.tree.all(jax.tree.map(np.array_equal, params_of(run), params_of(tmp_path / "plain")))


def test_a_moving_average_goes_on_bit_for_bit(run):
    config = override.from_json((run / "config.json").read_text())
    for steps in (2, 4):
        assert train(dataclasses.replace(config, steps=steps), run.parent / "parts") == 0
    assert jax.tree.all(jax.tree.map(np.array_equal, params_of(run), params_of(run.parent / "parts")))


def test_no_run_goes_on_in_it_but_one_may_start_from_it(run, tmp_path):
    average(run, tmp_path / "mean", 2)
    asked = dataclasses.replace(override.from_json((run / "config.json").read_text()), steps=6)
    with pytest.raises(ConfigError, match=r"holds parameters only, so no run can resume from it: .* --config\.init="):
        train(asked, tmp_path / "mean")
    assert train(dataclasses.replace(asked, steps=1, init=str(tmp_path / "mean")), tmp_path / "next") == 0


def test_bad_input_is_one_sentence(run, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    shutil.copytree(run, tmp_path / "gap")
    shutil.rmtree(tmp_path / "gap" / "checkpoints" / "2")
    for arguments, said in (
        ([str(run), "mean", "--last", "9"], "keeps 4 checkpoints, fewer than --last 9"),
        (
            [str(tmp_path / "gap"), "mean", "--last", "3"],
            "are of steps 1, 3, 4, further apart than the checkpoint interval of 1 steps",
        ),
        ([str(run), "mean", "--last", "0"], "--last is 0: it must be above 0."),
        ([str(run / "checkpoints" / "4"), "mean"], "is not a run directory"),
        ([str(tmp_path / "absent"), "mean"], "does not exist"),
        ([str(run), str(tmp_path / "there"), "--last", "2"], "must not exist, or be an empty directory"),
    ):
        assert script.main(arguments) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
