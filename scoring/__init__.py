"""Floor 3: explainers, scorers, metrics, the LLM client, the prompts. Importing it loads no torch and no openai."""
