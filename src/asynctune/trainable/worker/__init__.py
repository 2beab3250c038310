"""The worker process: the server that forks workers, and the loop that serves one trainable."""
