"""Models that answer but give no gradients. Installed as ``promptfed.blackbox``; import it by that name."""
