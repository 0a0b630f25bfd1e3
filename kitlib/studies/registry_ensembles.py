"""Claims of Sparse MoEs meet Efficient Ensembles (arXiv 2110.03360, versions 1 and 2), and of the methods it compares.

Published figures are those of its abstracts, of its released code (google-research/vmoe) and of V-MoE (2106.05974). The
numbers in its tables were not at hand; see the paper for them.
"""

from kitlib.studies.registry import Claim

FULL_SIZE = (
    "needs JFT-300M or ImageNet and the published models; the kit compiles E3 H/14 (notebook 16), it does not train"
)
MEASURES = ("ECE", "corrupted: loss", "OOD: AUROC", "10 shots")  # of the efficient ensembles on a V-MoE


def _naming(item: str, claim: str, where: str, *beginnings: str, published: str = "") -> Claim:
    """A claim about models that are fine-tuned to name things in pictures (`studies.naming`)."""
    return Claim(item, claim, published, where, ("naming", *beginnings))


MEASURED = ("", "accuracy: ", "corrupted: loss: ", "ECE: ", "10 shots: ")

CLAIMS = (
    _naming("abstract", "mixtures and ensembles are complementary: two V-MoEs beat one", "10.6",
            "two V-MoEs beat one", "accuracy: two V-MoEs"),
    _naming("abstract", "complementary: an ensemble of V-MoEs beats one of ViTs", "10.6", "two V-MoEs beat two ViTs"),
    _naming("abstract", "complementary: an ensemble of E3s beats one of V-MoEs", "10.6", "two E3s beat two V-MoEs"),
    _naming("abstract", "E3 beats V-MoE in likelihood and accuracy", "10.6", "E3 beats V-MoE", "accuracy: E3"),
    _naming("abstract", "the same for what was never taught (a control, not in the paper)", "10.6", "never taught: "),
    _naming("abstract", "E3 beats V-MoE in calibration", "11.4", "ECE: E3 beats V-MoE"),
    _naming("abstract", "E3 beats V-MoE in few-shot accuracy", "11.4", "1 shot: E3", "5 shots: E3", "10 shots: E3"),
    _naming("abstract", "E3 is more robust than V-MoE to corrupted images", "11.4", "corrupted: loss: E3",
            "corrupted: ECE: E3"),
    _naming("abstract", "E3 detects OOD images better than V-MoE", "11.4", "OOD: AUROC: E3"),
    _naming("near OOD", "things never seen, beside known ones (the paper: CIFAR-10 against CIFAR-100)", "11.4",
            "things never seen: "),
    Claim("abstract", "from scratch a V-MoE of this size is no better than a ViT, so nothing can be asked of E3", "",
          "09.7", ("methods", "V-MoE beats ViT", "two V-MoEs", "E3 beats V-MoE", "two E3s")),
    _naming("2212.05055, figure 3", "an upcycled ViT is fine-tuned better than a dense one of the same cost", "07.8",
            "upcycled beats dense", "accuracy: upcycled"),
    _naming("2212.05055, figure 3", "the same for what was never taught (a control, not in the paper)", "07.8",
            "never taught: upcycled"),
    _naming("2212.05055, table 2", "10-shot accuracy of an upcycled ViT", "07.8", "10 shots: upcycled",
            published="ImageNet, +7 epochs: dense 73.59, C = 1 74.04, C = 2 74.83"),
    Claim(
        "abstract", "up to 45 % fewer FLOPs than a deep ensemble", "up to 45 %", "10.5",
        check="L/16, lazy: share of FLOPs that an E3 saves against two V-MoEs",
    ),
    Claim(
        "abstract, version 1", "30 to 43 % fewer FLOPs than a deep ensemble", "30 to 43 %", "10.5",
        check="S/32, block: share of FLOPs that an E3 saves against two V-MoEs",
    ),
    Claim("abstract", "E3 gains more in larger models (width 16 against 8)", "", "10.8",
          ("naming_sizes", *(f"{name}E3 gains more" for name in MEASURED))),
    Claim("abstract", "E3 against V-MoE, and V-MoE against ViT, in three widths", "", "10.8",
          ("naming_sizes", *(f"{name}width" for name in MEASURED))),
    Claim("abstract", "three widths: what was never taught (a control, not in the paper)", "", "10.8",
          ("naming_sizes", "never taught: ")),
    Claim(
        "abstract", "scales to 2.7B parameters: H/14 with experts in its last five odd blocks", "2.7B", "10.3",
        check="H/14, experts in blocks last-5: million parameters, E3 and V-MoE alike",
    ),
    Claim(
        "abstract", "that model's training step fits a TPU slice", "", "studies/test_pods.py",
        check="test_every_row_fits_and_was_compiled_within_a_minute_and_6_gib",
    ),
    _naming("abstract, version 1", "E3 matches a deep ensemble (here: two V-MoEs), for fewer FLOPs", "10.6",
            "E3 beats two V-MoEs"),
    _naming("equal FLOPs", "at equal training FLOPs, E3 against one V-MoE", "10.6", "E3 beats V-MoE, equal"),
    _naming("main experiments", "several pre-trainings (upstream) against several fine-tunings (downstream)", "10.6",
            "two pre-trainings"),
    _naming("version 1", "an E3 that is pre-trained as one, not made of a V-MoE (a control, not in the paper)", "10.6",
            "an E3 that is pre-trained", "pre-training as an E3", "never taught: pre-training", "accuracy: an E3",
            "corrupted: loss: an E3", "10 shots: an E3"),
    _naming("K x M study, version 1", "more members, or more experts per token?", "11.6", "members beat experts",
            "ECE: members", "corrupted: loss: members"),
    _naming("K x M study, version 1", "both add up", "11.6", "both: ", "ECE: both", "corrupted: loss: both"),
    _naming("K x M study, version 1", "four members against two in one E3", "10.6", "four members"),
    _naming("ablation", "partition and tiling are both needed", "10.7", "E3 beats tiling", "E3 beats partition"),
    _naming("ablation", "overlapping sets of experts, one router for all members", "10.7", "E3 beats overlap",
            "E3 beats ranked"),
    _naming("appendix D.1", "the mean of the members' losses is trained, not the loss of their mean", "10.7",
            "E3 beats loss of the mean", "members of the loss", "a member of the loss"),
    Claim(
        "method", "E3 with one member is the V-MoE", "", "10.3",
        check="number of logits that differ in any bit: E3 with M = 1 against its V-MoE",
    ),
    Claim(
        "method", "a member is a V-MoE of E / M experts", "", "10.3",
        check="largest difference of logits: member 0 against its V-MoE of 4 experts",
    ),
    Claim(
        "method", "members use disjoint experts", "", "10.2",
        check="largest probability that a token gives to experts of the other member",
    ),
    Claim("method", "the tiled layer, by hand", "", "10.2", check="E3 layer by hand"),
    Claim(
        "method", "an E3 has exactly the parameters of its V-MoE", "", "10.3",
        check="L/16, experts in blocks last-2: million parameters, E3 and V-MoE alike",
    ),
    Claim(
        "version 1", "a V-MoE's checkpoint starts an E3: the router is reshaped", "", "10.4",
        check="random logits: mean largest gate, softmax over all 32 experts (V-MoE)",
    ),
    Claim(
        "main experiments", "pre-train, then fine-tune: ImageNet, CIFAR-10 and -100, Oxford pets", "",
          why_not=FULL_SIZE,
    ),
    Claim(
        "released checkpoint", "E3 S/32 fine-tuned on CIFAR-100", "81.31 % (mean of three), 81.26 % (the released one)",
        why_not="the bucket with the weights cannot be reached from here",
    ),
    Claim(
        "efficient ensembles", "BatchEnsemble beats one ViT in likelihood", "", "09.7",
        ("methods", "BatchEnsemble beats ViT"),
    ),
    Claim(
        "efficient ensembles", "BatchEnsemble in calibration, on corrupted and OOD images, with few shots", "", "11.4",
        ("methods", "ECE: BatchEnsemble", "corrupted: loss: BatchEnsemble", "corrupted: ECE: BatchEnsemble",
          "OOD: AUROC: BatchEnsemble", "1 shot: BatchEnsemble", "5 shots: BatchEnsemble", "10 shots: BatchEnsemble"),
    ),
    Claim("efficient ensembles", "MIMO beats one ViT in likelihood", "", "09.7", ("methods", "MIMO beats ViT")),
    Claim(
        "efficient ensembles", "MIMO in calibration, on corrupted and OOD images, with few shots", "", "11.4",
        ("methods", "ECE: MIMO", "corrupted: loss: MIMO", "corrupted: ECE: MIMO", "OOD: AUROC: MIMO", "1 shot: MIMO",
          "5 shots: MIMO", "10 shots: MIMO"),
    ),
    Claim(
        "efficient ensembles", "MC dropout against one ViT, and eight passes against dropout switched off", "", "09.7",
        ("methods", "8 passes of MC dropout beat a ViT", "8 passes", "dropout (off at test time)"),
    ),
    Claim(
        "efficient ensembles", "MC dropout in calibration, on corrupted and OOD images, with few shots", "", "11.4",
        ("methods", "ECE: 8 passes", "corrupted: loss: 8 passes", "corrupted: ECE: 8 passes",
          "OOD: AUROC: 8 passes", "1 shot: 8 passes", "5 shots: 8 passes", "10 shots: 8 passes"),
    ),
    _naming("efficient ensembles", "BatchEnsemble on a V-MoE, fine-tuned", "11.4", "BatchEnsemble beats V-MoE",
            *(f"{measure}: BatchEnsemble" for measure in MEASURES)),
    _naming("efficient ensembles", "MIMO on a V-MoE, fine-tuned", "11.4", "MIMO beats V-MoE",
            *(f"{measure}: MIMO" for measure in MEASURES)),
    _naming("efficient ensembles", "MC dropout on a V-MoE, fine-tuned", "11.4", "8 passes of MC dropout beat",
            *(f"{measure}: 8 passes" for measure in MEASURES)),
    Claim(
        "deep ensembles", "two ViTs beat one in likelihood and accuracy", "", "09.7",
        ("methods", "two ViTs beat one", "accuracy: two ViTs"),
    ),
    Claim(
        "deep ensembles", "two ViTs in calibration, clean and corrupted", "", "11.4",
        ("methods", "ECE: two ViTs", "corrupted: loss: two ViTs", "corrupted: ECE: two ViTs"),
    ),
    Claim(
        "deep ensembles", "two ViTs on OOD images and with few shots", "", "11.4",
        ("methods", "OOD: AUROC: two", "1 shot: two", "5 shots: two", "10 shots: two"),
    ),
    _naming("V-MoE", "V-MoE beats ViT in likelihood and accuracy, fine-tuned", "10.6", "V-MoE beats ViT",
            "accuracy: V-MoE"),
    _naming("V-MoE", "V-MoE alone is no better calibrated or more robust than a ViT", "11.4", "ECE: V-MoE",
            "corrupted: loss: V-MoE", "corrupted: ECE: V-MoE", "OOD: AUROC: V-MoE", "1 shot: V-MoE", "5 shots: V-MoE",
            "10 shots: V-MoE"),
    _naming("deep ensembles", "two ViTs beat one, fine-tuned", "10.6", "two ViTs beat one"),
    _naming("deep ensembles", "two V-MoEs in calibration, on corrupted and OOD images, with few shots", "11.4",
            "ECE: two", "corrupted: loss: two", "corrupted: ECE: two", "OOD: AUROC: two", "1 shot: two", "5 shots: two",
            "10 shots: two"),
    Claim(
        "metrics", "OOD detection: AUROC, AUPRC, FPR95 as in scikit-learn", "", "11.2", check="AUROC of scikit-learn",
    ),
    Claim("metrics", "corruption error, relative to a baseline", "", "11.1", check="mean corruption error"),
    Claim(
        "metrics", "few-shot probe: ridge regression in closed form", "", "11.3",
        check="largest difference of ridge weights, the library's against the N x N system's",
    ),
    Claim(
        "appendix, Jensen", "the loss of the mean is at most the mean loss", "", "09.1",
        check="number of 1,000 random examples with the mean's loss above the mean loss",
    ),
    Claim(
        "BatchEnsemble (2002.06715)", "a rank-one factor per member", "", "09.5",
        check="explicit_rank_one == batch_ensemble.rank_one_dense",
    ),
    Claim(
        "MIMO (2010.06610)", "several images stacked into one", "", "09.6",
        check="stacked_embedding == sum_of_embeddings",
    ),
    Claim(
        "V-MoE (2106.05974), table of sizes", "parameters of S/32 to H/14, every-2", "36.5M to 7,160.8M", "05.3",
        check="H/14, every-2: million parameters",
    ),
    Claim(
        "V-MoE (2106.05974), abstract", "a model of 15B parameters", "15B", "05.3",
        check="V-MoE-15B: billion parameters",
    ),
    Claim(
        "V-MoE (2106.05974)", "a V-MoE beats its dense twin at equal FLOPs", "", "05.4",
        check="10,000 training pictures, test loss: sparse beats dense",
    ),
    Claim(
        "V-MoE (2106.05974)", "experts need data: the gain over a ViT appears with more images",
        "vanishes at about 9M images, appears from about 30M", "11.5", ("data",),
    ),
    Claim(
        "V-MoE (2106.05974), section 4", "batch priority helps when capacity is short", "", "04.10",
        check="test accuracy at factor 0.25: priority beats position",
    ),
    Claim(
        "V-MoE (2106.05974), section 5", "late experts specialise in classes", "", "05.6",
        check="late MoE block: mutual information of a test token's expert and class",
    ),
)  # fmt: skip
