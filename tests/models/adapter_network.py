"""A network that is an adapter around a ViT, and its weights by their original names."""

import re

import flax.linen as nn
import jax
from flax.traverse_util import unflatten_dict

from eomt_jax.models.vit import ViT
from eomt_jax.models.vit_adapter import ViTAdapter
from eomt_jax.weights.foreign.layouts import Architecture
from eomt_jax.weights.foreign.name_maps import TIMM
from tests.models.golden_files import our_layout

# D2's names within the adapter, and ours; "stride" turns 1 … 4 into 4 … 32.
_RENAMED = (
    (r"spm\.stem\.(0|3|6)\.", lambda m: f"prior.stem_{int(m[1]) // 3}.conv."),
    (r"spm\.stem\.(1|4|7)\.", lambda m: f"prior.stem_{int(m[1]) // 3}.norm."),
    (r"spm\.conv(\d)\.0\.", lambda m: f"prior.stage_{_stride(m)}.conv."),
    (r"spm\.conv(\d)\.1\.", lambda m: f"prior.stage_{_stride(m)}.norm."),
    (r"spm\.fc(\d)\.", lambda m: f"prior.projection_{_stride(m)}."),
    (r"\w+\.3\.extra_extractors\.(\d)\.", lambda m: f"extractor_{4 + int(m[1])}."),
    (r"interactions\.(\d)\.(\w+)\.", r"\2_\1."),
    (r"attn\.(sampling_)?(attention_)?(\w+?)(_proj)?\.", r"deformable.\3."),
    (r"deformable\.output\.", "deformable.out."),
    (r"feat_norm\.", "feature_norm."),
    (r"ffn_norm\.", "mlp_norm."),
    (r"ffn\.fc1\.", "conv_mlp.up."),
    (r"ffn\.fc2\.", "conv_mlp.down."),
    (r"ffn\.dwconv\.dwconv\.", "conv_mlp.depthwise."),
    (r"^up\.", "upscale."),
    (r"^norm(\d)\.", lambda m: f"norm_{_stride(m)}."),
    (r"level_embed$", "level_embedding"),
    (r"running_", ""),
    (r"(norm\w*\.)weight$", r"\1scale"),
    (r"weight$", "kernel"),
)


def _stride(match: re.Match) -> int:
    return 2 * 2 ** int(match[1])


class AdapterNetwork(nn.Module):
    """Gives an adapter the ViT that it is around."""

    vit: ViT
    adapter: ViTAdapter

    def __call__(self, images, train=False):
        return self.adapter(self.vit, images, train)

    def maps(self, pixels, train=False):
        """Returns the maps of normalised images."""
        return self.adapter.maps(self.vit, pixels, train)


def small_network(image_size=(64, 96), *, adapter=(), **fields) -> AdapterNetwork:
    """Returns the network of the golden files.

    Args:
      image_size: see ViT.
      adapter: other fields of the adapter.
      **fields: other fields of the ViT.
    """
    sizes = {"embed_dim": 64, "depth": 4, "num_heads": 4, "mlp_dim": 256}
    return AdapterNetwork(
        ViT(image_size=image_size, **(sizes | fields)),
        ViTAdapter(**({"num_heads": 4, "conv_dim": 16} | dict(adapter))),
    )


def adapter_path(name: str) -> str:
    """Returns our path, within the adapter, of one of D2's names."""
    for pattern, ours in _RENAMED:
        name = re.sub(pattern, ours, name)
    return name.replace(".", "/")


def adapter_variables(golden) -> dict:
    """Returns an adapter's "params" and "batch_stats" from a golden file's weights."""
    leaves = {}
    for name, weight in golden.items():
        if name.startswith("w/") and not name.startswith("w/vit."):
            path = adapter_path(name.removeprefix("w/"))
            kind = "batch_stats" if "running" in name else "params"
            leaves[f"{kind}/{path}"] = our_layout(path, weight)
    return unflatten_dict(leaves, sep="/")


def vit_params(golden, vit: ViT) -> dict:
    """Returns a ViT's parameters, without its final norm, from a golden file's."""
    sizes = Architecture(
        vit.embed_dim,
        vit.depth,
        vit.num_heads,
        vit.mlp_dim,
        vit.mlp_type,
        vit.patch_size,
        vit.grid_size,
        vit.num_register_tokens,
        vit.layer_norm_eps,
    )
    leaves = {
        path: TIMM.layout(path).to_ours(golden[f"w/vit.{name}"], sizes)
        for path, (name,) in TIMM.table_of(sizes).items()
        if not path.startswith("norm/")
    }
    shape = (*vit.grid_size, vit.embed_dim)
    leaves["position_embedding"] = leaves["position_embedding"].reshape(shape)
    return unflatten_dict(leaves, sep="/")


def network_variables(golden, model: AdapterNetwork) -> dict:
    """Returns the network's variables from a golden file's weights."""
    adapter = adapter_variables(golden)
    params = {"vit": vit_params(golden, model.vit), "adapter": adapter["params"]}
    return jax.device_put(
        {"params": params, "batch_stats": {"adapter": adapter["batch_stats"]}}
    )
