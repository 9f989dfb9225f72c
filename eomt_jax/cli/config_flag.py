"""The flag --config and its overrides, with errors that a newcomer can act on."""

import contextlib
import re
import sys
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from eomt_jax.cli.standard_output import accept_any_name

# --help shows the flags of a program, wherever they are defined.
flags.disclaim_key_flags()


_FIELDS = """\
fields of the config, each with its range and the default of recipes that don't change it;
--config.batch_size=8, for instance, changes one:"""


def define_config_flag() -> flags.FlagHolder:
    """Defines --config=FILE.py and --config.field=value; the fields are fixed."""
    return config_flags.DEFINE_config_file(
        "config",
        None,
        "The recipe, such as configs/quickstart.py; its fields stand below.",
        lock_config=True,
    )


def given_fields() -> set[str]:
    """Returns the dotted names of the config's fields that the command line sets."""
    return set(config_flags.get_override_values(flags.FLAGS["config"]))


def parse_flags(argv: Sequence[str], *, default: str = "") -> list[str]:
    """Parses absl's flags with plain errors, as the flags_parser of app.run.

    A misspelt field, a value of the wrong type or a missing file ends the program with
    exit code 2 and one message, not with a traceback. After --help every field of the
    config is listed.

    Args:
      argv: the program's name and its arguments.
      default: the recipe that is taken if the arguments name none.
    """
    if default and not any(re.match(r"--?config(=|$)", arg) for arg in argv):
        # ml_collections reads the overrides of a flag's own default too early.
        argv = [*argv[:1], f"--config={default}", *argv[1:]]
    accept_any_name()
    try:
        rest = flags.FLAGS(list(argv))
        if "config" in flags.FLAGS and flags.FLAGS["config"].present:
            # A recipe that cannot be loaded raises its error only here.
            _ = flags.FLAGS.config.is_locked
        return rest
    except SystemExit:
        if "--helpxml" not in argv:
            from eomt_jax.options import format_options
            from eomt_jax.training.options import RunOptions

            with contextlib.suppress(BrokenPipeError):
                print(f"\n{_FIELDS}\n\n{format_options(RunOptions)}", flush=True)
        raise
    except BrokenPipeError:  # `--help | head` closes it.
        sys.exit(1)
    except (AttributeError, KeyError) as error:
        message = _unknown_field(str(error), argv)
    except ModuleNotFoundError as error:
        message = (
            f"a recipe imports what isn't found from here: {error}. `from configs import "
            "…` works in the clone's folder"
        )
    except OSError as error:
        message = " ".join(str(error).partition("failure to load: ")[2].split())
    except (flags.Error, TypeError, ValueError) as error:
        message = str(error)
    print(f"error: {message}", file=sys.stderr)
    print("--help lists all flags and all fields of the config.", file=sys.stderr)
    sys.exit(2)


def _unknown_field(error: str, argv: Sequence[str]) -> str:
    """Returns a message with the unknown field and the field that is most alike."""
    match = re.search(r"Did you mean \"(\w+)\" instead of \"(\w+)\"", error)
    wrong = match[2] if match else error.strip("\\\"' ")
    given = [arg for arg in argv if re.match(rf"--config\.([\w.]+\.)?{wrong}\b", arg)]
    where = f" in {given[0]}" if given else ""
    hint = f"; did you mean {match[1]!r}?" if match else ""
    return f"the config has no field {wrong!r}{where}{hint}"
