"""From a searched network to a deployed one: prune, fine-tune, quantize, each step measured."""
