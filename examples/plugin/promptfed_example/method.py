"""A method: PromptFL whose clients send half of the way that they went."""

from promptfed.method import METHODS
from promptfed.methods.promptfl import PromptFL


@METHODS.register("halved")
class Halved(PromptFL):
    """Sends half of the way that PromptFL goes."""

    name, paper = "Halved", "none"

    def split_update(self, trained, broadcast, data, personal):
        sent, kept = super().split_update(trained, broadcast, data, personal)
        return 0.5 * sent + 0.5 * broadcast.shared, kept
