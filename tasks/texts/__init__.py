"""The folder with the bundled labelled English texts."""
