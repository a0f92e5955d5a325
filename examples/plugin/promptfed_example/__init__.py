"""One plug-in of each kind; ``docs/extending.md`` of promptfed explains them."""
