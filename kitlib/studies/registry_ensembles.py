"""Claims of Sparse MoEs meet Efficient Ensembles (arXiv 2110.03360, versions 1 and 2), and of the methods it compares.

Published figures are those of its abstracts, of its released code (google-research/vmoe) and of V-MoE (2106.05974). The
numbers in its tables were not at hand; see the paper for them.
"""

from kitlib.studies.registry import Claim

FULL_SIZE = (
    "needs JFT-300M or ImageNet and the published models; the kit compiles E3 H/14 (notebook 16), it does not train"
)
ON_VMOE = "the stored study has this method on a ViT alone, not on a V-MoE"

CLAIMS = (
    Claim(
        "abstract", "mixtures and ensembles are complementary: two V-MoEs beat one", "", "09.7",
        ("methods", "two V-MoEs beat one", "accuracy: two V-MoEs"),
    ),
    Claim(
        "abstract", "complementary: an ensemble of V-MoEs beats one of ViTs", "", "09.7",
        ("methods", "two V-MoEs beat two ViTs"),
    ),
    Claim(
        "abstract", "complementary: an ensemble of E3s beats one of V-MoEs", "", "09.7",
        ("methods", "two E3s beat two V-MoEs"),
    ),
    Claim("abstract", "E3 beats V-MoE in likelihood", "", "09.7", ("methods", "E3 beats V-MoE")),
    Claim(
        "abstract", "E3 beats V-MoE in accuracy (and, in the same study, in likelihood)", "", "10.6",
        ("ablations", "accuracy: E3 beats V-MoE", "E3 beats V-MoE"),
    ),
    Claim("abstract", "E3 beats V-MoE in calibration", "", "11.4", ("methods", "ECE: E3 beats V-MoE")),
    Claim(
        "abstract", "E3 beats V-MoE in few-shot accuracy", "", "11.4",
        ("methods", "1 shot: E3", "5 shots: E3", "10 shots: E3"),
    ),
    Claim(
        "abstract", "E3 is more robust than V-MoE to corrupted images", "", "11.4",
        ("methods", "corrupted: loss: E3", "corrupted: ECE: E3"),
    ),
    Claim("abstract", "E3 detects OOD images better than V-MoE", "", "11.4", ("methods", "OOD: AUROC: E3")),
    Claim(
        "abstract", "up to 45 % fewer FLOPs than a deep ensemble", "up to 45 %", "10.5",
        check="L/16, lazy: share of FLOPs that an E3 saves against two V-MoEs",
    ),
    Claim(
        "abstract, version 1", "30 to 43 % fewer FLOPs than a deep ensemble", "30 to 43 %", "10.5",
        check="S/32, block: share of FLOPs that an E3 saves against two V-MoEs",
    ),
    Claim("abstract", "E3 gains more in larger models", "", "10.7", ("sizes", "size ", "E3 saves more")),
    Claim(
        "abstract", "scales to 2.7B parameters: H/14 with experts in its last five odd blocks", "2.7B", "10.3",
        check="H/14, experts in blocks last-5: million parameters, E3 and V-MoE alike",
    ),
    Claim(
        "abstract", "that model's training step fits a TPU slice", "", "studies/test_pods.py",
        check="test_every_row_fits_and_was_compiled_within_a_minute_and_6_gib",
    ),
    Claim(
        "abstract, version 1", "at equal training FLOPs E3 matches a deep ensemble (here: two V-MoEs)", "", "10.8",
        ("flops", "equal FLOPs: E3 beats two V-MoEs"),
    ),
    Claim(
        "equal FLOPs", "at equal training FLOPs, E3 against one V-MoE", "", "10.8",
        ("flops", "equal FLOPs: E3 beats V-MoE", "equal FLOPs, accuracy: E3", "equal FLOPs, ECE: E3",
          "equal FLOPs, corrupted: loss: E3", "equal FLOPs, 10 shots: E3"),
    ),
    Claim(
        "equal FLOPs", "at equal training FLOPs, two V-MoEs or E3s against one or two V-MoEs", "", "10.8",
        ("flops", "equal FLOPs: two", "equal FLOPs, accuracy: two", "equal FLOPs, ECE: two",
          "equal FLOPs, corrupted: loss: two", "equal FLOPs, 10 shots: two"),
    ),
    Claim(
        "K x M study, version 1", "more members and more experts per token: both help, and add up (separate V-MoEs)",
        "", "11.6", ("map", "V-MoEs, "),
    ),
    Claim("K x M study, version 1", "the same inside one E3", "", "11.6", ("map", "E3, ")),
    Claim(
        "ablation", "partition and tiling are both needed", "", "10.6",
        ("ablations", "E3 beats tiling only", "E3 beats partition only"),
    ),
    Claim(
        "ablation", "overlapping sets of experts, one router for all members", "", "10.6",
        ("ablations", "E3 beats overlap", "E3 beats ranked"),
    ),
    Claim(
        "appendix D.1", "the mean of the members' losses is trained, not the loss of their mean", "", "10.6",
        ("ablations", "E3 beats loss of the mean", "loss of the mean"),
    ),
    Claim(
        "released code", "experts that start equal (split_rngs=False)", "", "10.6", ("ablations",
          "E3 beats same start"),
    ),
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
        "main experiments", "upstream ensembles (several pre-trainings) beat downstream ones (several fine-tunings)",
        "", why_not="no study pre-trains once and fine-tunes several times",
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
    Claim("efficient ensembles", "BatchEnsemble on a V-MoE", "", why_not=ON_VMOE),
    Claim("efficient ensembles", "MIMO on a V-MoE", "", why_not=ON_VMOE),
    Claim("efficient ensembles", "MC dropout on a V-MoE", "", why_not=ON_VMOE),
    Claim(
        "deep ensembles", "two ViTs beat one in likelihood and accuracy", "", "09.7",
        ("methods", "two ViTs beat one", "accuracy: two ViTs"),
    ),
    Claim(
        "deep ensembles", "two models in calibration, clean and corrupted", "", "11.4",
        ("methods", "ECE: two", "corrupted: loss: two", "corrupted: ECE: two"),
    ),
    Claim(
        "deep ensembles", "two models on OOD images and with few shots", "", "11.4",
        ("methods", "OOD: AUROC: two", "1 shot: two", "5 shots: two", "10 shots: two"),
    ),
    Claim("V-MoE", "V-MoE against ViT in likelihood", "", "09.7", ("methods", "V-MoE beats ViT")),
    Claim(
        "V-MoE", "V-MoE alone is no better calibrated or more robust than a ViT", "", "11.4",
        ("methods", "ECE: V-MoE", "corrupted: loss: V-MoE", "corrupted: ECE: V-MoE", "OOD: AUROC: V-MoE",
          "1 shot: V-MoE", "5 shots: V-MoE", "10 shots: V-MoE"),
    ),
    Claim(
        "near OOD", "CIFAR-10 against CIFAR-100, ImageNet against Places365", "",
        why_not="no study leaves out classes of one data set (near OOD); the kit's OOD sets are other kinds of images",
    ),
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
