"""Systems behind one interface."""
