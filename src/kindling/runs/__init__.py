"""`kindling runs`: what was trained, from the run folders alone. Imports neither torch nor Lightning."""
