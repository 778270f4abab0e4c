"""What can be known of a run before it begins: mistakes in what is local, and a trial at the smallest size."""
