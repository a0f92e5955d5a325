"""Names of the files in a folder of PEFT."""

CONFIG = "adapter_config.json"
WEIGHTS, OLD_WEIGHTS = "adapter_model.safetensors", "adapter_model.bin"
README = "README.md"
HEAD = "head.safetensors"
"""A linear head that was trained with an adapter; PEFT ignores it."""
