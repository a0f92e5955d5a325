"""Black-box models: an oracle that scores prompts, search without gradients, and the federated methods on top."""
