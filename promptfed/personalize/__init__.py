"""After the federation: fine-tune the shared prompt on a client, mix the two, and add clients that come later.

Profit (Collins et al., arXiv 2310.04627) does this for soft prompts of a language model; here it is done for every
method's prompts.
"""
