import pytest

from kitlib import configs

ENCODER, DECODER = configs.T5_ENCODER_MOE, configs.T5_DECODER_MOE


def test_t5_sizes_by_name():
    base = configs.t5("1.1-base")
    assert (base.width, base.num_encoder_layers, base.num_decoder_layers) == (768, 12, 12)
    assert (base.mlp_dim, base.num_heads, base.head_dim, base.vocab_size) == (2048, 12, 64, 32128)
    assert configs.t5("mt5-base") == base.replace(vocab_size=250112)
    ul2 = configs.t5("ul2-20b")
    assert (ul2.activation, ul2.num_heads * ul2.head_dim, ul2.tied) == ("silu", ul2.width, False)
    assert len({configs.t5("tiny"), configs.t5("tiny", dropout=0.1), configs.t5("tiny")}) == 2  # values, hashable


def test_sparse_t5_is_the_published_interleaving():
    base = configs.sparse_t5("1.1-base")
    assert base.moe_layers == base.decoder_moe_layers == (1, 3, 5, 7, 9, 11)
    assert base.replace(moe=None, moe_layers=(), decoder_moe=None, decoder_moe_layers=()) == configs.t5("1.1-base")
    assert (base.moe.router, base.moe.capacity_factor, base.moe.num_experts) == ("expert_choice", 2.0, 32)
    assert (base.decoder_moe.router, base.decoder_moe.num_selected, base.decoder_moe.num_experts) == ("top_k", 2, 32)
    assert not base.moe.renormalize and not base.decoder_moe.renormalize


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: configs.t5("tiny", moe="no", moe_layers=(1,)), r"moe is 'no'; expected MoEConfig"),
        (lambda: configs.t5("1.1-bse"), "did you mean '1.1-base'"),
        (lambda: configs.t5("tiny", widht=3), "did you mean 'width'"),
        (lambda: configs.t5("tiny", activation="relu"), "Unknown activation 'relu'"),
        (lambda: configs.t5("tiny", rel_buckets=30), r"multiple of 4.*got 30"),
        (lambda: configs.t5("tiny", rel_max_distance=16), "over rel_buckets / 2, got 16"),
        (lambda: configs.t5("tiny", moe=configs.MoEConfig()), "moe and moe_layers come together"),
        (lambda: configs.t5("tiny", decoder_moe_layers=(1,)), "decoder_moe and decoder_moe_layers come together"),
        (lambda: configs.sparse_t5("tiny").replace(moe_layers=(1, 2)), "not all among the 2 layers"),
        (lambda: configs.sparse_t5("tiny", ENCODER.replace(granularity=3)), "divisible by granularity 3"),
        (lambda: configs.sparse_t5("tiny", configs.MoEConfig(router="soft")), "parameters for one length"),
        (lambda: configs.sparse_t5("tiny", decoder_moe=ENCODER), r"not causal.*use 'top_k'"),
        (lambda: configs.sparse_t5("tiny", decoder_moe=DECODER.replace(num_experts=8)), "equally many .* 32 and 8"),
    ],
)
def test_impossible_t5s_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
