"""From rows and a configuration to weights."""
