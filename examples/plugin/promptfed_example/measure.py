"""A measure: how far ahead of the second class the best one is."""

from promptfed.measures.base import MEASURES, Measure, log_probabilities


@MEASURES.register("margin")
class Margin(Measure):
    """Mean difference between the probabilities of the best and the second class."""

    name, better, unit = "margin", "higher", "%"

    def per_example(self, outputs, truth):
        best = log_probabilities(outputs).exp().topk(2, dim=1).values
        return best[:, 0] - best[:, 1]
