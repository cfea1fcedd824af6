"""Models of the Hugging Face Hub: hf://ORGANISATION/NAME[@REVISION], by huggingface_hub, with its cache and its tokens.

Its environment variables hold here too: HF_HOME, HF_TOKEN, HF_HUB_OFFLINE and HF_ENDPOINT.
"""

import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from research.config import ConfigError, require
from research.storage.bucket import AnyPath
from research.storage.console import one_line

SCHEME = "hf://"

# The files of a model and its tokenizer. PyTorch's pickles are read only where the address names them.
FILES = (
    *("config.json", "generation_config.json", "model.safetensors", "model-*.safetensors"),
    *("model.safetensors.index.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.json", "spiece.model", "sentencepiece.bpe.model", "source.spm", "target.spm", "vocab.json"),
    *("merges.txt", "adapter_config.json", "adapter_model.safetensors"),
)
PICKLE, PICKLES = "pytorch_model.bin", ("pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json")

NAME = r"[\w.-]+/[\w.-]+"
ADDRESS = re.compile(rf"{SCHEME}(?P<name>{NAME})(?:@(?P<revision>[\w./-]+?))?(?P<pickle>/{re.escape(PICKLE)})?")


class HubModel(NamedTuple):
    """A model of the hub, at a branch, a tag or a commit; None is the main branch."""

    name: str
    revision: str | None
    allows_pickle: bool


def is_address(path: Any) -> bool:
    """Tell whether a path is the address of a model of the hub."""
    return str(path).startswith(SCHEME)


def parse(address: str) -> HubModel:
    match = ADDRESS.fullmatch(address)
    if match is None:
        raise ConfigError(
            f"{address} is no model of the hub: write {SCHEME}ORGANISATION/NAME, with @REVISION for a branch, tag or"
            f" commit, and with /{PICKLE} to allow a PyTorch file."
        )
    return HubModel(match["name"], match["revision"], match["pickle"] is not None)


def located(path: AnyPath) -> AnyPath:
    """Return the directory of a model of the hub, downloaded if it is not in the cache; another path as it is."""
    return download(str(path)) if is_address(path) else path


@cache
def download(address: str) -> Path:
    """Download the files of a model and of its tokenizer, unless they are cached, and return their directory.

    A process asks the hub once, so that all that it reads is of one commit.

    Raises:
        ConfigError: the model or the revision does not exist or needs a token, the hub cannot be reached and the cache
            has no such model, or its weights are in PyTorch's format alone and the address does not allow that.
    """
    model = parse(address)
    patterns = [*FILES, *PICKLES] if model.allows_pickle else [*FILES]
    with explained(address):
        from huggingface_hub import snapshot_download

        directory = Path(snapshot_download(model.name, revision=model.revision, allow_patterns=patterns))
    found = {path.name for path in directory.iterdir()}
    has_weights = any(name.endswith((".safetensors", ".safetensors.index.json")) for name in found)
    allowed = model.allows_pickle and PICKLE in {name.removesuffix(".index.json") for name in found}
    require(
        has_weights or allowed,
        f"{address} has no weights in the safetensors format{_other_weights(model, address)}.",
    )
    return directory


def _other_weights(model: HubModel, address: str) -> str:
    """Name the way to a model's pickles, if it has any and the hub can be asked."""
    from huggingface_hub import HfApi, errors

    try:
        listed = HfApi().list_repo_files(model.name, revision=model.revision)
    except (errors.HfHubHTTPError, errors.HTTPError, errors.OfflineModeIsEnabled, OSError):
        return ""
    if not model.allows_pickle and set(listed) & {PICKLE, f"{PICKLE}.index.json"}:
        return f", only PyTorch's, which can run code in old versions: to allow it, write {address}/{PICKLE}"
    return f"; it has {', '.join(sorted(listed)[:8]) or 'no files'}"


def upload(directory: Path, name: str, private: bool, message: str) -> str:
    """Upload the files of a directory as one commit, into a new model of the hub or an existing one; return its URL.

    Raises:
        ConfigError: the hub refuses it or cannot be reached.
    """
    with explained(f"{SCHEME}{name}"):
        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(name, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=name, folder_path=directory, commit_message=message).commit_url)


def check_token(name: str) -> None:
    """Raise ConfigError for an impossible name, or if there is no token that the hub accepts."""
    require(re.fullmatch(NAME, name) is not None, f"{name} is no name on the hub: give ORGANISATION/NAME or USER/NAME.")
    with explained(f"{SCHEME}{name}"):
        from huggingface_hub import HfApi

        HfApi().whoami()


@contextmanager
def explained(address: str) -> Iterator[None]:
    """Turn errors of the hub and of the network into ConfigErrors."""
    require(
        importlib.util.find_spec("huggingface_hub") is not None,
        f"{address} is on the Hugging Face Hub, which needs huggingface_hub: pip install 'kintsugi[hub]'.",
    )
    from huggingface_hub import errors

    token = "log in by `hf auth login`, or set HF_TOKEN"
    try:
        yield
    except errors.GatedRepoError as error:
        raise ConfigError(f"{address} is gated: accept its terms on its page, and {token}.") from error
    except errors.RevisionNotFoundError as error:
        raise ConfigError(f"{address}: the hub has the model, but not this revision.") from error
    except errors.RepositoryNotFoundError as error:
        raise ConfigError(f"{address} does not exist, or is private: check the name, or {token}.") from error
    except (errors.LocalTokenNotFoundError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        missing_token = isinstance(error, errors.LocalTokenNotFoundError)
        remedy = token if missing_token else "it is not in the cache, and the hub cannot be reached or is switched off"
        raise ConfigError(f"{address}: {remedy}.") from error
    except errors.HfHubHTTPError as error:
        status = None if error.response is None else error.response.status_code
        remedy = f"; {token}" if status in (401, 403) else ""
        raise ConfigError(f"{address}: the hub answered {status}: {one_line(error)}{remedy}.") from error
    except (errors.HTTPError, errors.HFValidationError, OSError) as error:
        raise ConfigError(f"{address} cannot be read from the hub: {one_line(error)}.") from error
