"""The HTTP API and the page: ranked lists for a shop's own pages, and a conversation for any OpenAI client."""
