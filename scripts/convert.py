"""Convert weights from one format into another: kintsugi convert SOURCE TARGET"""

import argparse
import sys
from pathlib import Path
from typing import Any

from research.config import override, require
from research.storage.bucket import any_path
from scripts import command_line

EPILOG = """
formats
  read      a run directory, its newest checkpoint (or runs/NAME/checkpoints/STEP or /best), a Hugging Face directory,
            or hf://ORGANISATION/NAME, a T5X checkpoint, Marian's .npz, fairseq's BART and mBART .pt (needs torch)
  written   a Hugging Face directory, which transformers' from_pretrained loads with its tokenizer; or Marian's .npz, if
            TARGET ends in .npz

  Of a run with model.adapter the adapter alone is written, in PEFT's format; with --merge, the whole model, with the
  adapter merged into its weights. --adapter adds one in PEFT's format to a source without one.

  Weights are written in float32. A model that the target's format cannot express is refused, and nothing is written.

fields that the source lacks, or that must differ in the target, are set by name:
  --model.activation=silu               for a T5X checkpoint of UL2, which does not name its activation
  --model.norm='LayerNorm(1e-5)' --model.positions='Sinusoidal(512)'
                                        for Marian to Hugging Face, which has another epsilon and other sinusoids:
                                        outputs differ a little from Marian's own
examples
  kintsugi convert runs/base t5-mine
  kintsugi convert checkpoint_1000000 t5-v1_1 --tokenizer=sentencepiece.model
  kintsugi convert runs/lora my-adapter
  kintsugi convert t5-small t5-mine --adapter=my-adapter --merge
  kintsugi convert model.npz opus-mine --model.norm='LayerNorm(1e-5)' --model.positions='Sinusoidal(512)'
"""


def main(arguments: list[str] | None = None) -> int:
    return command_line.run(parser(), convert, arguments, (command_line.MODEL,))


def parser() -> argparse.ArgumentParser:
    made = command_line.parser("convert", __doc__, EPILOG)
    made.add_argument("source", type=any_path, help="path of the weights; see below")
    made.add_argument("target", type=Path, help="a new directory, or a new file that ends in .npz")
    made.add_argument("--tokenizer", type=Path, help="a directory or SentencePiece model, where the source has none")
    made.add_argument("--target_language", help="mBART, M2M-100: the target language in generation_config.json")
    made.add_argument("--adapter", type=Path, help="a directory in PEFT's format, with an adapter of the source")
    made.add_argument("--merge", action="store_true", help="write the whole model, with its adapter merged")
    made.add_argument("--no_tokenizer", action="store_true", help="weights and configuration alone")
    return made


def convert(options: argparse.Namespace, changes: dict[str, str]) -> None:
    from research.model.flops import parameter_count
    from research.model.parametrization import as_standard, standard_model
    from research.model.transformer import merged
    from research.pretrained import find, huggingface
    from research.pretrained.rows import check_vocabulary

    target = options.target
    occupied = target.exists() and (target.is_file() or any(target.iterdir()))
    require(not occupied, f"{target} exists: nothing is overwritten, so name a new one.")
    require(target.absolute().parent.is_dir(), f"{target}: there is no directory {target.absolute().parent}.")
    source = find.find(options.source)
    if options.adapter is not None:
        source = find.with_adapter(source, options.source, options.adapter)
    model = override.apply(source.model, changes)
    require(model.adapter is not None or not options.merge, f"--merge: {options.source} has no adapter.")
    if model.adapter is not None and not options.merge:
        write_adapter(options, source, model)
        return
    tokenizer = None
    if not options.no_tokenizer:
        given = options.tokenizer
        tokenizer = source.tokenizer() if given is None else find.open_tokenizer_at(given)
        check_vocabulary(model, tokenizer)
    model, params = merged(model, source.params())
    model, params = standard_model(model), as_standard(model, params)
    if target.suffix == ".npz":
        write_marian(target, model, params, tokenizer)
    else:
        generation = source.generation(tokenizer, options.target_language)
        huggingface.write_directory(target, model, params, tokenizer, generation)
    print(f"{target}: {parameter_count(params):,} parameters from {options.source}, of the format {source.format}")


def write_adapter(options: argparse.Namespace, source: Any, model: Any) -> None:
    """Write the adapter of a run alone, with the path and the hash of its base."""
    from research.parallel.rules import flatten
    from research.pretrained import peft
    from research.pretrained.run_files import run_of
    from research.storage import run_directory

    run = run_of(options.source)
    require(run is not None, f"{options.adapter} is in PEFT's format already: add --merge for the whole model.")
    require(options.target.suffix != ".npz", f"{options.target}: an adapter is written to a directory; or add --merge.")
    experiment, record = run_directory.read_recorded(run)
    longer = getattr(experiment.model, "new_tokens", ())
    require(not longer, f"{options.source} has new tokens, which PEFT's format lacks: add --merge for the whole model.")
    params = source.params()
    peft.write(options.target, model, params, experiment.weights, record.get("base"))
    count = sum(leaf.size for path, leaf in flatten(params).items() if model.adapter.trains(path))
    print(f"{options.target}: the adapter of {options.source}, {count:,} parameters, of the base {experiment.weights}")


def write_marian(target: Path, model: Any, params: Any, tokenizer: Any) -> None:
    """Write the weights, and the vocabulary into a directory beside them that is named after them."""
    from research.pretrained import find, marian
    from research.pretrained.files import new_directory
    from research.pretrained.tokenizer_files import write_tokenizer

    if tokenizer is None:
        marian.write(target, model, params)
        return
    with new_directory(find.vocabulary_beside(target)) as unfinished:
        write_tokenizer(tokenizer, unfinished)
        marian.write(target, model, params)


if __name__ == "__main__":
    sys.exit(main())
