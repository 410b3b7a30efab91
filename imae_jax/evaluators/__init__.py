"""Metrics of trained runs.

An evaluator is a module that declares an `EVALUATOR`: a function of networks (their predict
functions) and held-out images and mixtures that yields `(name, value)`, and all that the
rest of the package needs to know of it (`evaluator.Evaluator`). It knows neither models nor
parameters. Every process sees every example and adds up the same sums, whatever number of
devices predicted.
"""
