"""The paper's tables as data: what is printed there, what we run for it, and what we committed as our result."""
