"""Evaluate a model on tasks of EleutherAI's lm-evaluation-harness: kintsugi harness MODEL --tasks arc_easy"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from research.config import ConfigError, Greedy, Sampling, require
from scripts import command_line
from scripts.generate import add_model_options, open_model

MOST_TOKENS = 256  # of an output, if the task has no max_gen_toks, as in the harness
READ = {"until", "max_gen_toks", "do_sample", "temperature"}

EPILOG = """
The context is the source and the continuation the target, as in the harness's own backend of encoder-decoders. Control
tokens (EOS, language codes) are given, but not scored. Contexts longer than the model's positions lose their end.
Tasks that need the likelihood of whole texts (loglikelihood_rolling) are for decoders alone, and refused.

Needs the extra `harness`. Tasks are names of the harness, or of YAML files in the directory --include_path.
"""


def main(arguments: list[str] | None = None) -> int:
    return command_line.run(parser(), run, arguments)


def parser() -> argparse.ArgumentParser:
    made = command_line.parser("harness", __doc__, EPILOG)
    add_model_options(made)
    made.add_argument("--tasks", nargs="+", required=True, help="names of tasks or groups")
    made.add_argument("--include_path", type=Path, help="a directory with tasks of your own")
    made.add_argument("--num_fewshot", type=int, help="examples before each question (that of the task)")
    made.add_argument("--limit", type=int, help="number of examples of each task (all)")
    made.add_argument("--output", type=Path, help="a new JSON file for the results")
    return made


def run(options: argparse.Namespace) -> int:
    try:
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager
        from lm_eval.utils import make_table
    except ImportError as error:
        raise ConfigError(f"kintsugi harness needs lm_eval ({error}): pip install 'kintsugi[harness]'.") from None
    from research.storage.files import write_json
    from research.storage.journal import check_new

    check_new(options.output)
    manager = TaskManager(include_path=None if options.include_path is None else str(options.include_path))
    unknown = [name for name in options.tasks if name not in manager.all_tasks]
    require(not unknown, f"The harness has no task {', '.join(unknown)}: lm_eval ls tasks lists them.")
    found = simple_evaluate(
        adapted(open_model(options)),
        tasks=options.tasks,
        num_fewshot=options.num_fewshot,
        limit=options.limit,
        task_manager=manager,
        log_samples=False,
    )
    if options.output is not None:
        write_json(options.output, {"model": str(options.model), "results": found["results"]})
    print(make_table(found))
    return 0


def adapted(model: Any) -> Any:
    """Return a model of `research.load` as one of the harness, for its `simple_evaluate`."""
    from lm_eval.api.model import LM

    class Adapted(LM):
        def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            return likelihoods(model, [request.args for request in requests])

        def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
            raise ConfigError(
                "A task asks for the likelihood of whole texts (loglikelihood_rolling), which an encoder-decoder does"
                " not have: choose tasks with a context and an answer."
            )

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
            texts = [""] * len(requests)
            kinds: dict[str, list[int]] = {}
            for number, request in enumerate(requests):
                kinds.setdefault(repr(request.args[1]), []).append(number)
            for numbers in kinds.values():
                sources = [requests[number].args[0] for number in numbers]
                written = outputs(model, sources, requests[numbers[0]].args[1])
                for number, text in zip(numbers, written, strict=True):
                    texts[number] = text
            return texts

    return Adapted()


def likelihoods(model: Any, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
    """Return log p(continuation | context) in nats of each pair, and whether greedy search would write it."""
    import numpy as np
    from scipy.special import log_softmax

    longest = model.config.longest
    generator = model.generator(model.generation(None, {}), (None, None), input_length=longest, target_length=longest)
    moved = []
    for context, continuation in pairs:  # spaces at the end of a context belong to the continuation
        text = context.rstrip()
        moved.append((text, context[len(text) :] + continuation))
    framed, found = generator.framed_pairs(moved), {}
    after = model.tokenizer.ending(None)
    before = len(model.tokenizer.target([""], None)[0]) - after
    for batch in generator.logits(moved):
        for number, logits in batch.items():
            ids = np.array(framed[number][1])[before : len(framed[number][1]) - after]
            rows = log_softmax(logits[before : before + len(ids)], axis=-1)
            total = rows[np.arange(len(ids)), ids].sum(dtype=np.float64)
            found[number] = float(total), bool((rows.argmax(-1) == ids).all())
    return [found[number] for number in range(len(pairs))]


def outputs(model: Any, sources: Sequence[str], settings: dict[str, Any]) -> list[str]:
    """Write an output for each source, each cut before the first of the strings `until`."""
    unread = sorted(set(settings) - READ)
    require(not unread, f"A task sets {', '.join(unread)} for its outputs: only {', '.join(sorted(READ))} are read.")
    until = settings.get("until") or ()
    stops = (until,) if isinstance(until, str) else tuple(until)
    temperature = settings.get("temperature") or 1.0
    longest = model.config.longest
    length = settings.get("max_gen_toks", MOST_TOKENS)
    method = Sampling(temperature=temperature) if settings.get("do_sample") else Greedy()
    texts = model.generate(
        sources,
        max_length=length if longest is None else min(length, longest),
        method=method,
        stop_strings=tuple(stop for stop in stops if can_end(model.tokenizer, stop)),
    )
    return [min((text.split(stop)[0] for stop in stops if stop), key=len, default=text) for text in texts]


def can_end(tokenizer: Any, stop: str) -> bool:
    """Tell whether a token's text ends a string: T5, for one, cannot write the end of a line."""
    from research.decode.stop_strings import stop_table

    try:
        stop_table(tokenizer, (stop,))
    except ConfigError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
