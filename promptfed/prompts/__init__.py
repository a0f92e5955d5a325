"""The parts that methods are made of: learned contexts, visual prompts, templates, domains."""
