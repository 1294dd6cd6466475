"""The learning rate as a pure function of the step, so that a resumed run needs no scheduler state."""

import math

from dist_calo.config import OptimizerConfig


def batch_factor(config: OptimizerConfig, global_batch_size: int) -> float:
    """Return the factor on the learning rate for a global batch that differs from the reference.

    Linear scaling: Goyal et al., arXiv:1706.02677; square root: Krizhevsky, arXiv:1404.5997.

    Example:
        >>> batch_factor(OptimizerConfig(scaling="sqrt", reference_batch_size=64), global_batch_size=256)
        2.0
    """
    ratio = global_batch_size / config.reference_batch_size
    return {"none": 1.0, "sqrt": math.sqrt(ratio), "linear": ratio}[config.scaling]


def learning_rate(
    config: OptimizerConfig, network: str, step: int, *, max_steps: int, global_batch_size: int
) -> float:
    """Return the learning rate of a network in a training step.

    Args:
        config: the optimizer's settings.
        network: name of the network, for its factor.
        step: number of the step, counted from 1.
        max_steps: last step of the run, where the decay ends.
        global_batch_size: samples of a step over all ranks.

    Example:
        >>> config = OptimizerConfig(learning_rate=1e-3, warmup_steps=10, schedule="linear", final_fraction=0.0)
        >>> [round(learning_rate(config, "generator", s, max_steps=20, global_batch_size=64), 6) for s in (5, 10, 16)]
        [0.0005, 0.001, 0.0005]
    """
    peak = (
        config.learning_rate
        * config.network_factors.get(network, 1.0)
        * batch_factor(config, global_batch_size)
    )
    if step <= config.warmup_steps:
        return peak * step / config.warmup_steps
    progress = (step - 1 - config.warmup_steps) / max(1, max_steps - config.warmup_steps)
    decay = {
        "constant": 1.0,
        "linear": 1.0 - progress,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
    }[config.schedule]
    if config.schedule == "constant":
        return peak
    return peak * (config.final_fraction + (1.0 - config.final_fraction) * decay)
