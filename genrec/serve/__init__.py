"""The HTTP server: recommendation routes, OpenAI-compatible chat completions, and the chat page."""
