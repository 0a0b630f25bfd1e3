"""Claims of PaLI-X (arXiv 2305.18565), of ViT-22B (2302.05442), whose tower it has, and of UL2 (2205.05131).

Published figures are those that the papers' abstracts, or later papers' comparison tables, quote; what is known from
neither is left out.
"""

from kitlib.studies.registry import Claim

BENCHMARK = "needs the public set and a model of the paper's size; the set can be loaded (`kit train palix --data`)"
NO_SET = "the kit has no counterpart of this set"

CLAIMS = (
    Claim("abstract", "ViT-22B tower and a 32B encoder-decoder: 55B in all", "55B", "13.3", check="PaLI-X 55B, all"),
    Claim("model", "the text model has 32B parameters", "32B", "13.3", check="PaLI-X 55B, text"),
    Claim(
        "model",
        "pictures are visual tokens before the prompt's; one linear map in between",
        "",
        "13.1",
        check="PaLI-X by hand",
    ),
    Claim(
        "model",
        "n frames are n times k visual tokens, without pooling",
        "",
        "13.1",
        check="largest difference between a video's visual tokens and those of its frames",
    ),
    Claim("model", "the loss is on the answer", "", "13.2", check="loss by hand"),
    Claim(
        "model",
        "one linear map is enough (asked by PaliGemma, 2407.07726: 77.2 against 77.1)",
        "77.2 linear, 77.1 with an MLP",
        "13.8",
        ("connector",),
    ),
    Claim(
        "size",
        "the training step fits TPU slices",
        "",
        "studies/test_pods.py",
        check="test_every_row_fits_and_was_compiled_within_a_minute_and_6_gib",
    ),
    Claim(
        "ViT-22B (2302.05442)",
        "the blocks' matrices have 21,743M parameters",
        "21,743M",
        "12.5",
        check="number of parameters in the blocks' matmuls, 12 D^2 L",
    ),
    Claim(
        "ViT-22B (2302.05442)", "attention and MLP in parallel, as one matmul each", "", "12.1", check="parallel block"
    ),
    Claim(
        "ViT-22B (2302.05442)",
        "parallel blocks are faster",
        "15 %",
        why_not="the gain is that of fused matmuls on TPUs; on two CPU cores it would say nothing",
    ),
    Claim(
        "ViT-22B (2302.05442)",
        "parallel blocks cost no quality",
        "",
        "12.4",
        check="learning rate 0.01: held-out loss lower with parallel blocks",
    ),
    Claim(
        "ViT-22B (2302.05442)",
        "QK-norm bounds attention logits, which else reach 50,000",
        "over 50,000",
        "12.3",
        check="rate 0.3, without QK-norm: log10 of the largest attention logit",
    ),
    Claim(
        "ViT-22B (2302.05442)",
        "without QK-norm a model of 8B parameters diverges",
        "",
        "12.3",
        check="without QK-norm: learning rate sensitivity",
    ),
    Claim(
        "ViT-22B (2302.05442)",
        "model FLOPs utilisation of 54.9 %",
        "54.9 %",
        "16.7",
        check="ViT-22B: model FLOPs utilisation, %",
    ),
    Claim(
        "UL2 (2205.05131)",
        "seven denoisers with mode tokens",
        "",
        "08.2",
        check="number of texts, of 100, that my_corrupt and the library corrupt differently",
    ),
    Claim(
        "T5 (1910.10683)",
        "lengths 568, 512, 114 of span corruption",
        "568, 512, 114",
        "08.2",
        check="T5's lengths 568, 512, 114",
    ),
    Claim(
        "T5 (1910.10683)",
        "relative positions in 32 buckets",
        "",
        "08.3",
        check="encoder: number of wrong buckets of distances, of 13 published",
    ),
    Claim(
        "mixture",
        "thirteen objectives as prompts and answers",
        "",
        "14.1",
        check="captions: number of examples built by hand otherwise than by the kit",
    ),
    Claim("mixture", "objectives are drawn by weight", "", "14.4", check="chi-square of the counts"),
    Claim("OCR tuning", "the tower learns to read before the mixture", "", "14.11", ("ocr_tuning",)),
    Claim(
        "stages",
        "a second stage at higher resolution helps tasks with text",
        "224, then 448 to 756 px",
        "14.11",
        ("resolution",),
    ),
    Claim(
        "stages",
        "position embeddings are resized for more patches",
        "",
        "12.6",
        check="held-out loss, 8 x 8 pixels: the resized position table beats a new one",
    ),
    Claim("stages", "training tower and text together (PaliGemma: level after transfer)", "", "14.11", ("thawed",)),
    Claim("mixture", "what to learn first: one objective or all", "", "14.11", ("mixture",)),
    Claim(
        "prompts", "the prefix of a prompt matters where the task is ambiguous (PaliGemma)", "", "14.11", ("prefix",)
    ),
    Claim("prompts", "loss on the answer alone, or on the prompt as well (PaliGemma)", "", "14.11", ("prompt_loss",)),
    Claim("abstract", "complex counting emerges", "TallyQA complex 75.6, before 56.8", "14.11", ("counting",)),
    Claim(
        "abstract",
        "multilingual detection emerges",
        "",
        why_not="detection of the small model is at the floor (AP50 0.02), in every language",
    ),
    Claim("captions", "COCO captions, fine-tuned", "CIDEr 149.2", why_not=BENCHMARK),
    Claim("captions", "NoCaps", "CIDEr 126.3 (val)", why_not=NO_SET),
    Claim("captions", "TextCaps, VizWiz captions", "CIDEr 147.0, 122.7 without OCR", why_not=NO_SET),
    Claim(
        "captions",
        "captions of new pictures, in sixteen languages, against models that cannot see",
        "",
        "13.5",
        check="captions: share exactly right, mean of sixteen languages",
    ),
    Claim("VQA", "VQAv2, OK-VQA", "86.0 (test-dev), 66.1", why_not=BENCHMARK),
    Claim("VQA", "TallyQA", "complex 75.6", why_not=NO_SET),
    Claim("tasks with text", "TextVQA, DocVQA without OCR", "71.44, ANLS 80.0", why_not=BENCHMARK),
    Claim(
        "tasks with text",
        "ST-VQA, OCR-VQA, InfoVQA, AI2D, ChartQA without OCR",
        "ANLS 79.9, 75.0, ANLS 49.2, 81.2, 70.9",
        why_not=NO_SET,
    ),
    Claim(
        "tasks with text",
        "the text of a picture as an input helps",
        "TextVQA 71.44, with OCR 80.78",
        "14.11",
        ("ocr_input",),
    ),
    Claim(
        "tasks with text",
        "receipts: what the text of the page is worth",
        "",
        "14.8",
        check="loss of the right answer, nats per token: picture with text beats picture alone",
    ),
    Claim(
        "metrics",
        "CIDEr-D as in the COCO evaluation",
        "",
        "metrics/test_captions.py",
        check="test_cider_against_the_formula",
    ),
    Claim(
        "metrics",
        "VQA accuracy, ANLS, relaxed accuracy, WUPS",
        "",
        "metrics/test_answers.py",
        check="test_vqa_against_the_loop_over_annotators",
    ),
    Claim(
        "multi-task fine-tuning",
        "one model for many tasks is level with one model per task",
        "level on average",
        "14.11",
        ("multitask",),
    ),
    Claim("few-shot", "COCO, 4 shots", "CIDEr 107.6", why_not=BENCHMARK),
    Claim(
        "few-shot", "few-shot: a new word is bound after two exemplars", "", "15.5", check="known objects, 2 exemplars"
    ),
    Claim("few-shot", "more exemplars help", "", "15.5", check="known objects, 4 exemplars"),
    Claim(
        "masks (2308.06912, table 9)",
        "prefix beats block-causal beats causal (COCO, 4 shots)",
        "CIDEr 106.7, 104.8, 102.3",
        "15.5",
        ("masks", "names: "),
    ),
    Claim("masks (2308.06912, table 9)", "the same with made-up words", "", "15.5", ("masks", "made-up words: ")),
    Claim(
        "masks (2308.06912, table 9)",
        "one layer of attention is a step of gradient descent, in miniature",
        "",
        "15.4",
        check="query's y: 4 prefix layers == 4 steps of descent",
    ),
    Claim("few-shot", "XM3600: few-shot captions in 35 languages", "", why_not=NO_SET),
    Claim(
        "video", "more frames help: 16 beat 8 in most cases", "+6 CIDEr on ActivityNet captions", "15.6", ("frames",)
    ),
    Claim("video", "captions and questions of videos", "MSR-VTT QA 47.1, ActivityNet captions 54.9", why_not=NO_SET),
    Claim(
        "video",
        "a video's caption names its objects",
        "",
        "15.6",
        check="share of a video's objects that its caption names",
    ),
    Claim(
        "classification",
        "ImageNet classification as text",
        "89.19 at 756 px",
        why_not="the kit's model names 190 objects; it was never trained on ImageNet",
    ),
    Claim("detection", "detection: boxes are text", "", "14.2", check="two boxes: read back from text"),
    Claim("detection", "detection on LVIS", "AP 31, rare 31.4; zero-shot about 12", why_not=BENCHMARK),
    Claim(
        "metrics",
        "average precision as in pycocotools",
        "",
        "metrics/test_reference.py",
        check="test_boxes",
    ),
    Claim(
        "abstract",
        "tasks that were never taught: presence, relations, counting by boxes",
        "",
        "14.9",
        check="form 'how many': share of right answers",
    ),
    Claim(
        "scaling",
        "scaling the tower against scaling the text model",
        "",
        why_not="one small model was trained; no study varies the sizes of tower and text",
    ),
    Claim(
        "fairness",
        "toxicity and parity by subgroup",
        "",
        why_not="the kit's pictures show objects, not people, and have no subgroups to compare",
    ),
    Claim("appendix", "OVEN and InfoSeek: knowledge about entities", "", why_not=NO_SET),
    Claim(
        "release",
        "the weights of PaLI-X",
        "",
        why_not="they were never released; the kit trains a model of 3.5 million parameters of its own (13.4)",
    ),
)
