"""What the method is: requests, plans, history, and the engine that turns them into events."""
