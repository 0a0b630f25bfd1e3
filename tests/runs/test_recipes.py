import dataclasses
import json
from pathlib import Path

import pytest

from kitlib import configs
from kitlib.runs import recipes


@pytest.mark.parametrize("scale", recipes.SCALES)
@pytest.mark.parametrize("name", recipes.NAMES)
def test_every_name_has_a_recipe_at_every_scale(name, scale):
    recipe = recipes.named(name, scale)
    kind = {"t5": configs.T5Config, "t5_moe": configs.T5Config, "palix": configs.PaLIXConfig}
    assert isinstance(recipe.model, kind.get(name, configs.ViTConfig))
    sparse = bool(getattr(recipe.model, "moe", None))
    assert sparse == (name in ("vmoe", "e3", "t5_moe"))
    assert recipe.steps > recipe.warmup


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("model", configs.MoEConfig()), ("batch_size", 0), ("steps", 8.0), ("warmup", -1), ("peak", 0.0),
        ("weight_decay", float("inf")), ("full", "no"), ("optimizer", "sgd"), ("schedule", "line"), ("augment", "mix"),
    ],
)  # fmt: skip
def test_wrong_values_and_unknown_names(field, wrong):
    with pytest.raises(ValueError, match="MoEConfig" if field == "model" else field):
        dataclasses.replace(recipes.named("vit"), **{field: wrong})
    for name, message in ((("vitt", "cpu"), "did you mean 'vit'"), (("vit", "tpu"), "Unknown scale 'tpu'.*cpu, gpu")):
        with pytest.raises(ValueError, match=message):
            recipes.named(*name)


STORED = [recipes.named(name, scale) for name in recipes.NAMES for scale in recipes.SCALES] + [
    dataclasses.replace(recipes.named("palix"), data="docvqa", files=(Path("a.json"), Path("b"))),
    dataclasses.replace(
        recipes.named("vit"), data="my/pets",
        model=configs.vit("tiny/7", image_size=(28, 28), batch_ensemble=configs.BatchEnsembleConfig((1,))),
    ),
]  # fmt: skip


@pytest.mark.parametrize("recipe", STORED, ids=lambda recipe: f"{type(recipe.model).__name__}")
def test_a_recipe_is_read_as_it_was_written(tmp_path, recipe):
    recipes.write(tmp_path, recipe)
    assert recipes.read(tmp_path) == recipe and repr(recipes.read(tmp_path)) == repr(recipe)


def test_a_damaged_recipe_is_refused_with_its_name(tmp_path):
    assert recipes.read(tmp_path) is None
    path, whole = tmp_path / "recipe.json", recipes.named("vmoe")
    recipes.write(tmp_path, whole)
    text = path.read_text()
    fields = json.loads(text)
    damaged = [text[:-20], "", "3", "[]", "[[1, 2]]", "null", "[" * 100_000, text.replace("top_k", "\\u12"), "\x00"]
    damaged += [json.dumps(fields | {"model": fields["model"] | {"moe": wrong}}) for wrong in (3, [1], {"a": 1}, "x")]
    damaged += [json.dumps(fields | {name: wrong}) for name in fields for wrong in ({}, {"a": 1}) if name != "data"]
    damaged += [json.dumps(fields | {name: -1}) for name in fields if name not in ("data", "files", "eval_files")]
    for content in damaged:
        path.write_text(content)
        with pytest.raises(ValueError, match=r"recipe\.json is damaged .*: delete it"):
            recipes.read(tmp_path)
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"recipe\.json is damaged"):
        recipes.read(tmp_path)
