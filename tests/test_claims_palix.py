"""kitlib.claims_palix and claims_multimodal: every study can run as it is written; a small one runs to its row."""

import dataclasses

import jax
import numpy as np
import pytest

from kitlib import boxes, claims, claims_makers, claims_multimodal, claims_palix, collate, palix, pictures, tokenizer
from kitlib.claims_makers import counted_boxes, exams, makers
from kitlib.claims_multimodal import Arm, MlpConnector, Phase, config, loss_of, run, tower
from kitlib.claims_palix import questions
from kitlib.data import keyed_rng
from kitlib.mixture import Mixture
from kitlib.tasks import without_prefix

WORDS = tokenizer.multilingual()
PHASES = {phase for _, arms in questions().values() for arm in arms.values() for phase in arm.phases}
ASKED = {name for _, arms in questions().values() for arm in arms.values() for _, name in arm.tests}


def test_the_studies_are_found():
    studies = claims.studies_of("palix")
    assert set(studies) == set(questions()) and len(studies) == 12
    assert all(study.seeds >= 5 for study in studies.values())
    for study in studies.values():
        files = {claims.run_file("palix", study, arm, 0) for arm in study.arms}
        assert len(files) == len(study.arms)  # no two arms are the same run


def test_the_arms_of_a_study_are_asked_the_same():
    """Or, where each learns a task of its own, a part of it."""
    for name, (_, arms) in questions().items():
        columns = [{column for column, _ in arm.tests} for arm in arms.values()]
        assert all(columns) and (name in ("multitask", "counting") or all(columns[0] == other for other in columns))
        assert set.union(*columns) == columns[0] | (columns[-1] if name == "counting" else set())


@pytest.mark.parametrize("phase", sorted(PHASES, key=str), ids=lambda phase: f"{phase.makers[0][0]}-{phase.images}")
def test_every_phase_makes_batches(phase):
    mixed = Mixture({name: makers()[name] for name, _ in phase.makers}, dict(phase.makers), 0)
    group = collate.Group(mixed, 4, phase.images, phase.inputs, phase.targets, phase.image_size)
    batch = collate.group_batch(group, WORDS, 0)
    assert batch["images"].shape == (4, phase.images, phase.image_size, phase.image_size, 3)
    assert (batch["weights"].sum(axis=1) > 0).all()


@pytest.mark.parametrize("name", sorted(ASKED))
def test_every_test_is_passed_by_the_truth(name):
    task = exams()[name]
    examples = task.make(6, 0)
    assert np.mean(task.metric([example.answer for example in examples], examples)) == 1
    assert np.mean(task.metric(["nothing of the kind"] * 6, examples)) < 0.5


def test_exemplars_alone_tell_the_language():
    """Five things with their names in one language, the last asked for; all three languages are about equally common
    (90 draws: 30 each, +- 3 standard deviations of 4.5). The name of an exemplar is of the wrong picture, but counts as
    a name of any."""
    named = pictures.emoji("train").names
    found = []
    for i in range(90):
        example = makers()["shown_language"](keyed_rng(6, i))
        *shown, asked = example.prompt
        assert len(example.images) == 5 and len({*shown, example.answer}) == 5 and asked == "<extra_id_0>"
        spoken = [code for code in claims_makers.SPOKEN if {*shown, example.answer} <= set(named[code])]
        assert len(spoken) == 1
        found += spoken
    assert all(abs(found.count(code) - 30) <= 13 for code in claims_makers.SPOKEN)
    examples = exams()["of any picture"].make(3, 0)
    said = [examples[0].answer, examples[1].prompt[0], examples[2].answer + "s"]
    assert exams()["of any picture"].metric(said, examples).tolist() == [1, 1, 0]
    assert exams()["shown_language"].metric(said, examples).tolist() == [1, 0, 0]


def test_number_of_boxes():
    noise = " ; 1 1 2 2 noise"
    examples = [
        dataclasses.replace(example, target=((text, True),))
        for example, text in zip(
            exams()["counting"].make(3, 0),
            ("1 1 5 5 dog" + noise, "1 1 5 5 dog ; 2 2 9 9 dog", "1 1 2 2 noise"),
            strict=True,
        )
    ]
    said = ["3 3 4 4 dog", "3 3 4 4 cat" + noise, "9 9 9 9 noise ; broken"]
    assert counted_boxes(said, examples).tolist() == [1, 0, 1]


def test_few_counting_examples_are_two_hundred():
    drawn = {makers()["few_counting"](keyed_rng(0, i)).images.tobytes() for i in range(600)}
    assert 150 < len(drawn) <= 200


def test_nothing_counts_before_the_count():
    """No number word or digit is an answer of the mixture that is said not to count, but in boxes and in names: pizza
    is "1 slice of pizza" in Thai, however many there are."""
    for name in claims_palix.BEFORE:
        for i in range(40):
            example = makers()[name](keyed_rng(3, i))
            assert "how many" not in str(example.prompt)
            if name == "detection":
                asked = without_prefix(example).prompt.split(" ; ")
                assert set(boxes.from_text(example.answer)[1]) <= {*asked, boxes.NOISE}
            assert name != "object_aware_vqa" or not any(character.isdigit() for character in example.answer)


@pytest.mark.parametrize(("frames", "seen"), [(2, 6 / 14), (4, 11 / 14), (8, 1.0), (16, 1.0)])
def test_what_passes_is_in_as_many_films_as_its_moments_say(frames, seen):
    """It begins at moment 0 to 13, for 3 moments. Two frames are 4 and 12: of the 14 beginnings 2, 3, 4, 10, 11 and 12
    have one of them. Four are 2, 6, 10, 14: all but 3, 7 and 11. No gap between eight frames is 3 long. What is in all
    frames alike is the ground."""
    films = [makers()[f"film_{frames}"](keyed_rng(1, i)).images for i in range(200)]
    assert all(len(film) == frames for film in films)
    shown = np.mean([(film != film[0]).any() for film in films])
    assert abs(shown - seen) <= 3 * np.sqrt(seen * (1 - seen) / 200)


def test_counts_are_those_of_the_boxes():
    """Nought to four of a kind, equally likely (200 draws: 40 of each, +- 3 standard deviations of 5.7); what is asked
    in words and in boxes is the same."""
    counts = [int(makers()["counting"](keyed_rng(2, i)).answer) for i in range(200)]
    assert set(counts) == {0, 1, 2, 3, 4} and all(abs(counts.count(n) - 40) <= 17 for n in range(5))
    asked = exams()["counting"].make(20, 0)
    written = exams()["counted boxes"].make(20, 0)
    for one, other in zip(asked, written, strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        names = boxes.from_text(other.answer)[1]
        assert len(names) - names.count(boxes.NOISE) == int(one.answer)


def test_words_are_asked_for_by_their_order():
    for i in range(20):
        told, alone = (makers()[f"words_{how}"](keyed_rng(4, i)) for how in ("with_text", "alone"))
        np.testing.assert_array_equal(told.images, alone.images)
        assert told.answer == alone.answer and told.answer not in alone.prompt
        pair = [word for word in told.prompt.split() if word in claims_makers.few_words()]
        assert len(pair) == 2 and told.answer == pair["last" in alone.prompt]


def test_words_to_read_are_few_and_of_one_token():
    words = claims_makers.few_words()
    assert len(words) == 67 and all(len(WORDS.encode(f" {word}")) == 1 for word in words)
    small = makers()["small_word"](keyed_rng(0, 0))
    assert small.images.shape == (1, claims_makers.SMALL, claims_makers.SMALL, 3) and small.answer in words


def test_bare_prompts_have_no_prefix():
    for name in claims_makers.BARE:
        whole, bare = makers()[name](keyed_rng(0, 0)), makers()[f"bare_{name}"](keyed_rng(0, 0))
        assert whole.prompt.endswith(bare.prompt) and len(bare.prompt) < len(whole.prompt)
        assert whole.answer == bare.answer


def test_repeated_prompts_differ_by_their_loss_alone():
    """Arms are asked for the same answers to the same pictures, and only those answers count in their test losses."""
    for name in claims_makers.REPEATED:
        plain, asked = (exams()[exam].make(3, 0) for exam in (name, f"asked_{name}"))
        for one, other in zip(plain, asked, strict=True):
            np.testing.assert_array_equal(one.images, other.images)
            assert other.prompt == one.prompt and other.target == ((one.prompt, False), (f" {one.answer}", True))
            told = makers()[f"told_{name}"](keyed_rng(0, 0))
            assert [weight for _, weight in told.target] == [True, True] and told.target[0][0] == told.prompt
            ids, weights = collate.target_ids(other, WORDS)
            assert sum(weights) == len(collate.target_ids(one, WORDS)[0])
            assert WORDS.decode(ids) == f" {one.prompt} {one.answer}"
    said = [f"{asked[0].prompt} {asked[0].target[1][0].strip()}", "is it?", asked[2].prompt]
    assert claims_makers.behind_the_prompt(said, asked).tolist() == [1, 0, 0]


def test_a_small_arm_runs_to_its_row(tmp_path, monkeypatch):
    """Two phases at two resolutions; the tower is made once, kept, and does not move while it is frozen."""
    monkeypatch.setattr(claims_multimodal, "TOWER_STEPS", 2)
    monkeypatch.setattr(claims_multimodal, "TOWER_BATCH", 2)
    monkeypatch.setattr(claims_multimodal, "TEST_EXAMPLES", 4)
    whole = config()
    shallow = whole.replace(
        tower=whole.tower.replace(depth=1), text=whole.text.replace(num_encoder_layers=1, num_decoder_layers=1)
    )
    monkeypatch.setattr(claims_multimodal, "config", lambda: shallow)
    shape = {"rows": 2, "inputs": 40, "targets": 40}
    phases = (
        Phase((("counting", 1.0),), 2, **shape),
        Phase((("counting", 1.0),), 2, image_size=96, frozen=False, **shape),
    )
    arm = Arm(phases, (("how many", "counting"),), connector="mlp")
    (row,) = run(arm, 0, tmp_path, makers(), exams())
    assert set(row) == {"accuracy: how many", "loss: how many"}
    assert 0 <= row["accuracy: how many"] <= 1 and 0 < row["loss: how many"] < 20
    assert len(list(tmp_path.glob("tower-*.npz"))) == 1
    kept = tower("words and things", 0, tmp_path)
    again = tower("words and things", 0, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, kept, again)
    (repeated,) = run(arm, 0, tmp_path, makers(), exams())
    assert repeated == row


def test_the_other_connector_is_larger_and_learns_as_well():
    one, two = palix.PaLIX(config()), MlpConnector(config())
    sizes = [jax.tree.map(np.shape, palix.init_params(model)["projection"]) for model in (one, two)]
    assert sizes[0] == {"kernel": (64, 64), "bias": (64,)}
    assert [layer["kernel"] for layer in sizes[1].values()] == [(64, 256), (256, 64)]


def test_the_loss_is_that_of_the_model():
    """Of examples of two lengths, in batches of 50: the mean over batches of `palix.answer_loss`."""
    examples = exams()["counting"].make(6, 0)
    model = palix.PaLIX(config())
    params = palix.init_params(model)
    got = loss_of(model, params, examples)
    batch = collate.arrays(examples, WORDS, images=1, inputs=64, targets=8)  # more padding changes nothing
    want, _ = palix.answer_loss(model)(params, batch, jax.random.key(0))
    np.testing.assert_allclose(got, want, rtol=1e-5)
