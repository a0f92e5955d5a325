"""One client's prompt as a folder that stands on its own: write it, read it, classify with it."""
