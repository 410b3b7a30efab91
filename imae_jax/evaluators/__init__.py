"""Metrics of trained runs.

An evaluator is a module that declares an `EVALUATOR` (see `evaluator.Evaluator`): a
function of networks (predict functions) and held-out images or mixtures that yields (name,
value) pairs, with everything the rest of the package needs to know about it. It sees
neither models nor parameters. Every process sees every example and computes the same sums,
whatever the number of devices.
"""
