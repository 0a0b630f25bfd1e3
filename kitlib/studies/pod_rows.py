"""The rows of data/results/pods.csv: the largest published sizes of the three papers, on slices that exist.

Each model is on at least two slices, with a mesh on which it fits. Sizes and batches are the papers' where they state
them (V-MoE and E3: the classes of JFT-300M and a batch of 4,096; ViT-22B: a batch of 65,536 on 1,024 TPU v4). PaLI-X
states neither batch nor lengths: 2,048 is what RT-2 (2307.15818) fine-tuned the 55B with, 512 and 512 are UL2's, for
stage 1. Meshes are ours.

The ladder is for machines that people have: a v5e-8 (v5e:2x4), and one GPU with 80 GB, whose memory is measured with
the compiler of one v5p chip: no GPU is compiled for. Its batch is the largest power of two that fits.
"""

from kitlib import configs
from kitlib.configs import MoEConfig, PaLIXConfig
from kitlib.configs.parts import DEEP
from kitlib.studies.pod_formulas import Pod

JFT = {"num_classes": 29_593, **DEEP}  # JFT-3B
JFT_300M = {"num_classes": 18_291, "pool": "gap", **DEEP}
CHOICE = MoEConfig(num_experts=32, transport="bfloat16")  # V-MoE: K = 1, capacity factor 1.05
UPCYCLED = MoEConfig(
    num_experts=32, router="expert_choice", capacity_factor=2.0, renormalize=True, noise_std=0.0, transport="bfloat16"
)
ODD = tuple(range(1, 24, 2))


def _pali_x() -> PaLIXConfig:
    return configs.palix("55B", tower=DEEP, text=DEEP)


def _upcycled_t5():
    encoder = configs.T5_ENCODER_MOE.replace(num_experts=32, transport="bfloat16")
    decoder = configs.T5_DECODER_MOE.replace(num_experts=32, transport="bfloat16")
    sparse = {"moe": encoder, "moe_layers": ODD, "decoder_moe": decoder, "decoder_moe_layers": ODD}
    return configs.t5("1.1-xl", **sparse, **DEEP)


VIT_22B = configs.vit("22B/14", pool="map", **JFT)
VMOE_15B = configs.vmoe("VMoE-15B/14", "every-2", CHOICE, pool="gap", **JFT)
VMOE_L16 = configs.vmoe("L/16", "last-2", CHOICE, representation_size=1_024, **JFT_300M)
VMOE_H14 = configs.vmoe("H/14", "last-5", CHOICE, representation_size=1_280, **JFT_300M)
E3_H14 = configs.e3("H/14", "last-5", 2, CHOICE, representation_size=1_280, **JFT_300M)
UPCYCLED_L16 = configs.vit("L/16", moe=UPCYCLED, moe_blocks=tuple(range(12, 24)), **JFT_300M)

STAGE_1 = (512, 512), ("tower/",)  # lengths; the tower is frozen

# One batch on 256 to 4,096 chips: the scaling curve of notebook 16.
SCALING = tuple(
    Pod("ViT-22B, batch 16,384", VIT_22B, name, {"fsdp": chips // 4, "tensor": 4}, 16_384, "adafactor-momentum")
    for name, chips in (("v5p:4x8x8", 256), ("v5p:8x8x8", 512), ("v5p:8x8x16", 1_024), ("v5p:16x16x16", 4_096))
)

ROWS = (
    Pod("ViT-22B", VIT_22B, "v5p:4x8x8", {"fsdp": 64, "tensor": 4}, 1_024, "adafactor-momentum"),
    Pod("ViT-22B", VIT_22B, "v4:8x8x16", {"data": 4, "fsdp": 256}, 65_536, "adafactor-momentum"),
    *SCALING,
    Pod("PaLI-X 55B", _pali_x(), "v5p:8x8x8", {"fsdp": 128, "tensor": 4}, 512, "adafactor", (64, 64)),
    Pod("PaLI-X 55B", _pali_x(), "v4:8x8x8", {"fsdp": 128, "tensor": 4}, 512, "adafactor", (64, 64)),
    Pod("PaLI-X 55B, stage 1", _pali_x(), "v5p:8x8x16", {"fsdp": 256, "tensor": 4}, 2_048, "adafactor", *STAGE_1),
    Pod("PaLI-X 55B, stage 1", _pali_x(), "v4:8x16x16", {"fsdp": 512, "tensor": 4}, 2_048, "adafactor", *STAGE_1),
    Pod("V-MoE 15B", VMOE_15B, "v5e:16x16", {"fsdp": 8, "expert": 32}, 4_096, "adafactor-momentum"),
    Pod("V-MoE 15B", VMOE_15B, "v4:4x8x8", {"fsdp": 8, "expert": 32}, 4_096, "adafactor-momentum"),
    Pod("V-MoE L/16", VMOE_L16, "v5e:8x8", {"data": 2, "expert": 32}, 4_096, "adamw"),
    Pod("V-MoE L/16", VMOE_L16, "v4:4x4x4", {"data": 2, "expert": 32}, 4_096, "adamw"),
    Pod("V-MoE H/14", VMOE_H14, "v5e:8x16", {"data": 4, "expert": 32}, 4_096, "adamw"),
    Pod("V-MoE H/14", VMOE_H14, "v4:4x4x8", {"data": 4, "expert": 32}, 4_096, "adamw"),
    Pod("E3 H/14", E3_H14, "v5e:8x16", {"data": 4, "expert": 32}, 4_096, "adamw"),
    Pod("E3 H/14", E3_H14, "v4:4x4x8", {"data": 4, "expert": 32}, 4_096, "adamw"),
    Pod("upcycled T5-XL", _upcycled_t5(), "v5e:16x16", {"fsdp": 8, "expert": 32}, 512, "adafactor", (512, 114)),
    Pod("upcycled T5-XL", _upcycled_t5(), "v4:4x8x8", {"fsdp": 8, "expert": 32}, 512, "adafactor", (512, 114)),
    Pod("upcycled ViT-L/16", UPCYCLED_L16, "v5e:8x8", {"data": 2, "expert": 32}, 4_096, "adamw"),
    Pod("upcycled ViT-L/16", UPCYCLED_L16, "v4:4x4x4", {"data": 2, "expert": 32}, 4_096, "adamw"),
)  # fmt: skip

FEW = MoEConfig(num_experts=8, group_size=4_096, transport="bfloat16")
SMALL_VMOE = configs.vmoe("B/16", "every-2", FEW, pool="gap", num_classes=1_000, **DEEP)
STEPS = (  # models of the ladder: name, configuration, optimiser, lengths, mesh on a v5e-8
    ("ViT-L/16", configs.vit("L/16", pool="gap", num_classes=1_000, **DEEP), "adamw", (0, 0), {"fsdp": 8}),
    ("ViT-H/14", configs.vit("H/14", pool="gap", num_classes=1_000, **DEEP), "adamw", (0, 0), {"fsdp": 8}),
    ("V-MoE B/16, E=8", SMALL_VMOE, "adamw", (0, 0), {"expert": 8}),
    ("T5 1.1-large", configs.t5("1.1-large", **DEEP), "adafactor", (512, 114), {"fsdp": 8}),
    ("PaLI-X L", configs.palix("L", tower=DEEP, text=DEEP), "adafactor", (64, 64), {"fsdp": 8}),
    ("PaLI-X XL", configs.palix("XL", tower=DEEP, text=DEEP), "adafactor", (64, 64), {"fsdp": 8}),
)
LADDER = tuple(
    Pod(name, config, topology, mesh, 0, optimizer, lengths)
    for name, config, optimizer, lengths, on_eight in STEPS
    for topology, mesh in (("v5e:2x4", on_eight), ("gpu:80GB", {"data": 1}))
)
