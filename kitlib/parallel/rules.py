"""Which leaf of a model is divided along which axes of the mesh: one table of rules by parameter name.

    mesh = make(fsdp=4, tensor=2)
    params_specs = specs(params, mesh)                          # a tree of PartitionSpecs
    state = state_specs(tx, params, params_specs)               # the optimiser's, derived from them
    params = jax.device_put(params, shardings(params_specs, mesh))

Kernels are divided twice: along `tensor` where heads, hidden units or the vocabulary are (Megatron, 1909.08053), along
`fsdp` on the other side (ZeRO-3, 1910.02054). Experts are divided along `expert`. Vectors are whole on every device:
they are small. Nothing is divided silently in another way than the table says: a leaf that no rule or two rules match,
or that does not divide, is an error.

Built in notebooks/16_from_laptop_to_pod.ipynb.
"""

import math
import re

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

# The end of a parameter's name, and the mesh axes of its axes; those not listed are whole. H heads, d = head width.
RULES = (
    ("embedding/kernel", (None, None, None, "fsdp")),  # patches [p, p, channels, D]
    ("pos_embedding|cls|probe", ()),
    ("(row|column|image)_embedding", ()),  # [gh, D], [gw, D], [n, D]
    ("token_embedder/embedding", ("tensor", "fsdp")),  # [V, D]
    ("rel_embedding", ()),  # [H, buckets]
    ("(query|key|value)/kernel", ("fsdp", "tensor")),  # ViT [D, H, d], T5 [D, H * d]
    ("MultiHeadDotProductAttention_0/out/kernel", ("tensor", None, "fsdp")),  # ViT [H, d, D]
    (r"\w*attention/out/kernel", ("tensor", "fsdp")),  # T5 [H * d, D]
    ("(MlpBlock_0/Dense_0|mlp/wi_[01])/kernel", ("fsdp", "tensor")),  # [D, F]
    ("(MlpBlock_0/Dense_1|mlp/wo)/kernel", ("tensor", "fsdp")),  # [F, D]
    ("Mlp/(Dense_0|wi_[01])/kernel", ("expert", "fsdp", "tensor")),  # experts [E, D, F]
    ("Mlp/(Dense_1|wo)/kernel", ("expert", "tensor", "fsdp")),  # [E, F, D]
    ("Mlp/Dense_[01]/bias", ("expert",)),  # [E, F], [E, D]
    ("Router/dense/kernel", ()),  # [D, E]; E3: [D, M, E']
    ("[Mm]oe/mu", (None, "expert")),  # Soft MoE [D, E, C]
    ("(pre_logits|head|projection)/kernel", ("fsdp",)),  # [D, V]; numbers of classes rarely divide
    ("logits_dense/kernel", ("fsdp", "tensor")),  # T5 [D, V]
    (r"fast_weight_(alpha|gamma)", ()),  # BatchEnsemble [M, ...]
    (r"(?<!Mlp/Dense_[01]/)(scale|bias)", ()),  # norms and all other biases
)
STACKED = re.compile(r"(^|/)\w+_\d+_to_\d+/")  # scanned blocks (`models.stacking`): a leading axis, never divided


def specs(params, mesh) -> dict:
    """The PartitionSpec of every parameter on this mesh, a tree like params (arrays or ShapeDtypeStructs).

    Raises ValueError for a leaf that no rule or more than one rule matches, and for a dimension that does not divide.
    """
    return jax.tree_util.tree_map_with_path(lambda path, leaf: spec_of(_name(path), leaf.shape, mesh), params)


def spec_of(name: str, shape: tuple[int, ...], mesh) -> P:
    """The PartitionSpec of one parameter, by the end of its name "a/b/c" and its shape; raises as `specs` does."""
    matching = [(pattern, axes) for pattern, axes in RULES if re.fullmatch(rf"(.*/)?({pattern})", name)]
    if len(matching) != 1:
        found = f"{len(matching)} rules match it ({', '.join(p for p, _ in matching)})" if matching else "no rule does"
        raise ValueError(f"A parameter needs exactly one rule of parallel.rules.RULES; {found}: {name} {shape}.")
    axes = (None,) * bool(STACKED.search(name)) + matching[0][1]
    if len(axes) > len(shape):
        raise ValueError(f"The rule {matching[0][0]!r} is for {len(axes)} axes or more, but {name} has shape {shape}.")
    return check_divides(name, shape, P(*axes), mesh)


def check_divides(name: str, shape: tuple[int, ...], spec: P, mesh) -> P:
    """The spec; raises ValueError unless every dimension divides among the devices of its mesh axis."""
    for i, axis in enumerate(spec):
        size = 1 if axis is None else mesh.shape[axis]
        if shape[i] % size:
            raise ValueError(
                f"{name} has shape {shape}: dimension {i}, of size {shape[i]}, does not divide among {axis}={size} "
                f"devices; choose a mesh whose {axis} axis divides {shape[i]}."
            )
    return spec


def shardings(tree_of_specs, mesh):
    """The NamedShardings of a tree of PartitionSpecs on a mesh."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), tree_of_specs, is_leaf=lambda x: isinstance(x, P))


def describe(params, mesh) -> list[dict]:
    """One row per leaf: {"leaf", "shape", "spec", "bytes per device"}, to be shown as a table."""
    rows = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        spec = spec_of(_name(path), leaf.shape, mesh)
        parts = math.prod(mesh.shape[axis] for axis in spec if axis)
        size = leaf.size * leaf.dtype.itemsize // parts
        rows.append({"leaf": _name(path), "shape": leaf.shape, "spec": tuple(spec), "bytes per device": size})
    return rows


# ---------------------------------------------------------------------------------------------- the optimiser's state


def state_specs(tx, params, params_specs):
    """The PartitionSpecs of tx.init(params), derived from those of the parameters.

    Moments with the shape of their parameter are divided like it. A factored moment (Adafactor) lacks one dimension of
    its parameter, and so does its spec. Counts and placeholders are whole. Any optax optimiser whose state has the
    names of the parameters works. Raises ValueError for a leaf of another shape.
    """
    shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
    # The same parameters, all dimensions told apart. Which of two equal dimensions (D = H * d, say) a moment lacks can
    # be seen with these: dimension i is made 1000 times as long, plus i. The order of their sizes stays the same.
    apart = jax.tree.map(
        lambda p: jax.ShapeDtypeStruct(tuple(1000 * n + i for i, n in enumerate(p.shape)), p.dtype), shapes
    )
    by_name = {
        tuple(_name(path).split("/")): (leaf, other, spec)
        for (path, leaf), other, spec in zip(
            jax.tree_util.tree_leaves_with_path(shapes),
            jax.tree.leaves(apart),
            jax.tree.leaves(params_specs, is_leaf=lambda x: isinstance(x, P)),
            strict=True,
        )
    }
    state, state_apart = jax.eval_shape(tx.init, shapes), jax.eval_shape(tx.init, apart)

    def derive(path, leaf, told_apart):
        names = tuple(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)
        found = next((by_name[names[i:]] for i in range(len(names)) if names[i:] in by_name), None)
        if leaf.ndim == 0 or leaf.shape == (1,):
            return P()
        if found:
            param, param_apart, spec = found
            padded = tuple(spec) + (None,) * (param.ndim - len(spec))
            if leaf.shape == param.shape:
                return spec
            if leaf.ndim == param.ndim - 1:
                kept = [param_apart.shape.index(n) for n in told_apart.shape if n in param_apart.shape]
                if tuple(param.shape[i] for i in kept) == leaf.shape:
                    return P(*(padded[i] for i in kept))
        raise ValueError(
            f"The optimiser's state has {jax.tree_util.keystr(path)} of shape {leaf.shape}, which is neither a "
            "parameter's shape nor one without a dimension; give its spec by hand."
        )

    return jax.tree_util.tree_map_with_path(derive, state, state_apart)


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def bytes_per_device(tree, tree_of_specs, mesh) -> int:
    """Bytes that a tree of arrays takes on each device, divided as the specs say."""
    leaves = zip(jax.tree.leaves(tree), jax.tree.leaves(tree_of_specs, is_leaf=lambda x: isinstance(x, P)), strict=True)
    return sum(
        int(np.prod(leaf.shape)) * leaf.dtype.itemsize // math.prod(mesh.shape[axis] for axis in spec if axis)
        for leaf, spec in leaves
    )
