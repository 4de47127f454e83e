"""Language-specific rules: price phrases and inflection."""
