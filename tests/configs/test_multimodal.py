import pytest

from kitlib import configs


def test_the_ladder_has_towers_of_vit_22b_and_texts_of_t5():
    for name in configs.PALIX_LADDER:
        config = configs.palix(name)
        block = {field: getattr(config.tower, field) for field in configs.VIT22B_BLOCK}
        assert block == configs.VIT22B_BLOCK, name
        assert (config.tower.pool, config.tower.num_classes) == ("none", 0)
        assert config.text.num_encoder_layers == config.text.num_decoder_layers and not config.text.tied
    assert configs.palix("55B").tower == configs.vit("22B/14", pool="none", num_classes=0)
    assert configs.palix("55B").text.activation == configs.t5("ul2-20b").activation == "silu"
    # PaLI has plain towers and mT5.
    config = configs.palix("PaLI-17B")
    assert config.tower == configs.vit("e/14", pool="none", num_classes=0)
    assert config.text == configs.t5("mt5-xxl")


def test_fields_of_both_halves_can_be_changed():
    config = configs.palix("XS", tower={"depth": 1}, text={"vocab_size": 300}, max_images=2)
    assert (config.tower.depth, config.text.vocab_size, config.max_images) == (1, 300, 2)
    pali = configs.palix("PaLI-3B", tower={"depth": 1}, text={"dropout": 0.1})
    assert (pali.tower.depth, pali.text.dropout, pali.text.num_encoder_layers) == (1, 0.1, 24)
    plain = configs.palix("XS")
    assert config.replace(tower=plain.tower, text=plain.text, max_images=16) == plain


def test_halves_that_are_refused():
    with pytest.raises(ValueError, match="text is 3; expected a dictionary"):
        configs.palix("XS", text=3)
    with pytest.raises(ValueError, match="must not be an ensemble, got 2 members"):
        configs.palix("XS", tower={"batch_ensemble": configs.BatchEnsembleConfig((1,), 2)})
