"""Mixture of experts: which expert processes which token, how tokens reach the experts, and the layer made of both.

Read `routing` (top-K, expert choice, losses), `dispatch` (slots, dispatch and combine; plans, which are routing and
dispatch as one object), `experts`, `expert_parallel` (the way to the experts and back, on one device or many), then
`moe_layer`, which puts them together. `soft` is Soft MoE; `e3` divides the experts among the members of an ensemble.
"""

from kitlib.moe.dispatch import Plan, capacity, plan_expert_choice, plan_token_choice
from kitlib.moe.expert_parallel import dispatch_and_combine
from kitlib.moe.experts import Experts, gated_mlp_expert, mlp_expert
from kitlib.moe.moe_layer import MoEMlp, Router, auxiliary_loss, from_groups, route, to_groups
from kitlib.moe.soft import soft_weights

__all__ = [
    "Experts",
    "MoEMlp",
    "Plan",
    "Router",
    "auxiliary_loss",
    "capacity",
    "dispatch_and_combine",
    "from_groups",
    "gated_mlp_expert",
    "mlp_expert",
    "plan_expert_choice",
    "plan_token_choice",
    "route",
    "soft_weights",
    "to_groups",
]
