"""`kit bench moe`, the cost of routing, and `kit bench e3`, the cost of members.

Routing is compared with two lower bounds ("floors") measured in the same run.

*dense*: one MLP on T * K tokens, the same multiplications without experts. *alone*: the experts on tokens that are
already in their buffers, batched matmuls without any routing. Every call is forward and backward with respect to
parameters and inputs, from a fixed random cotangent, so that no computation can be optimised away.

E3's extra cost should equal the counted one (`flops`): everything after the tokens are copied costs M times as much.
"""

import functools
from collections.abc import Callable
from itertools import pairwise, repeat

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kitlib import configs, ensembles, moe
from kitlib.bench import timing
from kitlib.layers.vit_layers import MlpBlock
from kitlib.models import flops
from kitlib.models.vit import ViT
from kitlib.moe import dispatch, routing
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
STEP = configs.vit("S/16")  # in the tables of training steps: width 384, depth 12, 224 px
BATCH, EIGHT = 8, configs.MoEConfig(num_experts=8)
SMALL_VMOE, SMALL_BATCH = configs.vit("VMoE-S/32"), 16  # in the tables of members
TINY, TINY_BATCH = configs.vit("tiny/7", image_size=(28, 28), channels=1, num_classes=10), 128
# The calls of a race are timed one after the other, race by race, as a slow call disturbs the calls after it. Each is
# printed with its ratio to the call before it in the race.
RACES = (("dense", "alone", "gather"), ("alone", "dropless"), ("gather", "einsum"), ("choice alone", "choice"))


def layer_table() -> None:
    """MoE layers compared with their floors: median ms, and the bytes of temporaries and results as counted by XLA."""
    heads = [f"{name} /{floor}" for race in RACES for floor, name in pairwise(race)]
    print("\nMoE layer, forward + backward: ms (ratio to the floor named), and peak MB")
    print(f"{'T, D, F, E, K; groups':34}{'dense':>8}" + "".join(f"{head:>21}" for head in heads))
    for shape in SHAPES:
        for g in GROUPS:
            calls, megabytes = variants(*shape, g)
            times, memory = "", f"{megabytes['dense']:5.0f} MB"
            for race in RACES:
                ms = {name: 1e3 * s for name, s in timing.medians({name: calls[name] for name in race}).items()}
                times += f"{ms['dense']:8.0f}" if "dense" in race else ""
                for floor, name in pairwise(race):
                    times += f"{f'{ms[name]:.0f} ({ms[name] / ms[floor]:.2f})':>21}"
                    memory += f"{megabytes[name]:18.0f} MB"
            print(f"{f'{shape}; {g}':34}{times}\n{'':34}{memory}", flush=True)


def variants(t: int, d: int, f: int, e: int, k: int, g: int) -> tuple[dict[str, Callable], dict[str, float]]:
    """The compiled calls of one row, and the peak megabytes of each.

    T tokens of width D, hidden width F, E experts, K per token, in g groups.
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
    to_experts, to_tokens = jax.jit(dispatch.dispatch), jax.jit(lambda y, a: dispatch.combine(y, a, t))
    choice = choose(x)
    assignment = assign(choice)
    buffers = to_experts(x, assignment)
    calls = {
        "router, softmax, top-k": lambda: choose(x),
        "assign": lambda: assign(choice),
        "dispatch": lambda: to_experts(x, assignment),
        "combine": lambda: to_tokens(buffers, assignment),
    }
    print(f"\nparts of the gather layer at T={t}, D={d}, E={e}, K={k}, forward, ms")
    for name, seconds in timing.medians(calls).items():
        print(f"  {name:24}{1e3 * seconds:8.2f}")


def step_table() -> None:
    """A V-MoE's training step with AdamW compared with the dense ViT's: width 384, depth 12, 224 px / 16, batch 8."""
    odd = tuple(range(1, STEP.depth, 2))
    rows = {"dense": STEP}
    for where, blocks in (("last-2", odd[-2:]), ("every-2", odd)):
        for k in (1, 2):
            rows[f"{where}, K={k}"] = STEP.replace(moe=EIGHT.replace(num_selected=k), moe_blocks=blocks)
    batch = timing.random_batch(STEP, BATCH)
    calls, dropped = {}, {}
    for name, config in rows.items():
        step, state = timing.step_and_state(ViT(config), config)
        state, metrics = step(state, batch)
        dropped[name] = float(metrics["dropped"].mean()) if config.moe else 0.0
        calls[name] = timing.stepper(step, state, repeat(batch))
    seconds = timing.medians(calls)
    # Buffers have a fixed size, so dropped tokens save no time; their share only shows how even untrained routers are.
    print(f"\n{'V-MoE, E=8, batch 8: training step':36}{'ms':>8}{'vs dense':>10}{'dropped at step 0':>19}")
    for name, s in seconds.items():
        print(f"{name:36}{1e3 * s:8.0f}{s / seconds['dense']:10.2f}{dropped[name]:19.2f}")


def step_parts_table() -> None:
    """The cost that one block with experts adds to that step, each part alone: the layer in place of the MLP, AdamW."""
    d, f = STEP.width, STEP.mlp_dim
    tokens = jnp.asarray(np.random.default_rng(0).standard_normal((BATCH, STEP.num_tokens, d), np.float32))
    modules = {f"MoE layer, K={k}": moe.MoEMlp(EIGHT.replace(num_selected=k), f) for k in (1, 2)}
    modules = {"MLP": MlpBlock(f)} | modules
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
    for name, seconds in timing.medians(calls).items():
        print(f"  {name:36}{1e3 * seconds:8.1f}")


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


# ---------------------------------------------------------------------------------------------- members


def members_table() -> None:
    """Training step with AdamW: ViT, V-MoE, E3 with either tiling; 8 experts in the last two odd blocks."""
    experts = configs.MoEConfig(num_experts=8, capacity_factor=1.0)
    vmoe = SMALL_VMOE.replace(moe=experts, moe_blocks=tuple(range(1, SMALL_VMOE.depth, 2))[-2:])
    rows = {"ViT": SMALL_VMOE, "V-MoE K=1": vmoe, "V-MoE K=2": vmoe.replace(moe=experts.replace(num_selected=2))}
    for m in (2, 4):
        for tiling in ("lazy", "block"):
            rows[f"E3 K=1 M={m}, {tiling}"] = vmoe.replace(e3=configs.E3Config(m, tiling))
    batch = repeat(timing.random_batch(SMALL_VMOE, SMALL_BATCH))
    calls = {name: timing.stepper(*timing.step_and_state(ViT(c), c), batch) for name, c in rows.items()}
    seconds = timing.medians(calls)
    counted = {name: sum(flops.vit_forward_flops(config).values()) for name, config in rows.items()}
    title = f"{SMALL_VMOE.image_size[0]} px, batch {SMALL_BATCH}: training step"
    print(f"\n{title:36}{'ms':>8}{'vs V-MoE':>10}{'counted':>10}{'ratio':>8}")
    for name, s in seconds.items():
        measured, expected = s / seconds["V-MoE K=1"], counted[name] / counted["V-MoE K=1"]
        print(f"{name:36}{1e3 * s:8.0f}{measured:10.2f}{expected:10.2f}{measured / expected:8.2f}")


def together_table() -> None:
    """One step of M members of a deep ensemble, each on its own batch: one vmapped program against M separate steps."""
    step, state = timing.step_and_state(ViT(TINY), TINY)
    batch = timing.random_batch(TINY, TINY_BATCH)
    print(f"\n{'deep ensemble, tiny ViT, batch 128':36}{'ms':>8}{'vs apart':>10}")
    for m in (2, 4):
        apart = [timing.stepper(step, jax.tree.map(jnp.copy, state), repeat(batch)) for _ in range(m)]
        together = jax.jit(jax.vmap(step), donate_argnums=0)
        calls = {
            "one after the other": lambda apart=apart: [call() for call in apart],
            "one program": timing.stepper(together, ensembles.stack([state] * m), repeat(ensembles.stack([batch] * m))),
        }
        seconds = timing.medians(calls)
        for name, s in seconds.items():
            print(f"{f'M={m}, {name}':36}{1e3 * s:8.1f}{s / seconds['one after the other']:10.2f}")
