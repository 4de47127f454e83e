"""genrec makes any instruction-tuned LLM a recommender that can only name things you really have."""
