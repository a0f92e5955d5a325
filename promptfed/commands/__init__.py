"""The sub-commands of the command line, grouped by what a user is doing."""
