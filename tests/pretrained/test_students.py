"""Students: begun from layers of a teacher in any format, and taught by the loss that PyTorch computes."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from parity import GOLDENS, GRADIENT_TOLERANCE, TOLERANCE, assert_close, golden

from research import AdamW, Bytes, Constant, Denoising, Distil, Experiment, Loss, PlainText, Pretrained
from research.config import ConfigError, Model, override
from research.data.batch import Batch
from research.parallel.rules import flatten
from research.pretrained import find, huggingface
from research.pretrained.table import fill_params
from research.train.step import summed_loss

KEPT = {"encoder_kept": (0, 2), "decoder_kept": (1,)}


@pytest.mark.parametrize("variant", ["t5", "bart", "marian", "umt5"])
def test_layers_are_copied_and_written_as_a_usual_smaller_model(variant, tmp_path):
    directory = str(GOLDENS / variant)
    model = Pretrained(directory, compute="float32", **KEPT)
    assert (model.encoder_layers, model.decoder_layers) == (2, 1)
    whole = flatten(find.find(GOLDENS / variant).params())
    student = find.find_model(model, directory).params()
    for path, leaf in flatten(student).items():
        stack = path.partition("/layers/")[0] if "/layers/" in path else ""
        layers = KEPT.get(f"{stack}_kept")
        np.testing.assert_array_equal(leaf, whole[path] if layers is None else whole[path][list(layers)], err_msg=path)
    assert flatten(student).keys() == whole.keys()
    huggingface.write(tmp_path / "student", model.plain, student, find.find(GOLDENS / variant).generation(None, None))
    read = find.find(tmp_path / "student")
    find.check_same_model(model, read.model, tmp_path / "student")
    assert all(np.array_equal(leaf, flatten(student)[path]) for path, leaf in flatten(read.params()).items())


def test_a_mesh_gets_the_same_layers():
    directory = str(GOLDENS / "t5")
    model = Pretrained(directory, **KEPT)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]).reshape(1, 2), ("data", "fsdp"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    weights = find.find_model(model, directory)
    placed = weights.params(jax.tree.map(lambda leaf: whole, weights.params()))
    for path, leaf in flatten(placed).items():
        assert leaf.sharding == whole
        np.testing.assert_array_equal(leaf, flatten(weights.params())[path])


def test_a_bad_choice_of_layers_is_one_sentence():
    directory = str(GOLDENS / "t5")

    def refused(**kept) -> str:
        with pytest.raises(ConfigError) as error:
            Pretrained(directory, **kept)
        return str(error.value)

    assert refused(encoder_kept=(0, 3)) == (
        f"encoder_kept is (0, 3), but the encoder of {directory} has the layers 0 to 2."
    )
    for kept in ((), (1, 1), (1, 0), (-1, 0)):
        assert "it must have numbers of layers from 0 on, in ascending order" in refused(decoder_kept=kept)
    later = replace(Pretrained(directory), encoder_kept=(5,))  # nothing is read again
    with pytest.raises(ConfigError, match=r"encoder_kept is \(5,\), but the encoder of .* has the layers 0 to 2"):
        find.find_model(later, directory)


def test_it_is_data():
    directory = str(GOLDENS / "t5")
    text = f'Pretrained("{directory}", encoder_kept=(0, 2))'
    model = override.parse(Model, text, "model")
    assert model == Pretrained(directory, encoder_kept=(0, 2))
    assert override.from_json(override.to_json(model), Pretrained) == model
    assert find.overridden(model) == {"encoder_layers": (3, 2), "encoder_kept": (None, (0, 2))}
    assert replace(model, encoder_kept=(1,)).encoder_layers == 1


@pytest.mark.live
@pytest.mark.parametrize("variant", ["t5", "bart"])
def test_loss_and_gradients_are_pytorch_s(variant, tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from scripts.make_goldens import VARIANTS, build, learned

    theirs = {"teacher": build(VARIANTS[variant], 0), "student": build(VARIANTS[variant], 1)}
    for name, model in theirs.items():
        model.eval().save_pretrained(tmp_path / name)
    teacher, student = (Pretrained(str(tmp_path / name), compute="float32") for name in theirs)
    inputs = golden(variant)[2]
    alpha, temperature = 0.3, 2.5
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in inputs.items() if array.dtype != np.float32}
    arguments = {
        "input_ids": tensors["encoder_input_tokens"],
        "decoder_input_ids": tensors["decoder_input_tokens"],
        "attention_mask": tensors["encoder_mask"],
        "decoder_attention_mask": tensors["decoder_mask"],
    }
    trained = learned(theirs["student"])
    with torch.no_grad():
        targets = theirs["teacher"](**arguments).logits
    logits = theirs["student"](**arguments).logits
    real = tensors["decoder_mask"].float()
    usual = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), tensors["decoder_target_tokens"].long(), reduction="none"
    )
    soft, guide = (torch.log_softmax(each / temperature, -1) for each in (logits, targets))
    kl = torch.nn.functional.kl_div(soft, guide, log_target=True, reduction="none").sum(-1)
    expected = (((1 - alpha) * usual + alpha * temperature**2 * kl) * real).sum() / real.sum()
    expected.backward()
    named = {name: tensor.grad.numpy() for name, tensor in trained.items() if tensor.grad is not None}

    experiment = Experiment(
        student,
        Denoising((PlainText("unread"),), Bytes()),
        optimizer=AdamW(schedule=Constant(peak=1e-3)),
        steps=1,
        batch_size=len(inputs["encoder_input_tokens"]),
        loss=Loss(z_loss=0.0),
        distil=Distil(teacher, alpha, temperature),
    )
    params, of_teacher = (find.find(tmp_path / name).params() for name in ("student", "teacher"))
    mask = {name: np.int32(inputs[f"{name}_mask"]) for name in ("encoder", "decoder")}
    batch = Batch(
        *(np.int32(inputs[name]) for name in ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")),
        np.float32(mask["decoder"]),
        encoder_segment_ids=mask["encoder"],
        decoder_segment_ids=mask["decoder"],
    )

    def mean(params):
        sums = summed_loss(experiment, params, batch, None, of_teacher)
        return sums.loss / sums.weight

    value, gradients = jax.jit(jax.value_and_grad(mean))(params)
    assert_close(value, expected.item(), TOLERANCE, "loss")
    read = flatten(fill_params(named, huggingface.table(student.plain, named), student.plain, "the gradients"))
    assert len(read) == len(flatten(params))
    largest = max(np.abs(gradient).max() for gradient in read.values())
    for path, gradient in read.items():  # the bias of keys moves no softmax: its gradient is rounding alone
        scale = largest if path.endswith("key/bias") else None
        assert_close(flatten(gradients)[path], gradient, GRADIENT_TOLERANCE, f"gradient of {path}", scale)
