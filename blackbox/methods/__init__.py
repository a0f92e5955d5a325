"""Methods that need only a model's scores, one file each; found by ``promptfed.method.METHODS``."""
