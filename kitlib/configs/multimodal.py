"""PaLI and PaLI-X: a vision tower in front of an encoder-decoder, the published sizes and the kit's ladder."""

import dataclasses

from kitlib.configs.arguments import one_of
from kitlib.configs.language import T5Config, t5
from kitlib.configs.parts import Config
from kitlib.configs.vision import VIT22B_BLOCK, ViTConfig, vit


@dataclasses.dataclass(frozen=True, repr=False)
class PaLIXConfig(Config):
    """PaLI-X (2305.18565): images and text in, text out. One projection from D_v to D passes all patches to the
    encoder: n images or frames of k patches each are n * k visual tokens, in front of the text."""

    tower: ViTConfig  # pool="none", num_classes=0: its output is all its patches
    text: T5Config
    max_images: int = 16  # the largest n: images, frames or exemplars of one example
    # Learned vectors per row, column and image after the projection (`models.palix`): our departure for
    # small models, off for the published sizes.
    visual_positions: bool = False

    def __post_init__(self):
        self.check_fields(counts=("max_images",))
        if self.tower.pool != "none" or self.tower.num_classes or self.tower.representation_size:
            raise ValueError(
                "The tower gives all its patches, without a head; expected pool='none', num_classes=0 and "
                f"representation_size=0, got {self.tower!r}."
            )
        if self.tower.num_members:
            raise ValueError(f"The tower must not be an ensemble, got {self.tower.num_members} members.")


# The kit's ladder of sizes, with blocks of ViT-22B and an encoder-decoder of T5 1.1. Tower: width, depth, mlp_dim,
# heads, patch size, image size. Text: width, layers of each stack, mlp_dim, heads, head_dim, vocabulary size.
PALIX_LADDER = {
    "XS": ((64, 2, 256, 2, 8, 32), (64, 2, 128, 2, 32, 512)),  # unit tests
    "S": ((192, 4, 384, 6, 8, 64), (192, 4, 256, 6, 32, 2048)),  # trains on two CPU cores
    "M": ((384, 12, 1536, 6, 16, 224), (512, 8, 1024, 6, 64, 32128)),
    "L": ((768, 12, 3072, 12, 16, 224), (768, 12, 2048, 12, 64, 32128)),
    "XL": ((1152, 27, 4304, 16, 14, 224), (1024, 24, 2816, 16, 64, 32128)),
    # The text half of the 55B is inferred, since no paper states it: 50 + 50 layers are published, and the width, heads
    # and MLP of UL2-20B with mT5's vocabulary, untied, give the published "32B". The activation is assumed to be UL2's.
    "55B": ((6144, 48, 24576, 48, 14, 224), (4096, 50, 16384, 16, 256, 250112)),
}
# PaLI (2209.06794): towers of plain ViT blocks, and mT5 for the text.
PALI_MODELS = {"PaLI-3B": ("G/14", "mt5-large"), "PaLI-15B": ("G/14", "mt5-xxl"), "PaLI-17B": ("e/14", "mt5-xxl")}


def palix(name: str, *, tower: dict | None = None, text: dict | None = None, **overrides) -> PaLIXConfig:
    """PaLI-X of the kit's ladder ("XS", "S", "M", "L", "XL"), "55B", or PaLI ("PaLI-3B", "PaLI-15B", "PaLI-17B").

    tower, text: fields to change in the two halves, e.g. text={"vocab_size": 4096}; `overrides`: in `PaLIXConfig`.
    The ladder's sizes have `visual_positions`, the published ones do not.

    Raises ValueError for an unknown name or field, naming the nearest known one.
    """
    one_of("PaLI", name, PALIX_LADDER | PALI_MODELS)
    PaLIXConfig.check_names(overrides)
    for half, fields in (("tower", tower), ("text", text)):
        if fields is not None and not isinstance(fields, dict):
            raise ValueError(f"{half} is {fields!r}; expected a dictionary of the fields to change.")
    headless = {"pool": "none", "num_classes": 0}
    if name in PALI_MODELS:
        size, language = PALI_MODELS[name]
        return PaLIXConfig(vit(size, **headless | (tower or {})), t5(language, **text or {}), **overrides)
    (width, depth, mlp_dim, heads, patch, pixels), row = PALIX_LADDER[name]
    eyes = {"width": width, "depth": depth, "mlp_dim": mlp_dim, "num_heads": heads, "image_size": (pixels, pixels)}
    names = ("width", "num_encoder_layers", "num_decoder_layers", "mlp_dim", "num_heads", "head_dim", "vocab_size")
    words = dict(zip(names, (row[0], row[1], *row[1:]), strict=True))
    activation = {"activation": "silu" if name == "55B" else "gelu"}
    seeing = vit(f"22B/{patch}", **eyes | VIT22B_BLOCK | headless | (tower or {}))
    positions = {"visual_positions": name != "55B"}
    return PaLIXConfig(seeing, t5("tiny", **words | activation | (text or {})), **positions | overrides)
