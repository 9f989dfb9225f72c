"""Every field of a recipe, with the published COCO panoptic values of the method.

A recipe is a file with `get_config()` that takes this one and changes what differs. Each
field can be changed on the command line, `--config.batch_size=8`; the set of fields is
fixed, so a misspelt name is refused.

Numbers: arXiv 2503.19108 and its release, tue-mps/eomt at 7bd19dd.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The locked base of all recipes."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    # Side of the square that the network sees, in training and evaluation.
    config.image_size = 640
    # Over all devices.
    config.batch_size = 16
    # Passes over equal parts of the batch before each optimizer step: the same step in
    # less memory.
    config.accumulation = 1
    # The run's length: `total_steps`, or where that is 0 `epochs` passes over the split.
    # Learning rates, warm-ups and mask annealing follow from it.
    config.total_steps = 0
    config.epochs = 12
    # Where compiled programs are kept between runs; "" keeps none.
    config.compilation_cache = "~/.cache/eomt_jax"

    config.dataset = ml_collections.ConfigDict()
    config.dataset.name = "coco_panoptic"
    config.dataset.data_dir = "~/eomt_data"
    config.dataset.train_split = "train"
    config.dataset.eval_split = "validation"
    # A damaged image: "stop" with its id, or "replace" it by another and count it.
    config.dataset.on_damaged = "stop"
    # Readers of a process: threads (0: one for each core), in so many worker processes
    # (0: in the training process itself).
    config.dataset.num_threads = 0
    config.dataset.num_workers = 0
    # Targets that fit into a sample; 0 takes the most segments of any image prepared.
    config.dataset.max_targets = 0

    config.augmentation = ml_collections.ConfigDict()
    config.augmentation.scale_range = (0.1, 2.0)
    config.augmentation.color_jitter = False

    config.model = ml_collections.ConfigDict()
    # The kind of network, see eomt_jax/models/registry.py.
    config.model.name = "eomt"
    config.model.variant = "large"
    config.model.patch_size = 16
    config.model.num_queries = 200
    # Layers with masked attention, in an EoMT the blocks that see the queries; 0 takes
    # the number of the checkpoint or else of the variant.
    config.model.num_masked_layers = 0
    # Of the network's activations; parameters, norms and losses are float32 always.
    config.model.dtype = "bfloat16"
    # Recompute blocks and predictions in the backward pass: slower, much less memory.
    config.model.remat = False

    config.init = ml_collections.ConfigDict()
    # Pre-trained weights to start from: a DINOv2 or DINOv3 backbone, or a whole EoMT; a
    # file, a folder or a name on the Hugging Face hub. Both: the checkpoint is a delta to
    # that backbone. Neither: from scratch, with a warning unless `from_scratch` says that
    # it is meant. LayerScale then starts at 1, not at a published size's 1e-5.
    config.init.backbone = ""
    config.init.checkpoint = ""
    config.init.from_scratch = False
    # "keep" the checkpoint's class head, start a "new" one, keep the rows of classes that
    # have the same name ("by_name"), or "auto": keep it if its classes have the dataset's
    # names in the dataset's order, else a new one.
    config.init.class_head = "auto"

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.learning_rate = 1e-4
    config.optimizer.weight_decay = 0.05
    # Factor on the learning rate from each of the ViT's blocks to the one below it, and
    # how many of the last blocks keep the full rate all the same.
    config.optimizer.layer_decay = 0.8
    config.optimizer.undecayed_blocks = 0
    config.optimizer.clip_norm = 0.01
    config.optimizer.beta1 = 0.9
    config.optimizer.beta2 = 0.999
    config.optimizer.eps = 1e-8
    # Of Adam's two moments: "float32", or "bfloat16" in half the memory.
    config.optimizer.moments_dtype = "float32"
    # Warm-ups of what is outside the ViT and of the ViT, in steps of a run of
    # `published_steps`; a shorter run shortens them by the same factor.
    config.optimizer.warmup_head = 500
    config.optimizer.warmup_vit = 1000
    config.optimizer.power = 0.9
    config.optimizer.published_steps = 88_692
    # The embeddings and so many of the ViT's first blocks stay as they are; -1: the
    # whole ViT does.
    config.optimizer.frozen_blocks = 0

    config.annealing = ml_collections.ConfigDict()
    # Masked attention fades out over the run, block by block; False trains without it.
    config.annealing.enabled = True
    config.annealing.power = 0.9
    # The length that all its steps are fractions of, as a part of the run's: not every
    # list of the release is of the length that its data give.
    config.annealing.length = 1.0
    # The first block fades out from step 0 to this one of a run of `published_steps`; 0:
    # by the same rule as the others.
    config.annealing.first_block_end = 0

    config.criterion = ml_collections.ConfigDict()
    config.criterion.num_points = 12_544
    config.criterion.oversample_ratio = 3.0
    config.criterion.importance_ratio = 0.75
    config.criterion.mask_weight = 5.0
    config.criterion.dice_weight = 5.0
    config.criterion.class_weight = 2.0
    config.criterion.no_object_weight = 0.1
    config.criterion.matcher = "scipy"
    # Pixels of no segment and of crowds count neither as inside a mask nor as outside. The
    # release counts them as outside.
    config.criterion.ignore_void = False

    config.mesh = ml_collections.ConfigDict()
    # Devices along each axis; -1 takes what the others leave.
    config.mesh.data = -1
    config.mesh.fsdp = 1
    config.mesh.tensor = 1

    # Steps between the things below; 0 never does them. The last step does them all.
    config.checkpoint = ml_collections.ConfigDict()
    config.checkpoint.every_steps = 1000
    # And so many minutes after the last one.
    config.checkpoint.every_minutes = 0
    # The newest so many stay, and those of the best evaluations, each of which then
    # saves one. Where the best are kept, the run's folder stands for the best of them.
    config.checkpoint.keep = 3
    config.checkpoint.keep_best = 0

    config.eval = ml_collections.ConfigDict()
    config.eval.every_steps = 5000
    # Stop after so many evaluations in a row that are no better than the best before; 0
    # never does. Wants checkpoint.keep_best.
    config.eval.patience = 0
    config.eval.batch_size = 16
    # The first images of the split; 0 takes all of them.
    config.eval.num_images = 0
    # "panoptic", "instance" or "semantic"; "" takes the dataset's own.
    config.eval.task = ""
    # Computes only the part of the network's input that shows a photograph: faster where
    # photographs aren't square, not quite the same numbers. For one process.
    config.eval.skip_padding = False

    config.logging = ml_collections.ConfigDict()
    config.logging.every_steps = 50
    config.logging.picture_every_steps = 1000
    config.logging.num_pictures = 4
    return config.lock()


def get_dinov3_config() -> ml_collections.ConfigDict:
    """The locked base of recipes that start from DINOv3: other rates and warm-ups."""
    config = get_config()
    config.optimizer.learning_rate = 2e-4
    config.optimizer.warmup_head = 2000
    config.optimizer.warmup_vit = 3000
    return config
