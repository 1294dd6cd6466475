"""The learning rate as a pure function of the step, so that a resumed run needs no scheduler state, and a run's end."""

import math

from dist_calo.config import OptimizerConfig, TrainConfig


def why_finished(
    config: TrainConfig, step: int, *, validations_since_best: int = 0, train_seconds: float = 0.0
) -> str | None:
    """Return why nothing is left to train after a step, naming the setting; None if something is.

    Args:
        config: its ``max_steps`` are those of the run, whatever they were given as.
        step: number of the step.
        validations_since_best: validations that were not better than the best one, since that one.
        train_seconds: time that the run has taken, over all resumes.

    Example:
        >>> why_finished(TrainConfig(max_steps=10, patience=3), 5, validations_since_best=3)
        'no better score in 3 validations (train.patience=3)'
    """
    if step >= config.max_steps:
        given = "" if config.max_epochs is None else f" (train.max_epochs={config.max_epochs:g})"
        return f"train.max_steps={config.max_steps}{given}"
    if config.patience and validations_since_best >= config.patience:
        return f"no better score in {validations_since_best} validations (train.patience={config.patience})"
    if config.max_seconds is not None and train_seconds >= config.max_seconds:
        return f"the time is over (train.max_time={config.max_time})"
    return None


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
