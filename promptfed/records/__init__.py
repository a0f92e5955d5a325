"""Typed text records: short notes under a key, which travel as the bytes of one tensor and are merged by their key."""
