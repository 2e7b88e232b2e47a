"""What people and programs ask about handlers and tell them."""
