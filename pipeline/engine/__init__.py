"""What training and scoring compute with: cases, device and precision, weights, losses."""
