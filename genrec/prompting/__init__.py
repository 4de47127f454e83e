"""From a user's history to token ids: templates, tokenizers and the one renderer."""
