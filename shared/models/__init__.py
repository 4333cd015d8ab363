"""Networks by name, the same at every site.

Promises
- ``build(plan, output_channels, output)`` gives one network per plan and seed: one tensor in, (B, C, *spatial), one
  tensor out, (B, K, *spatial) or (B, K); never a list, a tuple or deep supervision.
- Nothing in a network remembers an image (no running statistics), and no image's output depends on its batch.
- What a plan can get wrong (name, channels, size, kind of output, frozen prefixes) is a ``ModelError`` before training.

============== ====== ============================ ============================================================
name           output model.channels               edges of image and patch
============== ====== ============================ ============================================================
cnn            image  1 to 8 stages                at least 2^(stages - 1)
whitened_cnn   image  1 to 7 stages + last width   at least 2^(stages - 1); a linear layer before the head
densenet121    image  fixed                        at least 32
resnet18       image  4 stages                     at least 32
resnet50       image  4 stages                     at least 32
unet           dense  2 to 8 levels                divisible by 2^(levels - 1); first layer halves the image
fine_unet      dense  3 to 8 levels                divisible by 2^(levels - 2); two levels at full resolution
basic_unet     dense  5 levels (+ last width)      at least 16; keeps full resolution, for fine structures
dynunet        dense  3 to 8 levels                divisible by 2^(levels - 1)
segresnet      dense  1 width, doubled per level   divisible by 8
attention_unet dense  2 to 8 even widths           divisible by 2^(levels - 1)
swin_unetr     dense  1 width, a multiple of 12    divisible by 32
============== ====== ============================ ============================================================

With instance norm the deepest level needs three voxels (``check_size``).

Left to others: what the output means (``shared.tasks``), training, exchange (``shared.arrays``).
"""

from __future__ import annotations

from shared.models.build import build, build_network, check_size, spec_of
from shared.models.norms import data_dependent_buffers, replace_norms, require_no_running_statistics
from shared.models.spec import ModelSpec
from shared.models.table import ARCHITECTURES
from shared.models.weights import freeze, load_pretrained, trainable

__all__ = [
    "ARCHITECTURES",
    "ModelSpec",
    "build",
    "build_network",
    "check_size",
    "data_dependent_buffers",
    "freeze",
    "load_pretrained",
    "replace_norms",
    "require_no_running_statistics",
    "spec_of",
    "trainable",
]
