"""Evaluation of imagined futures: image quality by horizon, and how they depend on the action.

Needs the extra `quality`: image metrics are piqa's, counterfactual metrics are wamprobe's.
"""
