"""Uploads files to a new repository on the Hugging Face hub."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from eomt_jax.weights.formats import hub
from eomt_jax.weights.wording import typed_reason

# The hub puts this file into a repository when it makes it.
_OF_THE_HUB = {".gitattributes"}


def check_name(name: str) -> None:
    """Raises ValueError unless this is org/name."""
    match = hub.NAME.fullmatch(name)
    if match is None or match["revision"]:
        raise ValueError(
            f"{name} is no name on the Hugging Face hub: it is org/name, or your own name "
            "in place of org, of letters, digits and - _ ."
        )


def create(name: str, *, private: bool) -> None:
    """Makes the repository; one that is there and empty will do.

    Raises:
      ValueError: there is something in it, the user may not make it or isn't known, or
        the hub can't be reached.
    """
    import huggingface_hub  # here, because it takes a while

    check_name(name)
    if huggingface_hub.get_token() is None:
        raise ValueError(
            f"{name} can't be made on the Hugging Face hub, which doesn't know who you "
            "are: run `hf auth login`, or set the environment variable HF_TOKEN, with a "
            "token that may write."
        )
    with _explained(name):
        api = huggingface_hub.HfApi()
        api.create_repo(name, private=private, exist_ok=True)
        files = set(api.list_repo_files(name)) - _OF_THE_HUB
    if files:
        raise ValueError(
            f"{name} exists already on the Hugging Face hub, with {len(files)} files; "
            "give another name, or delete it there."
        )


def upload(name: str, files: Mapping[str, Path | bytes]) -> str:
    """Uploads files in one commit, all or none; returns the repository's address.

    Args:
      name: the repository.
      files: paths or contents by their names in the repository.

    Raises:
      ValueError: the hub can't be reached, or doesn't take them.
    """
    import huggingface_hub

    operations = [
        huggingface_hub.CommitOperationAdd(target, content)
        for target, content in files.items()
    ]
    with _explained(name):
        api = huggingface_hub.HfApi()
        api.create_commit(name, operations, commit_message="Upload by eomt-convert")
    return f"{api.endpoint}/{name}"


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turns errors of the hub into ones that say what to do."""
    from huggingface_hub import errors

    try:
        yield
    except errors.HFValidationError as error:
        raise ValueError(
            f"{name} is no name on the Hugging Face hub: {typed_reason(error)}"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise ValueError(
                f"The Hugging Face hub doesn't let you write to {name}: your token is no "
                "longer valid, or is one for reading, or may not write there. Make "
                "another at https://huggingface.co/settings/tokens, and run `hf auth "
                "login`."
            ) from error
        raise ValueError(
            f"The Hugging Face hub doesn't take {name} ({typed_reason(error)})."
        ) from error
    except Exception as error:  # Its HTTP library is another one in each version.
        raise ValueError(
            f"{name} cannot be uploaded to the Hugging Face hub ({typed_reason(error)}); "
            "without a network, try again with one."
        ) from error
