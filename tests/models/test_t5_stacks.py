import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitlib import configs
from kitlib.models import t5

CONFIG = configs.t5("tiny", vocab_size=32, num_encoder_layers=3, num_decoder_layers=2)


def test_layers_are_named_by_number_and_loops_by_their_first_and_last():
    assert list(t5.stack_layers(CONFIG, decoder=False)) == ["0", "1", "2"]
    moe = configs.T5_ENCODER_MOE.replace(num_experts=2)
    sparse = CONFIG.replace(num_encoder_layers=5, moe=moe, moe_layers=(1, 3), scan=True)
    # A dense layer of its own, then two times (MoE, dense).
    assert list(t5.stack_layers(sparse, decoder=False)) == ["0", "1_to_4"]
    assert list(t5.stack_layers(sparse, decoder=True)) == ["0_to_1"]


@pytest.mark.parametrize("scan", [False, True])
def test_the_encoder_reads_every_token_and_only_its_own_segment(scan):
    encoder = t5.Encoder(CONFIG.replace(scan=scan))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, CONFIG.width)), jnp.float32)
    segments = jnp.array([[1, 1, 2, 0]])
    params = encoder.init(jax.random.key(0), x, segments)
    y, out = encoder.apply(params, x, segments)
    assert list(out) == ["block00", "block01", "block02"] and y.shape == x.shape
    changed, _ = encoder.apply(params, x.at[0, 2].add(1.0), segments)  # the only token of segment 2
    assert (np.abs(changed - y).max(axis=-1)[0] > 0).tolist() == [False, False, True, False]
