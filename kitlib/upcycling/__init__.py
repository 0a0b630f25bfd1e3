"""Sparse Upcycling: a trained dense model becomes a Mixture-of-Experts and continues training.

Read `surgery`: parameters, the optimiser's state; from one model to an E3, a BatchEnsemble or a MIMO.
"""
