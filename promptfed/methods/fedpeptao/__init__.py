"""FedPepTAO: which layers share their prompts, and a server with momentum (Che et al. 2023, arXiv 2310.15080)."""
