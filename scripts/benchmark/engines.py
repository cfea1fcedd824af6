"""Engines for scripts.benchmark.decode, with one interface: all read the same Hugging Face directory, or draw weights.

Every engine runs in its own process, and only that process imports its libraries.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from research.config import Generation, Model, UntiedHead

# A function from rows of input tokens and a number of beams to the tokens of each row's best hypothesis.
Decode = Callable[[np.ndarray, int], np.ndarray]


class WeightSource(NamedTuple):
    """A model, and the directory of its weights; without one, an engine draws weights on its own device."""

    model: Model
    generation: Generation
    directory: Path | None


class Engine(NamedTuple):
    """An engine. `open` returns its Decode for a fixed output length, threads and dtype, and the name of its device."""

    packages: tuple[str, ...]
    open: Callable[[WeightSource, int, int, str], tuple[Decode, str]]


def open_ours(source: WeightSource, length: int, threads: int, compute: str) -> tuple[Decode, str]:
    import jax
    import jax.numpy as jnp

    from research.config import Beam, Greedy, override
    from research.decode.prepare import prepared
    from research.decode.search import decode_prepared
    from research.model.transformer import initial_params

    model, generation, directory = source
    if directory is None:
        model = override.apply(model, {"compute": compute})
        params = jax.jit(initial_params, static_argnums=0)(model, jax.random.key(0))
    else:
        from research.pretrained.huggingface import read_config, read_generation, read_params

        model, generation = override.apply(read_config(directory), {"compute": compute}), read_generation(directory)
        params = jax.tree.map(jnp.asarray, read_params(directory, model))
    network = jax.block_until_ready(prepared(model, params))  # as a Generator keeps it between its calls
    forced_length = replace(generation, max_length=length, min_length=length, forced_last=None)

    def run(tokens: np.ndarray, beams: int) -> np.ndarray:
        generation = replace(forced_length, method=Greedy() if beams == 1 else Beam(beams))
        decoded = decode_prepared(network, jnp.asarray(tokens, jnp.int32), generation=generation)
        return np.asarray(decoded.tokens[:, 0])

    return run, jax.devices()[0].device_kind


def open_transformers(source: WeightSource, length: int, threads: int, compute: str) -> tuple[Decode, str]:
    import torch
    import transformers

    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, compute)
    if source.directory is None:
        with torch.device(device):
            model = torch_model(source.model, source.generation, dtype=dtype)
    else:
        model = transformers.AutoModelForSeq2SeqLM.from_pretrained(source.directory, dtype=dtype).to(device)
    model.eval()
    lengths = {"max_new_tokens": length, "min_new_tokens": length}

    def run(tokens: np.ndarray, beams: int) -> np.ndarray:
        with torch.inference_mode():
            inputs = torch.tensor(tokens, device=device)
            mask = torch.ones_like(inputs)
            written = model.generate(inputs, attention_mask=mask, num_beams=beams, do_sample=False, **lengths)
        return written[:, 1:].cpu().numpy()

    return run, device


def torch_model(model: Model, generation: Generation, **settings: Any) -> Any:
    """Build Hugging Face's model of a config, with random weights."""
    import torch
    import transformers

    from research.pretrained.huggingface import nearest_family
    from research.pretrained.huggingface.generation import TOKENS

    config = nearest_family(model).write_config(model)
    config |= {name: getattr(generation, field) for field, name in TOKENS.items()}
    written = transformers.AutoConfig.for_model(config.pop("model_type"), **config)
    made = transformers.AutoModelForSeq2SeqLM.from_config(written, **settings)
    if isinstance(model.head, UntiedHead):  # transformers 5 ties it
        made.lm_head.weight = torch.nn.Parameter(made.lm_head.weight.detach().clone())
    return made


def open_ctranslate2(
    compute_type: str, source: WeightSource, length: int, threads: int, compute: str
) -> tuple[Decode, str]:
    import ctranslate2

    directory = source.directory
    assert directory is not None, "CTranslate2 converts written weights"
    converted = directory.parent / f"{directory.name}-{compute_type}"
    to_ctranslate2(directory, converted)
    device = "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
    options = {"compute_type": compute_type, "intra_threads": threads, "inter_threads": 1}
    translator = ctranslate2.Translator(str(converted), device, **options)
    lengths = {"max_decoding_length": length, "min_decoding_length": length}

    def run(tokens: np.ndarray, beams: int) -> np.ndarray:
        rows = [[str(token) for token in row] for row in tokens.tolist()]
        results = translator.translate_batch(rows, beam_size=beams, max_batch_size=0, **lengths)
        return np.array([[int(token) for token in row.hypotheses[0]] for row in results])

    return run, device


ENGINES = {
    "ours": Engine(("jax", "jaxlib"), open_ours),
    "transformers": Engine(("torch", "transformers"), open_transformers),
    "ctranslate2 float32": Engine(("ctranslate2", "torch", "transformers"), partial(open_ctranslate2, "float32")),
    "ctranslate2 int8": Engine(("ctranslate2", "torch", "transformers"), partial(open_ctranslate2, "int8")),
}
WRITTEN = ("ctranslate2 float32", "ctranslate2 int8")  # they need written weights
EXACT = ("ours", "transformers", "ctranslate2 float32")  # in float32 their greedy tokens must be equal


class Numerals:
    """A tokenizer with the methods that CTranslate2's converter calls. Every token is its number in digits."""

    def __init__(self, directory: Path) -> None:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(directory)
        self.tokens = [str(number) for number in range(config.vocab_size)]
        if config.model_type == "marian":
            self.tokens[-1] = "<pad>"  # the converter finds the row of zeros by this name and drops it
        self.bos_token, self.pad_token = self.tokens[0], self.tokens[config.pad_token_id]
        self.eos_token, self.unk_token = self.tokens[config.eos_token_id], self.tokens[2]

    def convert_ids_to_tokens(self, token: int) -> str:
        return self.tokens[token]

    def get_vocab(self) -> dict[str, int]:
        return {name: token for token, name in enumerate(self.tokens)}


def to_ctranslate2(directory: Path, converted: Path) -> None:
    from ctranslate2.converters import TransformersConverter

    class Converter(TransformersConverter):
        def load_tokenizer(self, *_: Any, **__: Any) -> Numerals:
            return Numerals(directory)

    Converter(str(directory)).convert(str(converted), force=True)


# --- In a process -----------------------------------------------------------------------------------------------------


def missing(engine: str) -> list[str]:
    return [name for name in ENGINES[engine].packages if find_spec(name) is None]


def work(
    pipe: Connection, engine: str, sources: dict[str, WeightSource], length: int, threads: int, compute: str
) -> None:
    """Answer (model, tokens, beams) with seconds and the tokens of the best hypotheses, until the pipe is closed."""
    if hasattr(os, "sched_setaffinity"):  # the only limit that every library obeys
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    opener, settings = ENGINES[engine].open, (length, threads, compute)
    opened = {name: opener(source, *settings) for name, source in sources.items()}
    versions = {name: metadata.version(name) for name in ENGINES[engine].packages}
    pipe.send({"versions": versions, "device": next(iter(opened.values()))[1]})
    with suppress(EOFError):
        while True:
            model, tokens, beams = pipe.recv()
            began = time.perf_counter()
            written = opened[model][0](tokens, beams)
            pipe.send((time.perf_counter() - began, written))
