"""Folders of Hugging Face's PEFT, read and written without that library: JSON and safetensors, and no code."""
