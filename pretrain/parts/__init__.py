"""What pretraining methods are made of."""
