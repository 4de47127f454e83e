"""From a user's history to token ids: templates, tokenizers, the chat format, and the one renderer."""
