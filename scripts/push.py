"""Upload a run's model to the Hugging Face Hub: kintsugi push RUN ORGANISATION/NAME"""

import re
import shutil
import sys
import tempfile
from argparse import Namespace
from pathlib import Path

from research.config import require
from scripts import command_line, convert

EPILOG = """
what is uploaded
  The directory that `kintsugi convert` writes, in float32 and safetensors, with its tokenizer, and README.md, a card
  with the run's scores, loss curve, launch summary and command. The model is made if it is new; otherwise the files are
  one more commit, and earlier ones remain. The run's command is in the card with its paths: look at it first, by --out.

tokens
  As huggingface_hub finds them: `hf auth login`, or HF_TOKEN. HF_ENDPOINT names another hub.

examples
  kintsugi push runs/summaries/checkpoints/best me/t5-summaries --license=apache-2.0 --language en
  kintsugi push runs/summaries me/t5-summaries --out=card          writes the directory `card`, and uploads nothing
  kintsugi generate hf://me/t5-summaries "A line of text."
"""


def main(arguments: list[str] | None = None) -> int:
    parser = command_line.parser("push", __doc__, EPILOG)
    parser.add_argument("run", type=Path, help="a run directory, or RUN/checkpoints/STEP or /best")
    parser.add_argument("name", help="name on the hub")
    parser.add_argument("--license", help="the card's licence, by its name on the hub: apache-2.0, mit, cc-by-4.0 ...")
    parser.add_argument("--language", nargs="+", default=[], help="codes of the model's languages, for the card")
    parser.add_argument("--target_language", help="mBART, M2M-100: the target language in generation_config.json")
    parser.add_argument("--private", action="store_true", help="make a new model visible to its owners alone")
    parser.add_argument("--message", help="message of the commit (the run's name and step)")
    parser.add_argument("--out", type=Path, help="write the files into this new directory, and upload nothing")
    return command_line.run(parser, push, arguments)


def push(options: Namespace) -> None:
    from research.pretrained import hub
    from research.pretrained.run_files import run_of
    from research.report import model_card, record

    directory = run_of(options.run)
    require(
        directory is not None, f"{options.run} is no run directory, nor a checkpoint of one: only runs have a card."
    )
    assert isinstance(directory, Path)
    codes = ", ".join(code for code in options.language if not re.fullmatch("[a-z]{2,3}(-[A-Za-z]+)?", code))
    require(not codes, f"--language {codes}: give codes such as en, de or zh-Hant.")
    if options.out is None:
        hub.check_token(options.name)  # before anything is read
    known = record.read(directory)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.out or Path(scratch) / "model"
        languages = [f"--target_language={options.target_language}"] if options.target_language else []
        convert.convert(convert.parser().parse_args([str(options.run), str(folder), *languages]), {})
        (folder / "README.md").write_text(
            model_card.write(known, options.name, options.license, options.language), encoding="utf-8"
        )
        if (directory / model_card.PLOT).is_file():
            shutil.copy(directory / model_card.PLOT, folder)
        if options.out is None:
            message = options.message or f"{known.name}, step {known.step}"
            print(hub.upload(folder, options.name, options.private, message))


if __name__ == "__main__":
    sys.exit(main())
