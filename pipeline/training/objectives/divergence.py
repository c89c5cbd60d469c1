"""The divergence from the cached target: the cross-entropy of the student under p̂, at the recipe's temperature."""

from logitlake.pipeline.training.loss_terms import LossTerm, make_term
from logitlake.pipeline.training.objectives import LossInputs


def divergence(inputs: LossInputs) -> LossTerm:
    """The weights are the stored probabilities; mass that was cut and kept as a ghost pulls at all other ids."""
    ghost_P = None if inputs.ghost is None else inputs.ghost * inputs.share
    return make_term(inputs.temperature, inputs.counts, inputs.ids, inputs.probs * inputs.share, ghost_P)
