"""Describes NVIDIA's cards, by their data sheets, in the form that XLA reads."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Card:
    """One GPU.

    Attributes:
      product: its name in CUDA.
      capability: compute capability, (major, minor).
      multiprocessors: number of multiprocessors.
      clock: boost clock in GHz.
      memory: GiB that CUDA reports, which is less than the advertised round number.
      bandwidth: bytes a second of that memory.
      cache: MiB of the second-level cache.
      flops: FLOPs a second of dense bfloat16 products with float32 sums, or of float32
        products if the tensor cores have no bfloat16.
      link_bandwidth: bytes a second that it sends to other cards of its machine.
    """

    product: str
    capability: tuple[int, int]
    multiprocessors: int
    clock: float
    memory: float
    bandwidth: float
    cache: int
    flops: float
    link_bandwidth: float

    @property
    def memory_bytes(self) -> int:
        return round(self.memory * 2**30)

    @property
    def has_bfloat16(self) -> bool:
        return self.capability >= (8, 0)


# Multiprocessors, clocks, caches, bandwidths and peaks are from NVIDIA's data sheets
# and white papers (H100, H200, A100, L40S, L4, A10G, RTX A6000, T4; Ada, GA102, RTX
# Blackwell). Memory is totalGlobalMem of the target configs in openxla/xla (H200, H100,
# both A100, A6000), and for other cards what PyTorch reports in users' messages, with
# ECC if it is on by default. Links are half of NVLink's published number on SXM boards,
# and PCIe's number for one direction on others.
CARDS = {
    "h200": Card("NVIDIA H200", (9, 0), 132, 1.98, 141.0, 4800e9, 50, 989e12, 450e9),
    "h100": Card(
        "NVIDIA H100 80GB HBM3", (9, 0), 132, 1.98, 79.11, 3352e9, 50, 989e12, 450e9
    ),
    "a100": Card(
        "NVIDIA A100-SXM4-80GB", (8, 0), 108, 1.41, 79.26, 2039e9, 40, 312e12, 300e9
    ),
    "a100_40gb": Card(
        "NVIDIA A100-SXM4-40GB", (8, 0), 108, 1.41, 39.42, 1555e9, 40, 312e12, 300e9
    ),
    "a6000": Card("NVIDIA RTX A6000", (8, 6), 84, 1.8, 47.54, 768e9, 6, 154.8e12, 32e9),
    "l40s": Card("NVIDIA L40S", (8, 9), 142, 2.52, 44.39, 864e9, 96, 362e12, 32e9),
    "rtx5090": Card(
        "NVIDIA GeForce RTX 5090", (12, 0), 170, 2.41, 31.36, 1792e9, 96, 209.5e12, 64e9
    ),
    "rtx4090": Card(
        "NVIDIA GeForce RTX 4090", (8, 9), 128, 2.52, 23.64, 1008e9, 72, 165.2e12, 32e9
    ),
    "rtx3090": Card(
        "NVIDIA GeForce RTX 3090", (8, 6), 82, 1.7, 23.69, 936e9, 6, 71e12, 32e9
    ),
    "a10g": Card("NVIDIA A10G", (8, 6), 80, 1.71, 22.19, 600e9, 6, 70e12, 32e9),
    "l4": Card("NVIDIA L4", (8, 9), 58, 2.04, 22.03, 300e9, 48, 121e12, 32e9),
    "rtx4080": Card(
        "NVIDIA GeForce RTX 4080", (8, 9), 76, 2.51, 15.6, 716.8e9, 64, 97.5e12, 32e9
    ),
    "t4": Card("Tesla T4", (7, 5), 40, 1.59, 14.76, 320e9, 4, 8.1e12, 16e9),
}

# Numbers for one multiprocessor: float32 lanes, threads, bytes of shared memory, and
# how many of these one block can have (CUDA C++ Programming Guide, technical
# specifications).
_GENERATIONS = {
    (7, 5): (64, 1024, 65_536, 65_536),
    (8, 0): (64, 2048, 167_936, 166_912),
    (8, 6): (128, 1536, 102_400, 101_376),
    (8, 9): (128, 1536, 102_400, 101_376),
    (9, 0): (128, 2048, 233_472, 232_448),
    (12, 0): (128, 1536, 102_400, 101_376),
}


def target_config(card: Card) -> str:
    """Returns the card as the text of a GpuTargetConfigProto of openxla/xla."""
    major, minor = card.capability
    lanes, threads, shared, block_shared = _GENERATIONS[card.capability]
    features = "ACCELERATED_FEATURES" if major >= 9 else "NONE"
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {shared}
  shared_memory_per_block_optin: {block_shared}
  threads_per_core_limit: {threads}
  core_count: {card.multiprocessors}
  fpus_per_core: {lanes}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  memory_bandwidth: {card.bandwidth:.0f}
  l2_cache_size: {card.cache * 2**20}
  clock_rate_ghz: {card.clock}
  device_memory_size: {card.memory_bytes}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  cuda_compute_capability {{
    major: {major}
    minor: {minor}
    feature_extension: {features}
  }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 patch: 0 }}
device_description_str: "{card.product}"
"""
