"""What a trained run is measured by.

An evaluator is a function of networks (their predict functions) and held-out images and
mixtures, and yields `(name, value)`; it knows neither models nor parameters. Every process
sees every example and adds up the same sums, whatever number of devices predicted.
"""
