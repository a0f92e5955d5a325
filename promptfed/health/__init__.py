"""What is in order on this machine and what is not, for `promptfed doctor`."""
