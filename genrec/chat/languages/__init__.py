"""English rules for the parsers: price, exclusion and feedback phrases, stop words and inflection."""
