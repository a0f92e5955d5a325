"""Methods of the literature, one module or folder for each paper."""
