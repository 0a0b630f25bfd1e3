"""Claims of Sparse Upcycling (arXiv 2212.05055), in the order of the paper.

Published figures are those of its abstract, its tables and its appendix B; curves without printed numbers have none.
"""

from kitlib.studies.registry import Claim
from kitlib.studies.registry_gated import PICTURES, REAL, RECALL, TEXT

FULL_SIZE = "needs JFT-300M or C4 and the published models; the kit compiles these sizes (notebook 16) only"
FINE_TUNING = "no study fine-tunes an upcycled ViT yet, but that of a real parent"
PROBE = "no study of upcycling measures few-shot accuracy yet; the probe itself is in notebook 11"

CLAIMS = (
    *PICTURES,
    *RECALL,
    *TEXT,
    *REAL,
    Claim(
        "introduction",
        "the gain is largest for 10 to 60 % of extra budget",
        "+10 % to +60 %",
        why_not="the stored curves have one parent's size and too few budgets to find a maximum",
    ),
    Claim(
        "introduction",
        "ViT-B/16: one point of ImageNet 10-shot accuracy",
        "+58 % of training time when dense, +13 % when upcycled",
        why_not=f"{FULL_SIZE}; {PROBE}",
    ),
    Claim(
        "introduction",
        "T5 Large and Base: 1.5 to 2 points of SuperGLUE over the dense model",
        "with 46 % and 55 % of extra training",
        why_not="no SuperGLUE in the kit: its tasks need a model of T5's size",
    ),
    Claim(
        "section 2",
        "each MLP becomes E equal experts, only the routers are new",
        "",
        "07.2",
        check="my_upcycle == surgery.apply",
    ),
    Claim(
        "model sizes",
        "ViT-B/16 with 32 experts in its last six blocks (1,000 classes)",
        "",
        "07.2",
        check="ViT-B/16, 32 experts in the last 6 blocks, 1,000 classes: number of parameters",
    ),
    Claim(
        "model sizes",
        "T5 Base with 32 experts in every other layer",
        "2.00B",
        "08.6",
        check="T5 Base, upcycled: number of parameters",
    ),
    Claim("section 3.1", "the same surgery in both stacks of a T5", "", "08.6", check="my_t5_upcycle == surgery.apply"),
    Claim(
        "section 3.1",
        "in a decoder tokens choose, because expert choice looks ahead",
        "",
        "06.4",
        check="top-2 with full capacity",
    ),
    Claim("figure 3", "the gain carries over to fine-tuning on ImageNet", "", why_not=FINE_TUNING),
    Claim(
        "figure 3",
        "the gain carries over to fine-tuning (here: the category of a dictionary's entry), on SuperGLUE",
        "",
        "08.10",
        ("text_downstream", "category: "),
    ),
    Claim(
        "figure 3",
        "the same for the language of a message, where pre-training itself does not help",
        "",
        "08.10",
        ("text_downstream", "language: "),
    ),
    Claim(
        "figure 6",
        "the gain hardly depends on how long the parent was trained (vision)",
        "",
        "07.8",
        ("vision_pretraining",),
    ),
    Claim("figure 6", "the same for language", "", "08.11", ("language_pretraining",)),
    Claim(
        "figure 8, section B.1",
        "language: expert choice beats top-1 and top-2",
        "",
        "08.11",
        ("language_routers", "expert choice"),
    ),
    Claim(
        "table 2, section B.1",
        "vision: with batch priority, top-K equals expert choice per step",
        "L/32, +7 epochs: 51.91 (C = 1), 51.51 (K = 1); 52.80 (C = 2), 52.88 (K = 2)",
        "07.8",
        ("vision_routers", "expert choice"),
    ),
    Claim(
        "table 2, section B.1", "top-K needs batch priority (vision)", "", "07.8", ("vision_routers", "batch priority")
    ),
    Claim("section B.1", "batch priority in language", "", "08.11", ("language_routers", "batch priority")),
    Claim(
        "table 2",
        "ImageNet 10-shot accuracy after +7 epochs",
        "dense 73.59, C = 1 74.04, C = 2 74.83; from scratch 72.95, 74.01",
        why_not=PROBE,
    ),
    Claim(
        "figure 9, section B.2",
        "vision, per step: more capacity is better",
        "",
        "07.8",
        ("vision_capacity", "C = 1 beats C = 5, per step", "C = 2 beats C = 5, per step"),
    ),
    Claim(
        "figure 9, section B.2",
        "vision, per cost: C = 2 and 3 are best",
        "",
        "07.8",
        ("vision_capacity", "C = 2 beats C = 1, per cost", "C = 2 beats C = 5, per cost"),
    ),
    Claim(
        "figure 9, section B.2",
        "vision, per cost: C = 1 against dense",
        "",
        "07.7",
        ("vision_capacity", "upcycled (C = 1) beats dense"),
    ),
    Claim("figure 9, section B.2", "language: C = 2 is best", "", "08.11", ("language_capacity", "C = ")),
    Claim(
        "figures 10 and 11, section B.3",
        "vision: more experts are better",
        "E from 2 to 128",
        "07.8",
        ("vision_experts",),
    ),
    Claim("section B.3", "language: more experts are better", "", "08.11", ("language_experts",)),
    Claim("figure 11", "few-shot accuracy flattens with the number of experts", "", why_not=PROBE),
    Claim(
        "figure 12, section B.4",
        "vision: experts in the last 40 to 50 % of the blocks are best",
        "last 5 or 6 of 12",
        "07.8",
        ("vision_blocks",),
    ),
    Claim("section B.4", "which layers of a T5", "every other layer", "08.11", ("language_blocks",)),
    Claim("figure 13, section B.5", "vision: copies beat random and half random experts", "", "07.8", ("vision_init",)),
    Claim("section B.5", "the same for language", "", "08.11", ("language_init",)),
    Claim(
        "section B.5",
        "a little noise on the copies changes nothing, much noise harms",
        "",
        why_not="the arms 'noise 0.25' and 'noise 1' are stored, but the paper's levels are not known",
    ),
    Claim(
        "figure 14, section B.6",
        "vision: resuming the optimiser's state helps",
        "",
        "07.8",
        ("vision_optimizer", "resumed moments"),
    ),
    Claim(
        "figure 14, section B.6",
        "what fresh moments do to dense training, and with both fresh (controls, not in the paper)",
        "",
        "07.8",
        ("vision_optimizer", "fresh moments", "upcycled beats dense"),
    ),
    Claim("section B.6", "language: resuming brings nothing", "", "08.11", ("language_optimizer", "resumed moments")),
    Claim(
        "section B.6",
        "the same controls for language",
        "",
        "08.11",
        ("language_optimizer", "fresh moments", "upcycled beats dense"),
    ),
    Claim("section B.7", "vision: renormalised combine weights are better", "", "07.8", ("vision_renormalize",)),
    Claim(
        "table 3, section B.7",
        "from scratch, renormalising does no harm (V-MoE-B/32)",
        "",
        why_not="no study trains a mixture from scratch with and without it",
    ),
    Claim(
        "section B.7",
        "language: renormalising does not help",
        "C4 accuracy 70.8 % without, 70.7 % with; SuperGLUE 79.3 % and 78.8 %",
        "08.11",
        ("language_renormalize",),
    ),
    Claim("section B.7", "0.3, 0.2, 0.1 become 0.5, 0.333, 0.167", "", "07.3", check="renormalised (section B.7)"),
    Claim(
        "figure 15",
        "renormalised and with enough capacity, the upcycled model is the dense model",
        "",
        "07.3",
        check="C = E: largest difference of logits",
    ),
    Claim(
        "figure 15",
        "accuracy at step 0 against capacity, with and without renormalising",
        "",
        "07.3",
        check="raw, C = 1",
    ),
    Claim(
        "section A.1.2",
        "the learning rate goes on where the parent stopped",
        "",
        "08.7",
        check="T5's learning rate by its formula: step 0 over step 10^6",
    ),
    Claim(
        "section A.1.2",
        "optimiser state: moments are copied like the experts",
        "",
        "07.5",
        check="resume: experts' second moments minus the parent's, max",
    ),
)
