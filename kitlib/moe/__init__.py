"""Mixture of experts: which expert processes which token, how tokens reach the experts, and the layer made of both.

Read `dispatch` (slots and blocks: the way to the experts and back), `routing` (from logits to slots: top-K, expert
choice; losses), `experts`, `expert_parallel` (all three steps, on one device or many), then `moe_layer`, which puts
them together and has Soft MoE. `e3` divides the experts among the members of an ensemble.
"""

from kitlib.moe.dispatch import Blocks, Choice, Slots
from kitlib.moe.expert_parallel import dispatch_and_combine
from kitlib.moe.experts import Experts, gated_mlp_expert, mlp_expert
from kitlib.moe.moe_layer import MoEMlp, Router, from_groups, soft_weights, to_groups
from kitlib.moe.routing import auxiliary_loss, capacity, route

__all__ = [
    "Blocks",
    "Choice",
    "Experts",
    "MoEMlp",
    "Router",
    "Slots",
    "auxiliary_loss",
    "capacity",
    "dispatch_and_combine",
    "from_groups",
    "gated_mlp_expert",
    "mlp_expert",
    "route",
    "soft_weights",
    "to_groups",
]
