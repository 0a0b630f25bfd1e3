"""The configuration of every model of the kit by name: frozen dataclasses, published sizes and their sources.

    vit("B/16")                                  # ViT-Base, 16-pixel patches, 1,000 classes, class token
    vit("g/14", num_classes=29593, pool="map")   # the JFT-3B model of "Scaling Vision Transformers"
    vit("22B/14", num_classes=0)                 # the vision tower of PaLI-X
    vmoe("B/16", "every-2")                      # V-MoE-Base with 32 experts in every other block
    e3("B/16", "every-2", num_members=2)         # the same with its experts divided among two members
    t5("1.1-base")                               # T5 1.1 Base, an encoder-decoder
    sparse_t5("1.1-base")                        # the same with 32 experts in every other layer of both stacks
    palix("S")                                   # PaLI-X, small enough to train on two CPU cores; "55B" is published

`vision`, `language` and `multimodal` have these models, `parts` the configurations of experts and members in them,
`arguments` the errors for unknown names, and for flags and numbers that are none.

Built in notebooks/01_vit_from_pixels_to_logits.ipynb (ViT), notebooks/05_v_moe.ipynb (mixtures of experts) and
notebooks/08_t5_and_upcycling.ipynb (T5).
"""

from kitlib.configs.language import T5_DECODER_MOE, T5_ENCODER_MOE, T5_MODELS, T5_SIZES, T5Config, sparse_t5, t5
from kitlib.configs.multimodal import PALI_MODELS, PALIX_LADDER, PaLIXConfig, palix
from kitlib.configs.parts import BatchEnsembleConfig, E3Config, MoEConfig
from kitlib.configs.vision import VIT22B_BLOCK, VIT_SIZES, ViTConfig, e3, vit, vmoe
