"""Writing of files: whole or not at all, with locks and checksums."""
