"""eomt-convert: a published backbone as a checkpoint folder of ours."""

import argparse
import sys
from collections.abc import Sequence

import jax

from eomt_jax.weights import native
from eomt_jax.weights.load import load_backbone


def main(arguments: Sequence[str] | None = None) -> int:
    """Converts and says what came out; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="eomt-convert",
        description="Writes a DINOv2 backbone (torch.hub's .pth, timm's names, or a "
        "Hugging Face file or folder) as a checkpoint folder that "
        "eomt_jax.load_backbone and config.init.backbone take.",
    )
    parser.add_argument("checkpoint", help="file or folder, may be in a bucket")
    parser.add_argument("out", help="folder to write, may be in a bucket")
    parser.add_argument("--patch_size", type=int, default=16, help="default: 16")
    parser.add_argument(
        "--image_size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="in pixels; default: keep the checkpoint's patch grid, which costs "
        "nothing, since loading resamples it to any size",
    )
    parser.add_argument("--num_heads", type=int, help="default: width / 64")
    options = parser.parse_args(arguments)
    overrides = {"num_heads": options.num_heads} if options.num_heads else {}
    try:
        model, params = load_backbone(
            options.checkpoint,
            image_size=tuple(options.image_size) if options.image_size else None,
            patch_size=options.patch_size,
            **overrides,
        )
        native.save(options.out, model, params)
    except (ValueError, ImportError, OSError) as error:
        print(f"eomt-convert: {error}", file=sys.stderr)
        return 1
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(
        f"{options.out}: ViT of width {model.embed_dim}, {model.depth} blocks, "
        f"{model.num_register_tokens} register tokens, {count:,} parameters, for "
        f"patches of {model.patch_size} and images of {model.image_size} pixels."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
