"""Sparse Upcycling: a trained dense model becomes a Mixture-of-Experts and continues training.

Read `surgery` (parameters), `optimizer_state` (moments and schedule), then `to_ensemble` (from one model to an E3 or a
BatchEnsemble).
"""
