"""Looking inside networks: what their activations say, and what their layers do."""
