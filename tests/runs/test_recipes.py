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


def test_larger_scales_have_larger_models():
    widths = [recipes.named("vit", scale).model.width for scale in recipes.SCALES]
    assert widths == sorted(widths) and widths[0] == 64 and widths[-1] == 768


@pytest.mark.parametrize(
    ("name", "scale", "message"),
    [("vitt", "cpu", "Unknown run 'vitt'; did you mean 'vit'"), ("vit", "tpu", "Unknown scale 'tpu'.*cpu, gpu, pod")],
)
def test_unknown_names(name, scale, message):
    with pytest.raises(ValueError, match=message):
        recipes.named(name, scale)
