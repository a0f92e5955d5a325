"""FeS: federated few-shot learning from texts that clients label themselves."""
