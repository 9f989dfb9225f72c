"""Resolves names on the Hugging Face hub to paths on this machine."""

import re

from etils import epath

from eomt_jax.weights.formats.files import SUFFIXES, WEIGHTS
from eomt_jax.weights.wording import typed_reason

NAME = re.compile(r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w./-]+))?")
CONFIGS = ["config.json", "preprocessor_config.json"]


def resolve(path: epath.PathLike) -> epath.Path:
    """Returns the file or folder of `path`, downloaded if it is a name on the hub.

    Args:
      path: a file or folder, which may be in a bucket; or, if nothing is there, a name
        on the Hugging Face hub, "org/name" or "org/name@revision". Configuration and
        weights of a name, as .safetensors if there are any, are downloaded into Hugging
        Face's cache, from which later calls take them without a network too.

    Returns:
      The path; for a name on the hub the folder in the cache, or the file of weights in
      it if there is no configuration.

    Raises:
      FileNotFoundError: there is nothing at the path, and it is no hub name.
      ValueError: the hub doesn't have the name or revision, doesn't give it to this
        user, or cannot be reached and the cache doesn't hold it.
    """
    text = str(path)
    local = epath.Path(path).expanduser()
    if "://" in text or local.exists():
        return local
    match = NAME.fullmatch(text)
    if not match or local.suffix in SUFFIXES:
        raise FileNotFoundError(f"There is no checkpoint at {path}.")
    name, revision = match["name"], match["revision"]
    for weights in WEIGHTS:
        folder = epath.Path(_download(text, name, revision, weights))
        if any((folder / f"{weights}{end}").exists() for end in ("", ".index.json")):
            file = folder / weights
            alone = file.exists() and not (folder / CONFIGS[0]).exists()
            return file if alone else folder
    raise ValueError(
        f"{text} on the Hugging Face hub holds neither {' nor '.join(WEIGHTS)}, nor an "
        "index of shards; name another repository."
    )


def _download(text: str, name: str, revision: str | None, weights: str) -> str:
    """Downloads one kind of weights and the configuration; returns their folder."""
    import huggingface_hub  # here, because it takes a while
    from huggingface_hub import errors

    stem, suffix = weights.rsplit(".", 1)
    wanted = [weights, f"{stem}-*.{suffix}", f"{weights}.index.json"]
    there_is_none = f"There is no checkpoint at {text} on this machine, and "
    try:
        return huggingface_hub.snapshot_download(
            name,
            revision=revision,
            allow_patterns=[*CONFIGS, *wanted],
            ignore_patterns=["*/*"],  # patterns reach into folders otherwise
        )
    except errors.GatedRepoError as error:
        raise ValueError(
            f"{text} is behind a licence. Accept it at https://huggingface.co/{name}, "
            "then say who you are: `hf auth login`, or the environment variable "
            "HF_TOKEN."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(
            f"{name} on the Hugging Face hub has no revision {revision or 'main'}."
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise ValueError(
            f"{there_is_none}the Hugging Face hub has no public model of that name. "
            "For a private one: `hf auth login`, or the environment variable HF_TOKEN."
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise ValueError(
            f"{there_is_none}the Hugging Face hub cannot be reached (or HF_HUB_OFFLINE "
            "is set), while its cache does not hold all of that model. Try again "
            f"with a network, or download https://huggingface.co/{name} elsewhere and "
            "give the folder."
        ) from error
    except Exception as error:
        raise ValueError(
            f"{text} cannot be downloaded from the Hugging Face hub "
            f"({typed_reason(error)})."
        ) from error
