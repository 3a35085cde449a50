"""What was made and what stopped: found by its words, its day or its stars, rated, deleted and brought back."""
