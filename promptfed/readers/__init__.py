"""The only readers of files and texts that others may have written: each checks sizes before it decodes anything.

| module | reads |
|---|---|
| `files.py` | bytes of a regular file, up to a limit |
| `json_reader.py` | JSON of files, lines and messages |
| `yaml_reader.py` | config files and ``--set`` values |
| `text.py` | lines of text files: UTF-8 with or without a byte-order mark, UTF-16 with one |
| `tensors.py` | safetensors |
| `torch_files.py` | files of ``torch.save`` and TorchScript archives, without running what is in them |

What is damaged, too large or too deep raises FormatError, one line without a traceback. What the operating system
refuses (no such file, no permission) raises OSError. Callers turn both into the error of their own part.
"""
