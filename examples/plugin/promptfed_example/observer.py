"""An observer: the best validation accuracy, in a file."""

from pydantic import Field

from promptfed.observers.base import OBSERVERS, Observer, ObserverConfig


@OBSERVERS.register("best")
class Best(Observer):
    """Writes the best validation accuracy into a file."""

    class Config(ObserverConfig):
        path: str = Field("best.txt", description="the file, in the run's folder")

    def begin(self, run):
        self.file, self.best = run.folder / self.config.path, 0.0
        self.replay(run)  # a run that goes on: all that happened before
        return str(self.file)  # promptfed shows where the record is

    def log(self, scalars):
        if scalars.values.get("val_accuracy", 0.0) > self.best:
            self.best = scalars.values["val_accuracy"]
            self.file.write_text(f"{scalars.stage}, round {scalars.step}: {self.best:.3f}\n")

    def end(self, outcome):
        with self.file.open("a") as file:
            file.write(outcome.markdown() + "\n")
