"""deploy/compose.yaml in a Docker engine: the images, an order from the gateway to the consumer, who reaches what."""
