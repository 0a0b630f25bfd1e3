"""`kit bench moe`: the cost of routing, compared with two lower bounds ("floors") measured in the same run.

*dense*: one MLP on T * K tokens, the same multiplications without experts. *alone*: the experts on tokens that are
already in their buffers, batched matmuls without any routing. Every call is forward and backward with respect to
parameters and inputs, from a fixed random cotangent, so that no computation can be optimised away.
"""

import functools
import itertools
import statistics
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kitlib import configs, moe
from kitlib.bench import timing
from kitlib.layers.vit_layers import MlpBlock
from kitlib.models.vit import ViT
from kitlib.moe import routing
from kitlib.moe.experts import apply_experts, linear_layer
from kitlib.training import optim

SHAPES = (  # T, D, F, E, K
    (2048, 384, 1536, 8, 2),
    (2048, 384, 1536, 32, 2),
    (8192, 192, 768, 8, 1),
    (8192, 192, 768, 32, 2),
    (4096, 768, 3072, 32, 1),
)
GROUPS = (1, 8)
STEP = configs.vit("S/16")  # in the table of training steps: width 384, depth 12, 224 px
BATCH = 8
# The calls of a race are timed one after the other, race by race, as a slow call disturbs the calls after it. Each is
# printed with its ratio to the call before it in the race.
RACES = (("dense", "alone", "gather"), ("alone", "dropless"), ("gather", "einsum"), ("choice alone", "choice"))


def main() -> None:
    layer_table()
    parts_table()
    step_table()
    step_parts_table()


def layer_table() -> None:
    """MoE layers compared with their floors: median ms, and the bytes of temporaries and results as counted by XLA."""
    heads = [f"{name} /{floor}" for race in RACES for floor, name in itertools.pairwise(race)]
    print("\nMoE layer, forward + backward: ms (ratio to the floor named), and peak MB")
    print(f"{'T, D, F, E, K; groups':34}{'dense':>8}" + "".join(f"{head:>21}" for head in heads))
    for shape in SHAPES:
        for g in GROUPS:
            calls, megabytes = variants(*shape, g)
            times, memory = "", f"{megabytes['dense']:5.0f} MB"
            for race in RACES:
                timed = timing.interleaved({name: calls[name] for name in race})
                ms = {name: 1e3 * statistics.median(s) for name, s in timed.items()}
                times += f"{ms['dense']:8.0f}" if "dense" in race else ""
                for floor, name in itertools.pairwise(race):
                    times += f"{f'{ms[name]:.0f} ({ms[name] / ms[floor]:.2f})':>21}"
                    memory += f"{megabytes[name]:18.0f} MB"
            print(f"{f'{shape}; {g}':34}{times}\n{'':34}{memory}", flush=True)


def variants(t: int, d: int, f: int, e: int, k: int, g: int) -> tuple[dict[str, Callable], dict[str, float]]:
    """The compiled calls of one row, and the peak megabytes of each.

    T tokens of width D, hidden width F, E experts, K experts per token, in g groups.
    """
    rng = np.random.default_rng(0)

    def array(*shape, scale=1.0):
        return jnp.asarray(scale * rng.standard_normal(shape, np.float32))

    s = t // g
    token_choice = configs.MoEConfig(num_experts=e, num_selected=k)
    expert_choice = token_choice.replace(router="expert_choice", capacity_factor=2.0)
    tokens = array(g, s, d)
    variables = moe.MoEMlp(token_choice, f).init(jax.random.key(0), tokens[:, :1])
    experts = jax.tree.map(lambda p: p + array(*p.shape, scale=0.02), variables["params"]["Mlp"])
    variables = {"params": variables["params"] | {"Mlp": experts}}
    one_expert = jax.tree.map(lambda p: p[0], experts)

    def layer(config):
        # A group is a row of the batch: group_size = S.
        module = moe.MoEMlp(config.replace(group_size=s), f)
        return (lambda v, x: module.apply(v, x)[0]), variables, tokens

    def alone(rows):
        return (lambda p, x: apply_experts(moe.mlp_expert, p, x)), experts, array(e, rows, d)

    slots = {config.router: g * moe.capacity(config, s) for config in (token_choice, expert_choice)}
    functions = {
        "dense": ((lambda p, x: moe.mlp_expert(linear_layer, p, x)), one_expert, array(t * k, d)),
        "alone": alone(slots[token_choice.router]),
        "gather": layer(token_choice),
        "dropless": layer(token_choice.replace(dispatch="dropless", capacity_factor=None)),
        "einsum": layer(token_choice.replace(dispatch="einsum")),
        "choice alone": alone(slots["expert_choice"]),
        "choice": layer(expert_choice),
    }
    compiled = {name: forward_backward(*function) for name, function in functions.items()}
    return {n: call for n, (call, _) in compiled.items()}, {n: mb for n, (_, mb) in compiled.items()}


def forward_backward(fn: Callable, *args) -> tuple[Callable, float]:
    """(call, megabytes): a compiled call that returns fn(*args) and its gradients; its temporaries and results."""
    out = jax.eval_shape(fn, *args)
    cotangent = jnp.asarray(np.random.default_rng(1).standard_normal(out.shape, np.float32))

    def both(cotangent, *args):
        y, vjp = jax.vjp(fn, *args)
        return y, vjp(cotangent)

    compiled = jax.jit(both).lower(cotangent, *args).compile()
    memory = compiled.memory_analysis()
    megabytes = (memory.temp_size_in_bytes + memory.output_size_in_bytes) / 1e6
    return lambda: compiled(cotangent, *args), megabytes


def parts_table() -> None:
    """The extra time of a routed layer: each part of the gather layer alone, forward."""
    t, d, _, e, k = SHAPES[-2]
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, t, d), np.float32))
    kernel = jnp.asarray(np.random.default_rng(1).standard_normal((d, e), np.float32)) * d**-0.5
    capacity = routing.capacity_of_choices(t, e, k, 1.05, multiple_of=4)
    choose = jax.jit(lambda x: routing.top_k(jax.nn.softmax(x @ kernel), k))
    assign = jax.jit(lambda c: routing.assign(c, e, capacity))
    to_experts, to_tokens = jax.jit(lambda x, slots: slots.dispatch(x)), jax.jit(lambda y, slots: slots.combine(y))
    choice = choose(x)
    slots = assign(choice)
    buffers = to_experts(x, slots)
    calls = {
        "router, softmax, top-k": lambda: choose(x),
        "assign": lambda: assign(choice),
        "dispatch": lambda: to_experts(x, slots),
        "combine": lambda: to_tokens(buffers, slots),
    }
    print(f"\nparts of the gather layer at T={t}, D={d}, E={e}, K={k}, forward, ms")
    for name, seconds in timing.interleaved(calls).items():
        print(f"  {name:24}{1e3 * statistics.median(seconds):8.2f}")


def step_table() -> None:
    """A V-MoE's training step with AdamW compared with the dense ViT's: width 384, depth 12, 224 px / 16, batch 8."""
    odd = tuple(range(1, STEP.depth, 2))
    rows = {"dense": STEP}
    for where, blocks in (("last-2", odd[-2:]), ("every-2", odd)):
        for k in (1, 2):
            rows[f"{where}, K={k}"] = STEP.replace(moe=mixture(k), moe_blocks=blocks)
    batch = timing.random_batch(STEP, BATCH)
    calls, dropped = {}, {}
    for name, config in rows.items():
        step, state = timing.step_and_state(ViT(config), config)
        state, metrics = step(state, batch)
        dropped[name] = float(metrics["dropped"].mean()) if config.moe else 0.0
        calls[name] = timing.stepper(step, state, batch)
    seconds = {name: statistics.median(s) for name, s in timing.interleaved(calls).items()}
    # Buffers have a fixed size, so dropped tokens save no time; their share only shows how even untrained routers are.
    print(f"\n{'V-MoE, E=8, batch 8: training step':36}{'ms':>8}{'vs dense':>10}{'dropped at step 0':>19}")
    for name, s in seconds.items():
        print(f"{name:36}{1e3 * s:8.0f}{s / seconds['dense']:10.2f}{dropped[name]:19.2f}")


def step_parts_table() -> None:
    """The cost that one block with experts adds to that step, each part alone: the layer in place of the MLP, AdamW."""
    d, f = STEP.width, STEP.mlp_dim
    tokens = jnp.asarray(np.random.default_rng(0).standard_normal((BATCH, STEP.num_tokens, d), np.float32))
    modules = {"MLP": MlpBlock(f), **{f"MoE layer, K={k}": moe.MoEMlp(mixture(k), f) for k in (1, 2)}}
    calls, sizes = {}, {}
    for name, module in modules.items():
        params = module.init(jax.random.key(0), tokens)["params"]

        def fn(params, x, module=module):
            y = module.apply({"params": params}, x)
            return y[0] if isinstance(y, tuple) else y

        calls[f"{name}, forward + backward"] = forward_backward(fn, params, tokens)[0]
        sizes[name] = sum(p.size for p in jax.tree.leaves(params)) / 1e6
        if not name.endswith("2"):  # K = 2 has the same parameters as K = 1
            calls[f"{name.removesuffix(', K=1')}, AdamW"] = updates(params)
    work = 3 * 4 * STEP.width * f * BATCH * STEP.num_tokens / 1e9  # three passes of two matmuls
    million = ", ".join(f"{name} {size:.1f}" for name, size in sizes.items())
    print(f"\none block, batch {BATCH}: {work:.0f} GFLOP times K; million parameters: {million}; ms")
    for name, seconds in timing.interleaved(calls).items():
        print(f"  {name:36}{1e3 * statistics.median(seconds):8.1f}")


def mixture(k: int) -> configs.MoEConfig:
    """8 experts, K = k per token."""
    return configs.MoEConfig(num_experts=8, num_selected=k)


def updates(params) -> Callable:
    """A call that makes one AdamW update in place, with fixed gradients."""
    tx = optim.assemble(optax.scale_by_adam(), 1e-3, weight_decay=0.05)
    state, grads = (jax.tree.map(jnp.array, params), tx.init(params)), params

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state, grads):
        params, opt_state = state
        step, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, step), opt_state

    def call():
        nonlocal state
        state = update(state, grads)
        return state

    return call
